"""Signs of life of one process's threads, in a file that the process and its supervisor map into memory.

A write costs the thread a fraction of a microsecond and no system call, and the supervisor reads without asking the
process, which may hang. Every value is one aligned 8-byte word, so that a process killed between two writes leaves a
file that can be read. Times are nanoseconds of CLOCK_MONOTONIC, which is common to all processes of a machine.
"""

import mmap
import os
import struct
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Self

_MAGIC = int.from_bytes(b"beat0001", "little")
_HEADER = struct.Struct("3q")  # magic, threads, most_rows
_HEADER_WORDS = 8

MOST_THREADS = 256
MOST_ROWS = 65_536

# The words of a thread's slot.
_COUNT, _BEGUN, _ALIVE, _ALLOWED, _LONGEST, _ROWS = range(6)
_WORDS_OF_A_CACHE_LINE = 8

#: Numbers above are damage: 2**62 ns are 146 years.
_LATEST_NS = 1 << 62


def _slot_words(most_rows: int) -> int:
    """Words of a slot: whole cache lines, so that threads on two cores do not write to one line."""
    return -(-(_ROWS + most_rows) // _WORDS_OF_A_CACHE_LINE) * _WORDS_OF_A_CACHE_LINE


def _require(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}, must be between {lowest} and {highest}")


class Heartbeat:
    """The mapped file. A thread writes only to its own slot, ``0 <= thread < threads``; any process may read."""

    def __init__(self, memory: mmap.mmap, threads: int, most_rows: int) -> None:
        """Use ``create`` or ``open``."""
        self.threads, self.most_rows = threads, most_rows
        self._memory = memory
        self._words = memoryview(memory).cast("q")
        words = _slot_words(most_rows)
        self._slots = [_HEADER_WORDS + words * thread for thread in range(threads)]
        self._rows = [self._words[slot + _ROWS : slot + _ROWS + most_rows] for slot in self._slots]
        self._packers: dict[int, Callable[..., None]] = {}

    @classmethod
    def create(cls, path: Path, threads: int, most_rows: int) -> Self:
        """A new file at ``path`` for 1 to 256 threads that hold 0 to 65,536 rows each.

        Raises ValueError for other numbers, FileExistsError if there is such a file, OSError if it cannot be written.
        """
        _require("threads", threads, 1, MOST_THREADS)
        _require("most_rows", most_rows, 0, MOST_ROWS)
        size = 8 * (_HEADER_WORDS + threads * _slot_words(most_rows))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Written out: a full file system is an error here, and not a signal at some later write to the memory.
            os.write(descriptor, bytes(size))
            memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        _HEADER.pack_into(memory, 0, _MAGIC, threads, most_rows)
        return cls(memory, threads, most_rows)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file that ``create`` made, in another process. Raises ValueError if it is another file, or OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size < _HEADER.size:
                raise ValueError(f"{path} is not a heartbeat file")
            memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        magic, threads, most_rows = _HEADER.unpack_from(memory)
        if magic != _MAGIC or len(memory) != 8 * (_HEADER_WORDS + threads * _slot_words(most_rows)):
            memory.close()
            raise ValueError(f"{path} is not a heartbeat file of this version")
        return cls(memory, threads, most_rows)

    def close(self) -> None:
        """Unmap the file. It stays where it is."""
        for view in (*self._rows, self._words):
            view.release()
        self._memory.close()

    # Written by the process's threads.

    def begin(self, thread: int, rows: Sequence[int] = (), allowed_s: float = 0.0) -> None:
        """A piece of work begins now and holds ``rows``: up to ``most_rows`` numbers of 64 bits, which ``array("q")``
        copies fastest.

        ``allowed_s`` is for work that may take long, such as loading a model: the thread counts as silent only from
        that many seconds on, and the work does not count for ``longest_s``. Raises ValueError for too many rows.
        """
        slot, count = self._slots[thread], len(rows)
        if count:
            if count > self.most_rows:
                raise ValueError(f"a piece of work holds {count} rows, at most {self.most_rows} fit")
            self._words[slot + _COUNT] = 0  # first: else a process killed here leaves a mixture of old and new rows
            if type(rows) is array:
                self._rows[thread][:count] = rows
            else:
                (self._packers.get(count) or self._new_packer(count))(self._memory, 8 * (slot + _ROWS), *rows)
        now, allowed = monotonic_ns(), int(allowed_s * 1e9) if allowed_s else 0
        self._write_state(slot, count, now, now + allowed, allowed)

    def end(self, thread: int) -> None:
        """The piece of work that began last is done; its rows are no longer inside."""
        slot, words, now = self._slots[thread], self._words, monotonic_ns()
        begun = words[slot + _BEGUN]
        if begun and not words[slot + _ALLOWED] and now - begun > words[slot + _LONGEST]:
            words[slot + _LONGEST] = now - begun
        self._write_state(slot, 0, 0, now, 0)

    def idle(self, thread: int) -> None:
        """The thread waits for work: call this at least once a second."""
        self._words[self._slots[thread] + _ALIVE] = monotonic_ns()

    def _write_state(self, slot: int, count: int, begun: int, alive: int, allowed: int) -> None:
        # Word by word: struct.pack_into writes zeros first, and a process stopped at that moment would be a process
        # without a sign of life, which the supervisor does not replace.
        words = self._words
        words[slot + _BEGUN], words[slot + _ALIVE], words[slot + _ALLOWED] = begun, alive, allowed
        words[slot + _COUNT] = count  # last: the rows are complete

    def _new_packer(self, count: int) -> Callable[..., None]:
        # Half the time of array("q", rows), which is why there is one for each number of rows.
        self._packers[count] = struct.Struct(f"{count}q").pack_into
        return self._packers[count]

    # Read by the supervisor.

    def silent_s(self, now: float) -> float:
        """Seconds from the last sign of life to ``now`` (``time.monotonic()``), of the thread that is silent longest.

        A sign of life is ``begin``, ``end`` and ``idle``; threads that have given none yet do not count.
        """
        alive = (self._words[slot + _ALIVE] for slot in self._slots)
        # A thread with an allowance is alive until a time to come.
        return max((max(now - last / 1e9, 0.0) for last in alive if 0 < last < _LATEST_NS), default=0.0)

    @property
    def longest_s(self) -> float:
        """Seconds of the longest finished piece of work so far, without those that had an allowance of their own."""
        return max(min(max(self._words[slot + _LONGEST], 0), _LATEST_NS) for slot in self._slots) / 1e9

    def rows_inside(self) -> list[int]:
        """The rows of all pieces of work that have begun and not ended."""
        return [row for slot, rows in zip(self._slots, self._rows, strict=True) for row in self._rows_of(slot, rows)]

    def reset(self) -> None:
        """Forget the threads, before another process writes to this file. ``longest_s`` stays.

        The supervisor derives its timeout from the longest piece: without it, it would kill a new process at its first
        long forward pass.
        """
        for slot in self._slots:
            self._write_state(slot, 0, 0, 0, 0)

    def _rows_of(self, slot: int, rows: memoryview) -> list[int]:
        count = min(max(self._words[slot + _COUNT], 0), self.most_rows)
        return rows[:count].tolist()
