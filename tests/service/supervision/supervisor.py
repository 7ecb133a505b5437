"""A supervisor to be killed: `python -m tests.service.supervision.supervisor`.

It prints the numbers of its children and of their fork server, then answers each line of standard input by a child.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from service.supervision.child import Child, prepare
from tests.service.supervision import targets


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def main() -> None:
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    prepare(["tests.service.supervision.targets"])
    echo, hangs, stopped = [
        await Child.start("genserve-test", target) for target in (targets.echo, targets.hold_interpreter, targets.echo)
    ]
    for child in (echo, hangs, stopped):
        await child.receive()
    os.kill(stopped.pid, signal.SIGSTOP)
    print(echo.pid, hangs.pid, stopped.pid, parent_of(echo.pid), flush=True)
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        echo.send(line.strip())
        another = await Child.start("genserve-test", targets.leave, 5)
        print((await echo.receive()).decode(), await another.wait(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
