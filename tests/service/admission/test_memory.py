import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.memory import Memory
from service.errors import MemoryFull


def test_no_more_is_held_than_the_bound() -> None:
    memory = Memory(100)
    first = memory.reserve(60)
    with pytest.raises(MemoryFull) as rejection:
        memory.reserve(41)
    assert rejection.value.status == 503
    assert rejection.value.retry_after_s in {1, 2}
    second = memory.reserve(40)
    first.resize(10)
    memory.reserve(50)
    second.release()
    second.release()
    assert memory.reserved == 60


@given(sizes=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 80)), max_size=20))
def test_what_is_released_is_held_no_more(sizes: list[tuple[int, int]]) -> None:
    memory, held = Memory(300), []
    for size, later in sizes:
        try:
            held.append(memory.reserve(size))
        except MemoryFull:
            continue
        held[-1].resize(later)
    for each in held:
        each.release()
    assert memory.reserved == 0


def test_growth_is_refused_beyond_the_bound_and_what_is_held_stays() -> None:
    memory = Memory(100)
    first, second = memory.reserve(0), memory.reserve(30)
    first.grow(70)
    with pytest.raises(MemoryFull):
        first.grow(71)
    second.release()
    first.grow(100)
    assert memory.reserved == 100
    first.release()
    assert memory.reserved == 0
