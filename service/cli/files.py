"""Files that commands upload."""

import stat
import sys
from pathlib import Path

from service.cli.terminal import CommandError

#: Maximum file size: no service accepts more, and a larger file would fill the memory.
MOST_BYTES = 64 << 20


def read_input(name: str) -> bytes:
    """The bytes of the file ``name``, or of standard input for "-". Raises CommandError."""
    try:
        content = sys.stdin.buffer.read(MOST_BYTES + 1) if name == "-" else _read_regular(Path(name))
    except OSError as failure:
        raise CommandError(f"{name}: {failure.strerror or failure}") from None
    if len(content) > MOST_BYTES:
        raise CommandError(f"{name}: larger than {MOST_BYTES >> 20} MiB")
    return content


def _read_regular(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a named pipe could block forever
        raise CommandError(f"{path}: not a regular file; - is standard input")
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)
