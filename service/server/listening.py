"""How listening sockets end: nobody whose connection the kernel has made is left without an answer."""

import array
import socket
import struct
from contextlib import suppress

#: From Linux's asm-generic/socket.h.
_SO_ATTACH_FILTER = 26

#: A classic BPF program (operation, jump if true, jump if false, operand): drop a packet that has SYN and not ACK among
#: the flags, which are the 14th byte of a TCP header, and pass all others.
_DROP_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def refuse_new(listener: socket.socket) -> None:
    """Have the kernel ignore new clients of ``listener``; those that it has answered can still be accepted.

    Closing a listening socket resets connections that were made and not accepted. Between the last `accept` and `close`
    there would always be some. An ignored client asks again within a second, and is refused then. No effect outside
    Linux.
    """
    program = array.array("B", b"".join(struct.pack("HBBI", *each) for each in _DROP_SYN))
    address, _ = program.buffer_info()
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), address))
