"""The file in which API processes share what they have admitted."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.admission import shared
from service.admission.shared import LaneLoad, SharedLoad

LANES = 3
ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

Work = tuple[str, int, int, int]
WORK = st.tuples(st.sampled_from("abcd"), st.integers(1, 10**12), st.integers(0, 5000), st.integers(1, 64))


@pytest.fixture
def path(tmp_path: Path, fixed_places: None) -> Path:
    """A file for three processes."""
    path = tmp_path / "load"
    SharedLoad.create(path, 3, LANES).close()
    return path


@pytest.fixture
def three(path: Path) -> Iterator[list[SharedLoad]]:
    """Three processes with one file."""
    loads = [SharedLoad.open(path, slot) for slot in range(3)]
    yield loads
    for load in loads:
        load.close()


def everything(view: LaneLoad) -> tuple[int, int, int, int]:
    return view.admitted_ns(), view.client_ns("a"), view.rows(), view.turns(10)


def test_a_new_file_has_no_work(three: list[SharedLoad]) -> None:
    assert [everything(load.view(lane)) for load in three for lane in range(LANES)] == [(0, 0, 0, 0)] * 9


def test_a_process_sees_the_work_of_all_others_in_its_lane(three: list[SharedLoad]) -> None:
    views = [load.view(1) for load in three]
    for view, price_ns in zip(views, (1, 20, 300), strict=True):
        view.count("a", price_ns, calls=4, rows=price_ns)
    assert [everything(view) for view in views] == [
        (320, 320, 320, 4 * 320),
        (301, 301, 301, 4 * 301),
        (21, 21, 21, 4 * 21),
    ]
    assert three[0].admitted_ns(1) == [1, 20, 300]
    assert all(everything(load.view(lane)) == (0, 0, 0, 0) for load in three for lane in (0, 2))


@given(work=st.lists(st.tuples(st.integers(0, 2), WORK), max_size=20), calls=st.integers(0, 6000), order=st.randoms())
@ONCE
def test_sums_are_exact_except_clients_in_one_place_and_turns(
    three: list[SharedLoad], work: list[tuple[int, Work]], calls: int, order: Random
) -> None:
    for slot, load in enumerate(three):
        load.clear(slot)
    views = [load.view(0) for load in three]
    for slot, each in work:
        views[slot].count(*each)
    for slot, view in enumerate(views):
        others = [each for other, each in work if other != slot]
        assert view.admitted_ns() == sum(price for _, price, _, _ in others)
        assert view.rows() == sum(rows for _, _, _, rows in others)
        exact = sum(rows * min(each, calls) for _, _, each, rows in others)
        assert exact <= view.turns(calls) <= 1.21 * exact
        for client in "abcd":
            assert view.client_ns(client) >= sum(price for name, price, _, _ in others if name == client)
    order.shuffle(work)
    for slot, (client, price_ns, number, rows) in work:
        views[slot].count(client, -price_ns, number, -rows)
    assert {everything(view) for view in views} == {(0, 0, 0, 0)}


@given(calls=st.integers(1, 2**20), asked=st.integers(1, 2**20))
@ONCE
def test_turns_are_exact_for_rows_of_one_kind(three: list[SharedLoad], calls: int, asked: int) -> None:
    writer, reader = three[0].view(0), three[1].view(0)
    three[0].clear(0)
    writer.count("a", 1, calls, 3)
    assert reader.turns(asked) == 3 * min(calls, asked)


def test_a_dead_process_is_cleared_and_the_others_keep_their_work(path: Path, three: list[SharedLoad]) -> None:
    supervisor = SharedLoad(path)
    for load, lane in itertools.product(three, range(LANES)):
        load.view(lane).count("a", 7, 2, 1)
    supervisor.clear(1)
    assert [supervisor.admitted_ns(lane) for lane in range(LANES)] == [[7, 0, 7]] * 3
    assert everything(three[0].view(2)) == (7, 7, 1, 2)
    assert everything(three[1].view(2)) == (14, 14, 2, 4)
    SharedLoad.open(path, 2).close()
    assert [supervisor.admitted_ns(lane) for lane in range(LANES)] == [[7, 0, 0]] * 3
    supervisor.close()


@given(words=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=200), seed=st.integers(0, 2**32))
@ONCE
def test_whatever_a_dead_process_leaves_is_read_without_an_error(path: Path, words: list[int], seed: int) -> None:
    load = SharedLoad.open(path, 0)
    with path.open("r+b") as file:
        size = path.stat().st_size // 8
        for place, word in zip(Random(seed).sample(range(8, size), len(words)), words, strict=True):
            file.seek(8 * place)
            file.write(word.to_bytes(8, "little", signed=True))
    for lane in range(LANES):
        assert min(everything(load.view(lane))) >= 0
        assert min(load.admitted_ns(lane)) >= 0
    for slot in range(3):
        load.clear(slot)
    load.close()


def test_a_negative_sum_counts_as_nothing(three: list[SharedLoad]) -> None:
    three[0].view(0).count("a", -5, 3, -2)
    three[1].view(0).count("a", 3, 3, 1)
    assert everything(three[2].view(0)) == (3, 3, 1, 3)
    assert three[2].admitted_ns(0) == [0, 3, 0]


def test_clients_in_one_place_look_like_one_and_others_do_not(three: list[SharedLoad]) -> None:
    writer, reader = three[0].view(0), three[1].view(0)
    writer.count("victim", 5, 1, 1)
    clients = [f"10.0.{number // 256}.{number % 256}" for number in range(40 * shared.CLIENTS)]
    seen = Counter(reader.client_ns(client) for client in clients)
    assert set(seen) == {0, 5}
    assert 10 < seen[5] < 90  # one in CLIENTS


def test_nobody_knows_the_place_of_a_client_in_advance(tmp_path: Path) -> None:
    """Else a client could choose an address that shares the place of another, and have that one refused."""

    def place(name: str) -> int:
        load = SharedLoad.create(tmp_path / name, 1, 1)
        load.close()
        load = SharedLoad.open(tmp_path / name, 0)
        load.view(0).count("127.0.0.1", 1, 1, 1)
        load.close()
        content = memoryview((tmp_path / name).read_bytes()).cast("q")
        return max(index for index, word in enumerate(content) if word == 1)

    assert len({place(str(number)) for number in range(8)}) > 4


@pytest.mark.parametrize("client", ["", "::1", "fe80::1%eth0", "\udcff\x00", "é" * 1000])
def test_any_name_of_a_client_has_a_place(three: list[SharedLoad], client: str) -> None:
    three[0].view(0).count(client, 9, 1, 1)
    assert three[1].view(0).client_ns(client) == 9


@pytest.mark.parametrize(
    ("processes", "lanes", "field"), [(0, 1, "processes"), (65, 1, "processes"), (1, 0, "lanes"), (1, 257, "lanes")]
)
def test_a_file_has_a_bounded_size(tmp_path: Path, processes: int, lanes: int, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        SharedLoad.create(tmp_path / "load", processes, lanes)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_private_and_never_replaced(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 3 * LANES * 9_000
    with pytest.raises(FileExistsError):
        SharedLoad.create(path, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data + b"x" * 8,
        lambda data: b"x" + data[1:],
        lambda data: data[:8] + b"\2" + data[9:],
    ],
    ids=["cut", "header-only", "longer", "other-format", "fewer-processes"],
)
def test_another_file_is_not_opened(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="load is not a file"):
        SharedLoad.open(path, 0)


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\xff" * 4096])
def test_an_empty_file_is_not_opened(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match="load is not a file"):
        SharedLoad.open(path, 0)


def test_slots_and_lanes_that_do_not_exist(path: Path) -> None:
    for slot in (-1, 3):
        with pytest.raises(ValueError, match="slot: "):
            SharedLoad.open(path, slot)
    load = SharedLoad.open(path, 2)
    for lane in (-1, LANES):
        with pytest.raises(ValueError, match="lane: "):
            load.view(lane)
        with pytest.raises(ValueError, match="lane: "):
            load.admitted_ns(lane)
    load.close()
    load = SharedLoad(path)
    with pytest.raises(ValueError, match="slot: "):
        load.view(0)
    load.close()
