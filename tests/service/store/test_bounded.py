import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.bounded import BoundedStore, Bounds, Held

STEPS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 40),
        st.sampled_from("abc"),
        st.dictionaries(st.sampled_from("abcd"), st.builds(Held, st.integers(0, 3), st.integers(0, 30)), max_size=3),
    ),
    max_size=30,
)


@given(steps=STEPS, bounds=st.builds(Bounds, st.integers(1, 5), st.integers(1, 100), st.integers(1, 10).map(float)))
def test_the_oldest_of_the_largest_leave_and_only_when_they_must(
    steps: list[tuple[int, int, str, dict[str, Held]]], bounds: Bounds
) -> None:
    left: list[int] = []
    shelf: BoundedStore[int, int] = BoundedStore(bounds, left.append)
    kept: dict[int, tuple[int, float, str]] = {}
    now = 0.0

    def part(owner: str, others: dict[str, Held]) -> float:
        count, size = others.get(owner, Held())
        own = [its_size for its_size, _, its_owner in kept.values() if its_owner == owner]
        return bounds.part(Held(count + len(own), size + sum(own)))

    for key, (elapsed, size, owner, others) in enumerate(steps):
        now += elapsed
        shelf.put(key, -key, size, now, owner)
        kept[key] = size, now + bounds.keep_s, owner
        left.clear()
        total = Held(sum(each.number for each in others.values()), sum(each.size for each in others.values()))
        shelf.trim(now, total, lambda others=others: others)  # type: ignore[misc]
        for gone in left:
            _, until, its_owner = kept[gone]
            if until > now:
                # There was too much, its owner held most of those that had something, and it was the owner's oldest.
                assert not bounds.fit(
                    Held(len(kept) + total.number, sum(each[0] for each in kept.values()) + total.size)
                )
                owners = {each[2] for each in kept.values()}
                assert part(its_owner, others) == max(part(each, others) for each in owners)
                assert gone == min(each for each in kept if kept[each][2] == its_owner)
            del kept[gone]
        assert list(shelf) == [-each for each in kept]
        assert all(until > now for _, until, _ in kept.values())
        assert shelf.size == sum(each[0] for each in kept.values())
        if kept:
            assert bounds.fit(Held(len(kept) + total.number, shelf.size + total.size))


@given(
    flood=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 40)), max_size=60),
    own=st.lists(st.integers(0, 5), max_size=3),
)
def test_an_equal_part_of_the_bounds_outlasts_any_flood(flood: list[tuple[str, int]], own: list[int]) -> None:
    """Three results of at most 5 bytes are less than a fourth of 12 results or 60 bytes."""
    shelf: BoundedStore[int, str] = BoundedStore(Bounds(12, 60, 100.0))
    for key, size in enumerate(own):
        shelf.put(-key - 1, "own", size, 0.0, "good")
    for key, (owner, size) in enumerate(flood):
        shelf.put(key, owner, size, 1.0, owner)
        shelf.trim(1.0)
        assert all(shelf.get(-each - 1) == "own" for each in range(len(own)))


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
