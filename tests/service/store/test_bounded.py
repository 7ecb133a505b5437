import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.bounded import BoundedStore, Bounds


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 40), st.integers(0, 3), st.integers(0, 30)), max_size=30
    ),
    bounds=st.builds(Bounds, st.integers(1, 5), st.integers(1, 100), st.integers(1, 10).map(float)),
)
def test_the_oldest_leave_and_only_when_they_must(steps: list[tuple[int, int, int, int]], bounds: Bounds) -> None:
    left: list[int] = []
    shelf: BoundedStore[int, int] = BoundedStore(bounds, left.append)
    known: list[tuple[int, int, float]] = []
    now = 0.0
    for key, (elapsed, size, others, others_size) in enumerate(steps):
        now += elapsed
        shelf.put(key, -key, size, now)
        known.append((key, size, now + bounds.keep_s))
        shelf.trim(now, others, others_size)
        kept = [each for each in known if each[0] not in left]
        # The youngest are kept, all within bounds, and the last that left would have been too old or too much.
        assert left == [each[0] for each in known[: len(left)]]
        assert list(shelf) == [-each[0] for each in kept]
        assert all(until > now for _, _, until in kept)
        if kept:
            assert len(kept) + others <= bounds.most
            assert shelf.size + others_size <= bounds.most_bytes
        assert shelf.size == sum(size for _, size, _ in kept)


@given(sizes=st.lists(st.integers(0, 10), min_size=1, max_size=8))
def test_what_fits_stays_until_its_time(sizes: list[int]) -> None:
    shelf: BoundedStore[int, int] = BoundedStore(Bounds(len(sizes), sum(sizes), 10.0))
    for key, size in enumerate(sizes):
        shelf.put(key, key, size, 0.0)
    shelf.trim(9.9)
    assert [shelf.get(key) for key in range(len(sizes))] == list(range(len(sizes)))
    shelf.trim(10.0)
    assert len(shelf) == shelf.size == 0
    assert shelf.get(0) is None


def test_what_is_removed_leaves_room() -> None:
    left: list[str] = []
    shelf: BoundedStore[str, int] = BoundedStore(Bounds(2, 10, 1.0), left.append)
    shelf.put("a", 1, 6, 0.0)
    shelf.remove("a")
    assert (shelf.size, left) == (0, ["a"])
    shelf.put("a", 2, 10, 0.5)
    shelf.trim(1.4)
    assert shelf.get("a") == 2
    with pytest.raises(AssertionError):
        shelf.put("a", 3, 0, 1.4)
