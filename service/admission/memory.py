"""How many bytes the requests that were accepted and are not finished may hold."""

from service.errors import MemoryFull


class Memory:
    """Bytes of uploads and starting points that open requests hold, up to ``most``; used on the event loop only."""

    def __init__(self, most: int) -> None:
        self.reserved = 0
        self._most = most

    def reserve(self, size: int) -> "Reservation":
        """Count ``size`` bytes until they are released. Raises MemoryFull when there would be too many."""
        if self.reserved + size > self._most:
            raise MemoryFull(self.reserved, self._most)
        self.reserved += size
        return Reservation(self, size)


class Reservation:
    """The bytes of one request."""

    def __init__(self, memory: Memory, size: int) -> None:
        self._memory, self._size = memory, size

    def resize(self, size: int) -> None:
        """It now holds ``size`` bytes: fewer once uploads are decoded. What grows is not refused any more."""
        self._memory.reserved += size - self._size
        self._size = size

    def release(self) -> None:
        """It holds nothing any more."""
        self.resize(0)
