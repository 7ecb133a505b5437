import http.server
import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from service.cli import main

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """What an admin port answers, by method and path; an answer that is bytes is sent as it is."""
    answers: Answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, body = answers.get(f"{self.command} {self.path}", (404, {"detail": "Not Found"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("GENSERVE_ADMIN_PORT", str(server.server_port))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield answers
        server.shutdown()
        thread.join()


def changed(model: str, previous: str | None, version: str | None, outcome: str = "swapped") -> dict[str, Any]:
    return {"model": model, "outcome": outcome, "version": version, "previous": previous}


@pytest.mark.parametrize(
    ("command", "asked", "answer", "printed"),
    [
        (["load", "vae"], "POST /models/vae/load", changed("vae", None, "bb"), "vae: swapped, none -> bb\n"),
        (["reload", "vae"], "POST /models/vae/reload", changed("vae", "aa", "bb"), "vae: swapped, aa -> bb\n"),
        (["rollback", "vae"], "POST /models/vae/rollback", changed("vae", "bb", "aa"), "vae: swapped, bb -> aa\n"),
        (
            ["rollback", "vae", "aa"],
            "POST /models/vae/rollback?version=aa",
            changed("vae", "bb", "aa"),
            "vae: swapped, bb -> aa\n",
        ),
        (
            ["unload", "vae"],
            "POST /models/vae/unload",
            changed("vae", "aa", None, "unloaded"),
            "vae: unloaded, aa -> none\n",
        ),
        (["unload", "a/b"], "POST /models/a%2Fb/unload", changed("a/b", None, None), "a/b: swapped, none -> none\n"),
    ],
)
def test_a_command_is_sent_and_its_outcome_told(
    answers: Answers,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    asked: str,
    answer: dict[str, Any],
    printed: str,
) -> None:
    answers[asked] = HTTPStatus.OK, answer
    assert main(command) == 0
    assert capsys.readouterr() == (printed, "")


def test_reloading_all_tells_of_each_and_fails_with_one(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers["POST /reload"] = 207, [changed("gan", "aa", "aa", "unchanged"), {"detail": "vae: damaged", "status": 422}]
    assert main(["reload"]) == 1
    assert capsys.readouterr() == ("gan: unchanged, aa -> aa\n", "error: vae: damaged\n")


def test_versions_are_told_with_what_is_wrong(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    standing = {"model": "vae", "state": "serving", "version": "aa", "manifest_version": "bb"}
    answers["GET /models"] = (
        200,
        [
            {**standing, "earlier_versions": ["aa", "cc"], "problem": "damaged", "changing": False},
            {
                "model": "gan",
                "state": "refused",
                "version": None,
                "manifest_version": None,
                "earlier_versions": [],
                "problem": None,
                "changing": False,
            },
        ],
    )
    assert main(["versions"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "vae: serving aa, manifest: bb, earlier: aa cc",
        "  damaged",
        "gan: refused, manifest: none",
    ]


def test_a_refusal_is_one_line_and_exit_code_1(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers["POST /models/vae/load"] = 409, {"detail": "vae is served."}
    assert main(["load", "vae"]) == 1
    assert capsys.readouterr() == ("", "error: vae is served.\n")


@pytest.mark.parametrize("text", ["", "many", None])
def test_without_a_port_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    monkeypatch.delenv("GENSERVE_ADMIN_PORT", raising=False)
    if text is not None:
        monkeypatch.setenv("GENSERVE_ADMIN_PORT", text)
    assert main(["versions"]) == 1
    assert "GENSERVE_ADMIN_PORT" in capsys.readouterr().err


def test_nobody_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", "--admin-port", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no service answers on port 1: ")


def test_somebody_else_there_is_told(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    for answer in (b"<html>", [{"name": "vae"}]):  # the second as the public port does
        answers["GET /models"] = 200, answer
        assert main(["versions"]) == 1
        assert "not an admin port of genserve" in capsys.readouterr().err


def test_serving_is_what_the_module_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENSERVE_PORT", "http")
    assert main(["serve"]) == 2
    assert "GENSERVE_PORT" in capsys.readouterr().err


def test_help_shows_every_command_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "load", "reload", "rollback", "unload", "versions"):
        assert f"\n    {command} " in text
    assert "genserve rollback ddpm" in text


def test_a_command_that_is_none_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["destroy"])
    assert stop.value.code == 2
    assert "destroy" in capsys.readouterr().err
