"""A bound on the bytes that admitted requests hold."""

from service.errors import MemoryFull


class Memory:
    """Bytes of uploads and starting latents of open requests, at most ``most``; used on the event loop only."""

    def __init__(self, most: int) -> None:
        self.reserved = 0
        self.most = most

    def reserve(self, size: int) -> "Reservation":
        """Reserve ``size`` bytes until they are released. Raises MemoryFull if there are not as many left."""
        if self.reserved + size > self.most:
            raise MemoryFull(self.reserved, self.most)
        self.reserved += size
        return Reservation(self, size)


class Reservation:
    """The bytes of one request."""

    def __init__(self, memory: Memory, size: int) -> None:
        self._memory, self._size = memory, size

    def resize(self, size: int) -> None:
        """Change it to ``size`` bytes: fewer once uploads are decoded. Growth is counted, never rejected."""
        self._memory.reserved += size - self._size
        self._size = size

    def grow(self, size: int) -> None:
        """Change it to ``size`` bytes. Raises MemoryFull if there are not as many left."""
        held, most = self._memory.reserved, self._memory.most
        if held + size - self._size > most:
            raise MemoryFull(held, most)
        self.resize(size)

    def release(self) -> None:
        """Return all of it; may be repeated."""
        self.resize(0)
