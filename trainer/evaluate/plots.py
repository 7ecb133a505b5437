"""Plots of quality against steps and time for the documentation."""

import io
from pathlib import Path

from trainer.evaluate.curves import Curves, Point
from trainer.evaluate.errors import EvaluationError
from trainer.files import write

AXES = {"steps": "forward passes per image", "milliseconds": "milliseconds per image, batch 16, one thread"}


def draw(curves: Curves, folder: Path) -> list[Path]:
    """Write quality-steps.png and quality-milliseconds.png to ``folder``.

    Raises EvaluationError when matplotlib is not installed.
    """
    paths = [folder / f"quality-{axis}.png" for axis in AXES]
    for path, axis in zip(paths, AXES, strict=True):
        write(path, _picture(curves, axis))
    return paths


def _picture(curves: Curves, axis: str) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as failure:
        raise EvaluationError("the plots need matplotlib: pip install 'genserve[train]'") from failure
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for model in dict.fromkeys(point.model for point in curves.points):
        points = [point for point in curves.points if point.model == model]
        axes.plot(
            [_x(point, axis) for point in points], [point.frechet_distance for point in points], "o-", label=model
        )
    axes.axhline(curves.floor, color="grey", linestyle=":", label="real training images")
    axes.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel="Frechet distance (classifier features)")
    axes.set_title(f"{curves.samples:,} images per point, against {curves.reference}; {curves.device}", fontsize=9)
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _x(point: Point, axis: str) -> float:
    return point.steps if axis == "steps" else point.milliseconds
