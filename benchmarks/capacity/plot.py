"""The plot of docs/SCALING.md."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.capacity.balance import LOADS, MIX, REPLICAS, Balanced, by_way

PICTURE = Path("docs/pictures/balance.png")


def draw(found: Sequence[Balanced], path: Path = PICTURE) -> None:
    """The p99 of the shortest and of the longest requests by load, a line for each way to balance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Simulated: {REPLICAS} replicas, requests of {', '.join(map(str, MIX))} steps", fontsize=10)
    panels = figure.subplots(1, 2)
    for axes, steps in zip(panels, (min(MIX), max(MIX)), strict=True):
        for way, points in by_way(found).items():
            axes.plot(
                [100 * each.load for each in points], [each.p99_ms[steps] / 1000 for each in points], "o-", label=way
            )
        axes.set(xlabel="load, % of what full ticks compute", ylabel="s", title=f"p99 of {steps:,} steps")
        axes.set_xticks([100 * load for load in LOADS])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
