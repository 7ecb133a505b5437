"""Plots of quality against steps, time and guidance for the documentation."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.evaluate.curves import Curves, Point
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.text_curves import TITLES, TextCurves, TextPoint
from trainer.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"steps": "forward passes per image", "milliseconds": "milliseconds per image, batch 16, one thread"}
#: The panels of a text-to-image model.
PANELS = ("recall", "distance", "coverage", "copies")
TextAxis = Literal["guidance_scale", "steps"]
TEXT_AXES: dict[TextAxis, str] = {"guidance_scale": "guidance scale", "steps": "solver steps"}


def draw(curves: Curves, folder: Path) -> list[Path]:
    """Write quality-steps.png and quality-milliseconds.png to ``folder``.

    Raises EvaluationError when matplotlib is not installed.
    """
    paths = [folder / f"quality-{axis}.png" for axis in AXES]
    for path, axis in zip(paths, AXES, strict=True):
        write(path, _picture(curves, axis))
    return paths


def draw_text(curves: TextCurves, folder: Path) -> list[Path]:
    """Write <model>-guidance-scale.png and <model>-steps.png to ``folder``, each if it has two values or more.

    Raises EvaluationError when matplotlib is not installed.
    """
    paths = []
    for axis in TEXT_AXES:
        points = line_of(curves, axis)
        if len({getattr(point, axis) for point in points}) > 1:
            paths.append(folder / f"{curves.model}-{axis.replace('_', '-')}.png")
            write(paths[-1], _text_picture(curves, points, axis))
    return paths


def line_of(curves: TextCurves, axis: TextAxis) -> list[TextPoint]:
    """The points along ``axis`` at the value of the other setting that has most of them, in order."""
    other: TextAxis = "steps" if axis == "guidance_scale" else "guidance_scale"
    values = [getattr(point, other) for point in curves.points]
    if not values:
        return []
    most = max(values, key=values.count)  # the one measured first, if several have as many
    points = [point for point in curves.points if getattr(point, other) == most]
    return sorted(points, key=lambda point: float(getattr(point, axis)))


def _picture(curves: Curves, axis: str) -> bytes:
    figure = _figure(7, 4.2)
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
    return _png(figure)


def _text_picture(curves: TextCurves, points: list[TextPoint], axis: TextAxis) -> bytes:
    figure = _figure(9, 6.6)
    first = points[0]
    fixed = f"{first.steps} steps" if axis == "guidance_scale" else f"guidance scale {first.guidance_scale:g}"
    figure.suptitle(
        f"{curves.model} ({curves.version}), {fixed}; at most {curves.samples:,} images per group; "
        f"evaluator {curves.evaluator}; dotted: real images",
        fontsize=9,
    )
    ticks = sorted({getattr(point, axis) for point in points})
    for axes, name in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for colour, (group, line) in enumerate(_by_group(points)):
            xs = [getattr(point, axis) for point in line]
            axes.plot(xs, [getattr(point.scores, name) for point in line], "o-", color=f"C{colour}", label=group)
            if (real := TITLES[name][1]) is not None:
                axes.axhline(getattr(line[0].scores, real), color=f"C{colour}", linestyle=":")
        axes.set(xscale="log", xlabel=TEXT_AXES[axis], ylabel=TITLES[name][0])
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def _by_group(points: list[TextPoint]) -> Iterator[tuple[str, list[TextPoint]]]:
    for group in dict.fromkeys(point.scores.group for point in points):
        yield group, [point for point in points if point.scores.group == group]


def _figure(width: float, height: float) -> "Figure":
    """A matplotlib figure in inches, without a window system."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as failure:
        raise EvaluationError("the plots need matplotlib: pip install 'genserve[train]'") from failure
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _x(point: Point, axis: str) -> float:
    return point.steps if axis == "steps" else point.milliseconds
