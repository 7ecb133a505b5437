"""The figure of step batching is that of its schedules."""

from hypothesis import given
from hypothesis import strategies as st

from scripts.step_batching_figure import FIGURE, Request, figure, passes

requests = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8)), min_size=1, max_size=5).map(
    lambda found: [Request(str(i), at, steps, "#000000") for i, (at, steps) in enumerate([(0, 3), *found])]
)


def test_the_figure_is_current() -> None:
    assert FIGURE.read_text() == figure(), "run python -m scripts.step_batching_figure"


@given(requests)
def test_every_request_gets_its_steps(some: list[Request]) -> None:
    for by_step in (False, True):
        found = passes(some, by_step=by_step)
        for request in some:
            mine = [index for index, batch in enumerate(found) if request in batch]
            assert len(mine) == request.steps
            assert mine[0] >= request.arrives


@given(requests)
def test_by_step_nobody_waits(some: list[Request]) -> None:
    found = passes(some, by_step=True)
    for request in some:
        first = next(index for index, batch in enumerate(found) if request in batch)
        assert first == request.arrives
