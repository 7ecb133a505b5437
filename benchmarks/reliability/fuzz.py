"""R3: random requests by the service's own document, and random bytes that resemble HTTP, with every method."""

import asyncio
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import uvloop
from pydantic_core import from_json

from benchmarks.attacks.watch import Demand, Watch, watching
from benchmarks.reliability.bench import Form
from benchmarks.reliability.malformed_inputs import by_class
from benchmarks.reliability.raw import Reply, exchange, request

#: Cases of schemathesis that there must be at least; examples for each operation; and the phases.
CASES, EXAMPLES = (10_000, 200), (220, 6)
QUICK_PHASES = ("--phases", "examples,fuzzing,stateful")
LONGEST_S = 3600

#: Names that random text would hardly hit, so that most requests be accepted; the others are errors to be found.
CONFIG = """
[dictionaries]
models = {{values = {models}}}
versions = {{values = {versions}}}
prompts = {{values = ["", "0", "bag"]}}

[parameters]
"path.model" = {{dictionary = "models", probability = 0.9}}
"path.name" = {{dictionary = "models", probability = 0.9}}
"path.version" = {{dictionary = "versions", probability = 0.9}}
"body.model" = {{dictionary = "models", probability = 0.9}}
"body.prompt" = {{dictionary = "prompts", probability = 0.9}}

# A timeout of a millisecond is a valid field, and these are its documented answers.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]

# How many steps, which classes and which fields at all a picture may have depends on the model, and whether bytes are
# a picture on the bytes, and which id the last event of a job has on the job: no schema can say so.
[[operations]]
include-tag = ["images", "OpenAI", "Open Inference Protocol", "AUTOMATIC1111", "jobs"]
checks.positive_data_acceptance.enabled = false
"""

METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "PURGE",
    "BREW",
    "get",
]
#: Mutated requests for each method, in the long form and in the quick one; and the longest wait of a good client.
MUTANTS, WAIT_MS = (400, 20), 1000.0
GOOD = request(b"POST /generate/vae", body=b'{"seed": 3}')
_PIECES = (b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b":", b" ", b"%", b"chunked", b"content-length: 9", b"-1", b"{", b'"')


class Cases(NamedTuple):
    """What schemathesis found: requests sent, those answered against the document, and its report."""

    sent: int
    failed: int
    report: str


def measure(form: Form) -> list[Demand]:
    """Both, on one service."""
    limits = {"max_queue_ms": "1e9", "max_images": "4", "max_steps": "20", "body_timeout_s": "0.5"}
    with form.service("raise", "vae", "ddpm", **limits) as service:
        options = ("--max-examples", str(form.pick(*EXAMPLES)), *(QUICK_PHASES if form.quick else ()))
        found = schemathesis(service.port, *options)
        if found.failed:
            print(found.report)
        watch, replies = uvloop.run(_bytes(service.port, form.pick(*MUTANTS)))
        errors = service.log.read_text(errors="replace").count('"level": "error"')
    bad = sum(reply.is_server_error or (reply.status == 0 and bool(reply.head)) for reply in replies)
    return [
        Demand("cases of schemathesis short of what is demanded", max(0, form.pick(*CASES) - found.sent), 0),
        Demand(f"of {found.sent} cases answered against the document", found.failed, 0),
        Demand(f"of {len(replies)} mutated requests with a 5xx or an answer that is not HTTP", bad, 0),
        Demand("longest wait of a good client meanwhile, ms", watch.longest_ms, WAIT_MS),
        Demand("good requests that failed", watch.failed, 0),
        Demand("errors in the log", errors, 0),
    ]


def schemathesis(port: int, *options: str) -> Cases:
    """Run schemathesis against the service at ``port``."""
    address = f"http://127.0.0.1:{port}"
    with urlopen(f"{address}/models") as answer:
        models = from_json(answer.read())
    with tempfile.TemporaryDirectory(prefix="genserve-fuzz-") as folder:
        config = Path(folder, "schemathesis.toml")
        names, versions = ([model[field] for model in models] for field in ("name", "version"))
        config.write_text(CONFIG.format(models=names, versions=versions))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
        command += [f"{address}/openapi.json", "--seed", "1", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    return counted(done.returncode, done.stdout + done.stderr)


def counted(code: int, report: str) -> Cases:
    """The counts in a report. Without any, or with a bad exit code, at least one case failed."""
    found = re.search(r"(\d+) generated, (\d+) passed", report)
    sent, passed = (int(found[1]), int(found[2])) if found else (0, 0)
    return Cases(sent, max(sent - passed, int(code != 0 or found is None)), report)


async def _bytes(port: int, each: int) -> tuple[Watch, list[Reply]]:
    """Send mutated requests beside a good client."""
    async with watching(port, GOOD) as watch:
        with ThreadPoolExecutor(4) as pool:
            sending = [asyncio.wrap_future(pool.submit(exchange, port, one)) for one in mutants(each)]
            replies = await asyncio.gather(*sending)
    return watch, list(replies)


def mutants(each: int, seed: int = 0) -> list[bytes]:
    """So many requests of each method, with some bytes changed, left out, doubled or put in."""
    generator = random.Random(seed)
    bases = [b"METHOD" + one.partition(b" ")[1] + one.partition(b" ")[2] for one in _bases() if len(one) < 3000]
    return [
        mutated(generator.choice(bases).replace(b"METHOD", method.encode(), 1), generator)
        for method in METHODS
        for _ in range(each)
    ]


def _bases() -> Sequence[bytes]:
    good = [GOOD, request(b"GET /models", b"accept: */*")]
    return [*good * 50, *(one for inputs in by_class().values() for one in inputs)]


def mutated(sent: bytes, generator: random.Random) -> bytes:
    """``sent`` with up to four changes."""
    for _ in range(generator.randint(0, 4)):
        at = generator.randrange(len(sent) + 1)
        until = min(len(sent), at + generator.randint(0, 8))
        part = generator.choice([b"", sent[at:until] * 2, generator.randbytes(until - at), generator.choice(_PIECES)])
        sent = sent[:at] + part + sent[until:]
    return sent
