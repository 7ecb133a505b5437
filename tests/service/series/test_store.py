from pathlib import Path

import pytest

from service.series.block import BLOCK_BYTES
from service.series.store import Store

VAE = ("vae",)


def test_processes_see_each_others_numbers(tmp_path: Path) -> None:
    one, other = Store(tmp_path, "api-0"), Store(tmp_path, "api-1")
    one.own("images", VAE, 1)[0] = 3
    other.own("images", VAE, 1)[0] = 4
    for store in (one, other):
        store.sync()
        (cells,) = store.series("images").values()
        assert {slot: cell[0] for slot, cell in cells.items()} == {"api-0": 3, "api-1": 4}


def test_a_process_continues_the_numbers_of_its_slot(tmp_path: Path) -> None:
    Store(tmp_path, "engine-0").own("images", VAE, 1)[0] = 7
    assert Store(tmp_path, "engine-0").own("images", VAE, 1)[0] == 7
    assert Store(tmp_path, "engine-1").own("images", VAE, 1)[0] == 0


def test_a_store_without_a_folder_is_alone(tmp_path: Path) -> None:
    Store(tmp_path, "api-0").own("images", VAE, 1)[0] = 7
    alone = Store()
    alone.own("images", VAE, 1)[0] = 1
    Store().sync()
    assert [cell[0] for cells in alone.series("images").values() for cell in cells.values()] == [1]


def test_series_that_are_only_asked_for_are_not_there() -> None:
    store = Store()
    assert store.everywhere("images", VAE) == {}
    assert store.series("images") == {}


@pytest.mark.parametrize("shared", [True, False])
def test_a_full_block_is_followed_by_another(tmp_path: Path, shared: bool) -> None:
    store = Store(tmp_path, "api-0") if shared else Store()
    size = BLOCK_BYTES // 8 // 3
    cells = [store.own("images", (str(number),), size) for number in range(5)]
    for number, cell in enumerate(cells):
        cell[size - 1] = number
    reader = Store(tmp_path, "api-1") if shared else store
    read = {
        labels: cells["api-0" if shared else "service"][size - 1] for labels, cells in reader.series("images").items()
    }
    assert read == {(str(number),): number for number in range(5)}
    again = Store(tmp_path, "api-0") if shared else store
    assert again.own("images", ("4",), size)[size - 1] == 4


def test_a_series_larger_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than a block"):
        Store().own("images", VAE, BLOCK_BYTES)


@pytest.mark.parametrize("slot", ["", "API-0", "0", "api.0", "../api", "a" * 64, "api_0"])
def test_a_bad_slot_is_refused(tmp_path: Path, slot: str) -> None:
    with pytest.raises(ValueError, match="slot: "):
        Store(tmp_path, slot)


@pytest.mark.parametrize("content", [b"", bytes(BLOCK_BYTES - 8), b"\xff" * BLOCK_BYTES])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "api-7.0000.metrics").write_bytes(content)
    with pytest.raises(ValueError, match=r"api-7\.0000\.metrics: not a block of metrics"):
        Store(tmp_path, "api-0")


def test_a_file_that_is_being_made_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "api-7.0000.metrics.new").write_bytes(b"")
    assert Store(tmp_path, "api-0").series("images") == {}


def test_a_folder_without_room_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path, "api-0")
    tmp_path.rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.own("images", VAE, 1)
