"""The curl commands in the documents."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
HOST = "localhost:8000"


class Curl(NamedTuple):
    """One request: ``path`` without its query."""

    method: str
    path: str


def blocks_of(document: Path) -> list[str]:
    """The indented blocks of a document that have a curl in them, as scripts."""
    found = re.findall(r"(?:^    .*\n)+", document.read_text(), flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found if "curl " in block]


def curls_of(script: str) -> Iterator[Curl]:
    """The requests that a script makes. ``$job`` is the path of a job."""
    for line in script.replace("\\\n", " ").splitlines():
        if "curl " in line:
            words = shlex.split(line[line.index("curl ") :].removesuffix(")"))
            yield read_curl(words)


def read_curl(words: list[str]) -> Curl:
    """The request of one command."""
    url = next(word for word in words if word.startswith(HOST))
    sends = {"-d", "-F", "--data-binary"} & set(words)
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if sends else "GET"
    return Curl(method, url.removeprefix(HOST).replace("$job", "/jobs/an-id").partition("?")[0])
