"""A process that decodes pictures, one after another, under limits of its own: `python -m service.decoding.worker`.

A decoder holds the interpreter's lock (WebP), has worst cases that no header tells, and may crash: none of that may
happen to the service. The kernel ends this process when one picture takes too much processor time.
"""

import resource
import signal
import sys
from contextlib import suppress

from service.decoding.fit import TooManyPixels, decode
from service.decoding.strip import Unreadable
from service.decoding.wire import DecodeRequest, read_request, send_reply

#: Memory beside the pictures: the interpreter, Pillow, and three copies of a file.
_BASE_BYTES = 192 << 20
#: Per pixel that a picture may have: decoded, with alpha multiplied in, 16 bits a channel, and a decoder's own buffers.
_BYTES_PER_PIXEL = 64


def main(max_pixels: int, cpu_seconds: float) -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then closes the input
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ignored signals are inherited, and this one must end the process
    _limit_memory(_BASE_BYTES + _BYTES_PER_PIXEL * max_pixels)
    while (request := read_request(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # counts processor time; its signal ends the process
        _answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(request: DecodeRequest) -> None:
    out = sys.stdout.buffer
    try:
        made = decode(*request)
    except TooManyPixels as failure:
        send_reply(out, {"error": "pixels", "size": failure.size})
    except (Unreadable, MemoryError) as failure:
        send_reply(out, {"error": "unreadable", "reason": str(failure)[:200]})
    else:
        send_reply(out, {"size": made.size, "coloured": made.coloured}, made.pixels, made.alpha)


def _limit_memory(limit: int) -> None:
    with suppress(ValueError, OSError):  # a lower limit is in force, or the system has none
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
