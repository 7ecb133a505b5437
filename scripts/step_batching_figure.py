"""Draw docs/pictures/step-batching.svg: `python -m scripts.step_batching_figure`, from the root.

Three requests are batched by request and by step. The schedules are computed, so that the figure cannot be wrong.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FIGURE = Path(__file__).parents[1] / "docs" / "pictures" / "step-batching.svg"
_CELL, _LEFT, _TOP = 40, 70, 66
_FONT = 'font-family="system-ui, sans-serif" font-size="14"'


class Request(NamedTuple):
    """One picture: it arrives before the forward pass number ``arrives``, and takes ``steps`` of them."""

    name: str
    arrives: int
    steps: int
    colour: str


REQUESTS = (
    Request("A", 0, 10, "#3f6fb5"),
    Request("B", 1, 2, "#c2571a"),
    Request("C", 5, 3, "#2e7d4f"),
)


def passes(requests: Sequence[Request], *, by_step: bool) -> list[list[Request]]:
    """The requests in each forward pass. By request, a batch ends before the next one begins."""
    left = {request.name: request.steps for request in requests}
    found: list[list[Request]] = []
    batch: list[Request] = []
    while any(left.values()):
        if by_step or not any(left[each.name] for each in batch):
            batch = [each for each in requests if each.arrives <= len(found)]
        batch = [each for each in batch if left[each.name]]
        for each in batch:
            left[each.name] -= 1
        found.append(batch)
    return found


def figure(requests: Sequence[Request] = REQUESTS) -> str:
    """The figure as SVG."""
    parts = [
        ("Batched by request: B and C wait until A is done", passes(requests, by_step=False)),
        (
            "Batched by step: they join the next forward pass and leave when they are done",
            passes(requests, by_step=True),
        ),
    ]
    height = _TOP + (len(requests) + 1) * _CELL
    width = _LEFT + (max(len(found) for _, found in parts) + 2) * _CELL
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height * len(parts)}" role="img" {_FONT}>',
        f"<title>{'. '.join(title for title, _ in parts)}.</title>",
        f'<rect width="{width}" height="{height * len(parts)}" fill="#ffffff"/>',
    ]
    for index, (title, found) in enumerate(parts):
        lines += _timeline(title, found, requests, index * height)
    return "\n".join([*lines, "</svg>", ""])


def _timeline(title: str, found: list[list[Request]], requests: Sequence[Request], top: int) -> Iterator[str]:
    yield f'<text x="12" y="{top + 28}" font-weight="600" fill="#222222">{title}</text>'
    for row, request in enumerate(requests):
        y = top + _TOP + row * _CELL
        yield f'<text x="12" y="{y + 24}" fill="#222222">{request.name}</text>'
        x = _LEFT + request.arrives * _CELL
        yield f'<path d="M{x - 14} {y + 12} l10 6 l-10 6 z" fill="{request.colour}"/>'  # the arrival
        mine = [index for index, batch in enumerate(found) if request in batch]
        for step, index in enumerate(mine, start=1):
            yield _cell(_LEFT + index * _CELL, y, str(step), request.colour)
        if waited := mine[0] - request.arrives:
            ends = f'x1="{x}" y1="{y + 18}" x2="{x + waited * _CELL}" y2="{y + 18}"'
            yield f'<line {ends} stroke="{request.colour}" stroke-width="2" stroke-dasharray="4 4"/>'
    y = top + _TOP + len(requests) * _CELL + 16
    yield f'<text x="{_LEFT}" y="{y}" fill="#555555">forward passes: {len(found)}</text>'


def _cell(x: int, y: int, text: str, colour: str) -> str:
    size = _CELL - 4
    square = f'<rect x="{x}" y="{y}" width="{size}" height="{size}" rx="4" fill="{colour}"/>'
    return f'{square}<text x="{x + size // 2}" y="{y + 24}" text-anchor="middle" fill="#ffffff">{text}</text>'


if __name__ == "__main__":
    FIGURE.write_text(figure())
