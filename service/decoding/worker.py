"""A process that decodes pictures one after another, with limits: `python -m service.decoding.worker`.

A decoder may hold the interpreter's lock (WebP), may need far more than the header suggests, and may crash: none of
that may happen to the service. The kernel ends this process if one picture takes too much processor time.
"""

import resource
import signal
import sys
from contextlib import suppress

from service.decoding.fit import TooManyPixels, decode
from service.decoding.strip import Unreadable
from service.decoding.wire import DecodeRequest, read_request, send_reply

#: Memory for the interpreter, Pillow, and three copies of a file.
_BASE_BYTES = 192 << 20
#: Memory per allowed pixel: decoded, composited, 16 bits a channel, and the decoder's buffers.
_BYTES_PER_PIXEL = 64


def main(max_pixels: int, cpu_seconds: float) -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which closes the input
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # an inherited "ignore" must not disable the limit
    _limit_memory(_BASE_BYTES + _BYTES_PER_PIXEL * max_pixels)
    while (request := read_request(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # counts processor time; the signal ends the process
        _answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(request: DecodeRequest) -> None:
    out = sys.stdout.buffer
    try:
        decoded = decode(*request)
    except TooManyPixels as failure:
        send_reply(out, {"error": "pixels", "size": failure.size})
    except (Unreadable, MemoryError) as failure:
        send_reply(out, {"error": "unreadable", "reason": str(failure)[:200]})
    else:
        send_reply(out, {"size": decoded.size, "coloured": decoded.coloured}, decoded.pixels, decoded.alpha)


def _limit_memory(limit: int) -> None:
    with suppress(ValueError, OSError):  # a lower limit is set already, or the system has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
