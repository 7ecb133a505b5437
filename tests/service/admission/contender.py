"""A process that admits and releases at random: ``python -m tests.service.admission.contender PATH SLOT``.

It begins with the first line of its input, keeps what is left when it is done until the input ends, and prints how many
requests were admitted and rejected.
"""

import sys
from pathlib import Path
from random import Random

from service.admission.drain import DrainRate
from service.admission.gate import Gate, WorkRequest
from service.admission.shared import SharedLoad
from service.errors import Overloaded, ShareExceeded

LIMIT_MS = 1000.0
CLIENT_SHARE = 0.5
#: The first one sends most of the work, and meets its share.
CLIENTS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
WEIGHTS = (6, 2, 2)
#: Of the limit.
LARGEST = 0.02
OPERATIONS = 30_000


def main(path: Path, slot: int) -> None:
    gate = Gate(LIMIT_MS, CLIENT_SHARE, DrainRate(1000.0), 256, SharedLoad.open(path, slot).view(0))
    random, inside, rejected = Random(slot), list[WorkRequest](), 0
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(OPERATIONS):
        if inside and random.random() < 0.3:
            gate.release(inside.pop(random.randrange(len(inside))))
            continue
        (client,) = random.choices(CLIENTS, WEIGHTS)
        request = WorkRequest(1, 1, random.uniform(0.2, 1) * LARGEST * LIMIT_MS, client)
        try:
            gate.admit(request)
        except (Overloaded, ShareExceeded):
            rejected += 1
        else:
            inside.append(request)
    print(len(inside), rejected, flush=True)
    sys.stdin.read()
    for request in inside:
        gate.release(request)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
