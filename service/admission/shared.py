"""What several API processes have admitted, in one memory-mapped file that each of them reads.

A process writes only its own region and reads those of the others. So there is no lock, and a process that dies at any
moment blocks nobody. A number is an aligned word of 8 bytes, which x86-64 and ARM64 write and read in one piece. Two
numbers are not read at one moment: docs/decisions/0022-limits-across-api-processes.md says what that does to limits.
"""

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

#: A lane of a region, in words: the sum of prices, rows by number of calls, and prices by client. Whole cache lines, so
#: that two processes never write to the same one.
BINS = 23
CLIENTS = 1024
_ROWS = 1
_CLIENTS = 24
_LANE = _CLIENTS + CLIENTS
#: A row in its word: this, plus its calls. So one read gives both, and one addition changes both.
A_ROW = 1 << 40
#: The header, in words: format, number of processes, number of lanes, and a random key of two words.
_FORMAT = 0x67656E_6C6F6164_01
_HEADER = 8
_WORD = 8

MOST_PROCESSES = 64
MOST_LANES = 256
#: Clients whose place is remembered: the hash takes longer than the rest of an admission.
REMEMBERED = 4096


class LaneLoad:
    """Admitted work of one lane: reads that of all other processes together, and writes its own.

    Prices are whole nanoseconds of device time. A negative number, which a process that died in the middle of a change
    may leave, counts as 0.

    Clients share 1,024 places, chosen by a hash with a key that clients do not know. Two clients in one place look like
    one client to other processes, which may reject either for the work of both. For a client with little work it takes
    a place that is almost full. With a share of 0.5 at most two are full at a time: a chance of 2 in 1,024.
    """

    def __init__(
        self, words: "memoryview[int]", own: int, others: Sequence[int], place_of: Callable[[str], int]
    ) -> None:
        """``own`` and ``others`` are the first words of the lane in the regions; ``SharedLoad.view`` knows them."""
        self._words, self._own, self._others, self._place_of = words, own, tuple(others), place_of

    def admitted_ns(self) -> int:
        """The price of all work; 0 when the other processes are idle."""
        return self._sum(0)

    def client_ns(self, client: str) -> int:
        """The price of the work of ``client``, and of clients in the same place."""
        return self._sum(_CLIENTS + self._place_of(client))

    def clients(self, known: Iterable[str], without: str) -> int:
        """The number of clients with work, ``known`` ones and those of the other processes, without ``without``."""
        places = {self._place_of(client) for client in known}
        for lane in self._others:
            prices = self._words[lane + _CLIENTS : lane + _LANE].tolist()
            places.update(place for place, price in enumerate(prices) if price > 0)
        return len(places - {self._place_of(without)})

    def rows(self) -> int:
        """The number of rows."""
        return sum([self._sum(_ROWS + each) // A_ROW for each in range(BINS)])

    def turns(self, calls: int) -> int:
        """Forward passes of all rows until a row has had ``calls`` of them; up to 21 % too many, never too few.

        Rows are counted together when their calls are between the same powers of two. Exact unless ``calls`` is there
        too: then they take at most all their calls, and at most ``calls`` each.
        """
        bins = [divmod(self._sum(_ROWS + each), A_ROW) for each in range(BINS)]
        return sum([min(rows * calls, all_calls) for rows, all_calls in bins])

    def count(self, client: str, price_ns: int, calls: int, rows: int) -> None:
        """Add work of this process: ``rows`` of ``calls`` forward passes; negative price and rows take it away."""
        words, own = self._words, self._own
        words[own] += price_ns
        words[own + _CLIENTS + self._place_of(client)] += price_ns
        words[own + _ROWS + min(calls.bit_length(), BINS - 1)] += rows * (A_ROW + calls)

    def _sum(self, word: int) -> int:
        words, total = self._words, 0
        for lane in self._others:
            number = words[lane + word]
            if number > 0:
                total += number
        return total


class SharedLoad:
    """Admitted work by process and lane. The supervisor creates the file; each API process opens it with its slot.

    A lane is a small number that stands for one queue: all versions of a model have the same one. The file has 8.5 KB
    for each lane of each process.
    """

    def __init__(self, path: Path, slot: int | None = None) -> None:
        """Map the file: to read it and to clear slots; with a ``slot``, which ``open`` clears, also to admit work.

        Raises OSError if it cannot be read; ValueError if it is not such a file.
        """
        _check_file(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("q")
        _, self._processes, self._lanes = self._words[:3]
        self._slot = slot
        self._place_of = lru_cache(REMEMBERED)(_placing(bytes(self._map[3 * _WORD : 5 * _WORD])))

    @classmethod
    def create(cls, path: Path, processes: int, lanes: int) -> "SharedLoad":
        """A new file for ``processes`` slots, at most 64, and ``lanes`` lanes, at most 256, without work.

        Raises ValueError for other numbers; OSError if ``path`` exists or the disk is full.
        """
        _check("processes", processes, 1, MOST_PROCESSES)
        _check("lanes", lanes, 1, MOST_LANES)
        words = memoryview(bytearray(_size(processes, lanes))).cast("q")
        words[0], words[1], words[2] = _FORMAT, processes, lanes
        content = words.cast("B")
        content[3 * _WORD : 5 * _WORD] = os.urandom(2 * _WORD)
        # Written in full: pages of a sparse file that do not fit into /dev/shm later would end the process.
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(content)
        return cls(path)

    @classmethod
    def open(cls, path: Path, slot: int) -> "SharedLoad":
        """The file for the process with ``slot``, from 0, whose region is cleared.

        Raises OSError if it cannot be read; ValueError if it is not such a file, or has no such slot.
        """
        load = cls(path, slot)
        load.clear(slot)
        return load

    def view(self, lane: int) -> LaneLoad:
        """What the other processes admitted to ``lane``, from 0, for the gate of this process."""
        if self._slot is None:
            raise ValueError("slot: the file was opened without one")
        _check("lane", lane, 0, self._lanes - 1)
        starts = [self._start(slot, lane) for slot in range(self._processes)]
        own = starts.pop(self._slot)
        return LaneLoad(self._words, own, starts, self._place_of)

    def admitted_ns(self, lane: int) -> list[int]:
        """The price of the work that each process has admitted to ``lane``."""
        _check("lane", lane, 0, self._lanes - 1)
        return [max(0, self._words[self._start(slot, lane)]) for slot in range(self._processes)]

    def clear(self, slot: int) -> None:
        """Drop the work of ``slot``, whose process has ended: else it would block the others for ever."""
        _check("slot", slot, 0, self._processes - 1)
        start, end = self._start(slot, 0), self._start(slot + 1, 0)
        self._words[start:end] = memoryview(bytes((end - start) * _WORD)).cast("q")

    def close(self) -> None:
        """Unmap the file; views are unusable then."""
        self._words.release()
        self._map.close()

    def _start(self, slot: int, lane: int) -> int:
        return _HEADER + (slot * self._lanes + lane) * _LANE


def _size(processes: int, lanes: int) -> int:
    return (_HEADER + processes * lanes * _LANE) * _WORD


def _placing(key: bytes) -> Callable[[str], int]:
    """The place of a client in the table, by a hash with ``key``."""

    def place_of(client: str) -> int:
        digest = blake2b(client.encode(errors="surrogatepass"), digest_size=8, key=key).digest()
        return int.from_bytes(digest, "little") % CLIENTS

    return place_of


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not in {least} to {most}")


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(_HEADER * _WORD)
    size = path.stat().st_size
    if len(header) == _HEADER * _WORD:
        form, processes, lanes = memoryview(header).cast("q")[:3]
        bounded = 0 < processes <= MOST_PROCESSES and 0 < lanes <= MOST_LANES
        if form == _FORMAT and bounded and size == _size(processes, lanes):
            return
    raise ValueError(f"{path.name} is not a file of admitted work")
