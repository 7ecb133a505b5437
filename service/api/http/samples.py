"""Examples in curl, Python and JavaScript for the operations of the OpenAPI document, which its pages show."""

import json
import shlex
from collections.abc import Mapping
from textwrap import dedent
from typing import Any, NamedTuple

#: Operations with these tags get examples. Those of other protocols have clients of their own.
TAGS = frozenset({"images", "models", "jobs", "operations"})
BASE = "http://localhost:8000"

#: What stands for a parameter of a path; "vae" has an encoder and a latent map.
_VALUES = {"model": "ddpm", "name": "ddpm", "id": "JOB_ID"}
_MODEL = {"/encode/{model}": "vae", "/latent-map/{model}": "vae"}
_QUERY = {
    ("get", "/generate/{model}"): "?seed=7&class_label=sneaker&scale=8",
    ("get", "/latent-map/{model}"): "?format=png",
    ("get", "/stats"): "?window=60",
}
#: Operations whose body is a picture.
_UPLOADS = frozenset({"/encode/{model}", "/inspect"})


class Sample(NamedTuple):
    """One request. ``body`` is JSON; ``upload``: the body is a picture; ``answer`` is a media type, "" for none."""

    method: str
    url: str
    body: Mapping[str, Any] | None
    upload: bool
    answer: str

    def curl(self) -> str:
        """As a command for a shell."""
        words = ["curl", *(["-N"] if self.answer == "text/event-stream" else []), shlex.quote(self.url)]
        if self.method != "GET":
            words[1:1] = ["-X", self.method]
        if self.body is not None:
            words += ["-d", shlex.quote(json.dumps(self.body))]
        words += ["--data-binary", "@one.png"] if self.upload else []
        return " ".join([*words, *(["-o", "picture.png"] if self.answer == "image/png" else [])])

    def python(self) -> str:
        """As a program that needs the package requests."""
        sent = f", json={json.dumps(self.body)}" if self.body is not None else ""
        sent += ', data=Path("one.png").read_bytes()' if self.upload else ""
        uses = {
            "image/png": 'Path("picture.png").write_bytes(answer.content)',
            "application/json": "print(answer.json())",
        }
        needs_path = self.upload or self.answer == "image/png"
        return ("from pathlib import Path\n\n" if needs_path else "") + dedent(f"""\
            import requests

            answer = requests.{self.method.lower()}("{self.url}"{sent})
            answer.raise_for_status()
            {uses.get(self.answer, "print(answer.text)")}""")

    def javascript(self) -> str:
        """As a module for Node.js; what differs in a page is said in comments."""
        options = [f'  method: "{self.method}",\n'] if self.method != "GET" else []
        options += [f"  body: JSON.stringify({json.dumps(self.body)}),\n"] if self.body is not None else []
        options += ['  body: await openAsBlob("one.png"), // in a page: input.files[0]\n'] if self.upload else []
        sent = f", {{\n{''.join(options)}}}" if options else ""
        uses = {
            "image/png": "const picture = await answer.blob(); // in a page: image.src = URL.createObjectURL(picture)",
            "application/json": "console.log(await answer.json());",
        }
        return ('import { openAsBlob } from "node:fs";\n\n' if self.upload else "") + dedent(f"""\
            const answer = await fetch("{self.url}"{{sent}});
            if (!answer.ok) throw new Error(await answer.text());
            {uses.get(self.answer, "console.log(await answer.text());")}""").replace("{sent}", sent)


def add_samples(document: dict[str, Any]) -> None:
    """Add examples to the descriptions of the essential operations of an OpenAPI ``document``."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if TAGS & set(operation["tags"]):
                sample = sample_of(path, method, operation)
                operation["description"] += "".join(
                    f"\n\n**{name}**\n\n```{fence}\n{text}\n```"
                    for name, fence, text in (
                        ("curl", "sh", sample.curl()),
                        ("Python", "python", sample.python()),
                        ("JavaScript", "js", sample.javascript()),
                    )
                )


def sample_of(path: str, method: str, operation: Mapping[str, Any]) -> Sample:
    """The request that shows ``operation``, with its declared example as the body."""
    values = {**_VALUES, "model": _MODEL.get(path, _VALUES["model"])}
    content = operation.get("requestBody", {}).get("content", {})
    responses = operation["responses"]
    answers = responses.get("200", responses.get("204", {})).get("content", {})
    return Sample(
        method=method.upper(),
        url=f"{BASE}{path.format_map(values)}{_QUERY.get((method, path), '')}",
        body=content.get("application/json", {}).get("example"),
        upload=path in _UPLOADS,
        answer=next(iter(answers), ""),
    )
