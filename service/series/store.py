"""The numbers of all series: those of this process, and those of the others that use the same folder.

Every process writes blocks of its own and reads all of them: there is no lock between processes, and one that is killed
loses nothing that it has counted. Blocks belong to a slot, which is a role (`api-0`, `engine-1`) and not a process: a
process that replaces another continues its numbers.
"""

import json
import mmap
import os
import re
import threading
from pathlib import Path
from typing import NamedTuple

from service.series.block import BLOCK_BYTES, Block, Cell

#: The values of a series' labels.
Labels = tuple[str, ...]

#: The slot of the only process.
ONLY = "service"

_SLOT = re.compile(r"[a-z][a-z0-9-]{0,62}")
_SUFFIX = ".metrics"


class _File(NamedTuple):
    """A block, and the slot of its owner."""

    slot: str
    block: Block


class Store:
    """Arrays of doubles by metric, labels and slot.

    ``slot`` is this process's own. Without a folder the numbers are in this process's memory, and there is no other.
    """

    def __init__(self, folder: Path | None = None, slot: str = ONLY) -> None:
        """Read what the folder has. Raises OSError; ValueError for a bad name of a slot or a damaged file."""
        if not _SLOT.fullmatch(slot):
            raise ValueError(f"slot: {slot!r} is not a lower-case name of up to 63 letters, digits and hyphens")
        self.slot = slot
        #: Held while a number changes: two threads of this process may add to the same one.
        self.lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._folder = folder
        self._metrics: dict[str, dict[Labels, dict[str, Cell]]] = {}
        self._files: dict[str, _File] = {}
        self.sync()

    def sync(self) -> None:
        """Learn of series that other processes have added. Raises OSError, and ValueError for a damaged file."""
        with self._index_lock:
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder else ():
                if path.name not in self._files:
                    self._map(path)
            for name, file in self._files.items():
                self._learn(name, file)

    def own(self, metric: str, labels: Labels, size: int) -> Cell:
        """This process's array for a series: a new one is ``size`` zeros. Raises OSError if it cannot be stored."""
        with self._index_lock:
            cells = self._of(metric, labels)
            if self.slot not in cells:
                cells[self.slot] = self._add(json.dumps([metric, *labels]).encode(), size)
            return cells[self.slot]

    def everywhere(self, metric: str, labels: Labels) -> dict[str, Cell]:
        """The arrays of a series by slot; ``sync`` adds other slots to the same mapping."""
        with self._index_lock:
            return self._of(metric, labels)

    def series(self, metric: str) -> dict[Labels, dict[str, Cell]]:
        """The arrays of every series of ``metric`` by labels and slot, in the same order in every process."""
        with self._index_lock:
            known = self._metrics.get(metric, {})
            return {labels: dict(known[labels]) for labels in sorted(known) if known[labels]}

    def _of(self, metric: str, labels: Labels) -> dict[str, Cell]:
        return self._metrics.setdefault(metric, {}).setdefault(labels, {})

    def _learn(self, name: str, file: _File) -> None:
        try:
            for encoded, cell in file.block.added():
                metric, *labels = json.loads(encoded)
                self._of(metric, tuple(labels))[file.slot] = cell
        except ValueError as failure:
            raise ValueError(f"{name}: {failure}") from failure

    def _add(self, encoded: bytes, size: int) -> Cell:
        """Add to the newest of this process's blocks, or to a new one."""
        own = [file.block for file in self._files.values() if file.slot == self.slot]
        cell = own[-1].add(encoded, size) if own else None
        if cell is None:
            cell = self._new_block(len(own)).add(encoded, size)
        if cell is None:
            raise ValueError(f"a series of {size} numbers named {encoded[:80]!r} is larger than a block")
        return cell

    def _new_block(self, number: int) -> Block:
        """An empty block. Its file appears with its full size, which is written: a full disk is an error here and now.

        A hole in the file would let the kernel kill the process (SIGBUS) when it first writes there.
        """
        name = f"{self.slot}.{number:04}{_SUFFIX}"
        if self._folder is None:
            return self._keep(name, Block(bytearray(BLOCK_BYTES)))
        made = self._folder / f"{name}.new"
        made.write_bytes(bytes(BLOCK_BYTES))
        return self._map(made.rename(self._folder / name))

    def _map(self, path: Path) -> Block:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != BLOCK_BYTES:
                raise ValueError(f"{path.name}: not a block of metrics: its size is not {BLOCK_BYTES} bytes")
            return self._keep(path.name, Block(mmap.mmap(file.fileno(), BLOCK_BYTES)))

    def _keep(self, name: str, block: Block) -> Block:
        self._files[name] = _File(name.partition(".")[0], block)
        return block
