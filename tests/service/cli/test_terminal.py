"""Commands as processes, with standard streams, arguments, variables and signals as bad as they come."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from service.cli.terminal import say
from tests.e2e.process import ROOT
from tests.service.cli.conftest import MODEL, FakeService
from tests.service.cli.test_about import INSPECTION
from tests.service.client.answers import status

SECONDS = 60
GENSERVE = (sys.executable, "-W", "error", "-m", "service.cli")
STANDING: dict[str, object] = {
    "model": "ddpm",
    "state": "serving",
    "version": "0123abcd",
    "manifest_version": "0123abcd",
    "earlier_versions": [],
    "problem": None,
    "changing": False,
}


@pytest.fixture
def everything(fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """A service, and an admin port, that answers every verb; a picture beside them."""
    fake.answers["GET /models"] = (200, [MODEL | STANDING])
    fake.answers["POST /inspect"] = (200, {**INSPECTION, "served_version": None})
    fake.answers["POST /reload"] = (200, [{"model": "ddpm", "outcome": "unchanged", "version": "a", "previous": "a"}])
    monkeypatch.setenv("GENSERVE_ADMIN_PORT", os.environ["GENSERVE_URL"].rsplit(":", 1)[1])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "one.png").write_bytes(b"a picture")
    monkeypatch.chdir(tmp_path)
    return fake


#: Every kind of answer that is printed.
VERBS = ["models", "inspect one.png", "versions", "generate ddpm -o -", "film ddpm", "--version", "-h", "generate -h"]


def run(arguments: Sequence[str | bytes], shell: str = "", **options: object) -> "subprocess.CompletedProcess[bytes]":
    """`genserve` with ``arguments``, its streams redirected as ``shell`` says."""
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *GENSERVE, *arguments]
    return subprocess.run(command, timeout=SECONDS, stdin=subprocess.DEVNULL, capture_output=True, **options)  # type: ignore[call-overload,no-any-return]


def one_line(err: bytes) -> str:
    text = err.decode()
    assert text.count("\n") == 1, text
    assert text.startswith("error: ")
    return text


@pytest.mark.parametrize("verb", VERBS)
def test_standard_output_that_is_full(everything: FakeService, verb: str) -> None:
    done = run(verb.split(), ">/dev/full")
    assert done.returncode == 1
    assert one_line(done.stderr.splitlines(keepends=True)[-1]).endswith("standard output: No space left on device\n")


@pytest.mark.parametrize("verb", VERBS)
def test_standard_output_that_is_closed(everything: FakeService, verb: str) -> None:
    done = run(verb.split(), ">&-")
    assert done.returncode == 1
    assert "standard output: " in one_line(done.stderr.splitlines(keepends=True)[-1])


@pytest.mark.parametrize("verb", VERBS)
def test_standard_output_that_nobody_reads(everything: FakeService, verb: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([*GENSERVE, *verb.split()], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGPIPE
    assert b"rror" not in err
    assert b"Traceback" not in err


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "<&- 2>&-", "<&- >&- 2>&-"])
def test_an_error_that_cannot_be_written_has_its_exit_code(everything: FakeService, stream: str) -> None:
    done = run(["inspect", "nowhere.png"], stream)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_no_file_takes_the_place_of_a_closed_stream(everything: FakeService, tmp_path: Path) -> None:
    done = run(["generate", "ddpm", "-o", "one.webp"], ">&- 2>&-")
    assert done.returncode == 1
    assert (tmp_path / "one.webp").read_bytes() == b"the file"


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "--url", b"http://\xff"],
        ["models", "--url", "http://a..b"],
        ["models", "--url", "http://127.0.0.1:65536"],
        ["inspect", b"\xff.png"],
        ["inspect", "."],
        ["generate", b"\xff"],
        ["generate", "ddpm", "--class-label", b"\xff"],
        ["generate", "ddpm", "--set", b"solver=\xff"],
        ["generate", "ddpm", "--set", b"\xff=1"],
        ["generate", "ddpm", "--set", "seed=NaN"],
        ["generate", "ddpm", "--set", "latents=" + "[" * 900 + "]" * 900],
        ["generate", "ddpm", "--guidance-scale", "nan"],
        ["generate", "ddpm", "-o", "one.png", "--set", "format=webp"],
        ["generate", "ddpm", "-o", "one.png/two.png"],
        ["generate", "ddpm", "-o", "/proc/none/two.png"],
        ["load", b"\xff"],
        ["versions", "--admin-port", "99999999"],
        ["versions", "--admin-port", "-1"],
        ["versions", "--admin-port", b"\xff"],
        ["rollback", "ddpm", b"\xff"],
    ],
)
def test_arguments(everything: FakeService, arguments: list[str | bytes]) -> None:
    done = run(arguments)
    assert done.returncode == 1
    one_line(done.stderr)


def test_what_is_not_utf_8_can_name_a_file(everything: FakeService) -> None:
    done = run(["generate", "ddpm", "-o", b"\xff.png"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"\\udcff.png: ddpm 0123abcd, seeds 7, 8, ...\n"
    assert Path(os.fsdecode(b"\xff.png")).read_bytes() == b"the file"


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:1"},
        {"all_proxy": "socks4a://x", "HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "nonsense"},
        {"NO_PROXY": "[::1", "HTTPS_PROXY": "http://["},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "wide"},
        {"SSL_CERT_DIR": "/nowhere", "NETRC": "/nowhere"},
    ],
)
def test_variables_that_are_of_no_concern_here(everything: FakeService, variables: Mapping[str, str]) -> None:
    done = run(["generate", "ddpm"], env={**os.environ, **variables})
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:1", "GENSERVE_URL": "http://there.invalid"}, "SOCKS"),
        ({"HTTP_PROXY": "nonsense://x", "GENSERVE_URL": "http://there.invalid"}, "nonsense"),
        ({"NO_PROXY": "[::1", "HTTP_PROXY": "http://x:1", "GENSERVE_URL": "http://there.invalid"}, "environment"),
        ({"SSL_CERT_FILE": "/nowhere"}, "TLS"),
        ({"SSLKEYLOGFILE": "/nowhere/keys"}, "TLS"),
        ({"TQDM_MININTERVAL": "often"}, "TQDM_"),
        ({"GENSERVE_URL": "\udcff"}, "not the address"),
        ({"GENSERVE_URL": "http://[::1"}, "not the address"),
    ],
)
def test_variables_that_cannot_be_used(everything: FakeService, variables: Mapping[str, str], says: str) -> None:
    done = run(["models"], env={**os.environ, **variables})
    assert done.returncode == 1
    assert says in one_line(done.stderr)


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("verb", ["generate", "film", "interpolate"])
def test_a_signal_cancels_the_job(everything: FakeService, verb: str, number: signal.Signals) -> None:
    everything.answers["GET /jobs/job-1"] = (200, status("running", 0.5))
    everything.answers["POST /jobs/job-1/cancel"] = (200, status("canceled"))

    def as_a_shell_has_it() -> None:  # the test's own parent may have had it ignored
        signal.signal(number, signal.SIG_DFL)

    command = [*GENSERVE, verb, "ddpm"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=as_a_shell_has_it) as process:
        until(lambda: ("GET /jobs/job-1", None) in everything.asked)
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (128 + number, b"")
    assert ("POST /jobs/job-1/cancel", None) in everything.asked


def test_a_signal_that_is_ignored_stays_so(everything: FakeService) -> None:
    everything.answers["GET /jobs/job-1"] = (200, status("running", 0.5))
    command = ["nohup", *GENSERVE, "generate", "ddpm"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: ("GET /jobs/job-1", None) in everything.asked)
        process.send_signal(signal.SIGHUP)
        everything.answers["GET /jobs/job-1"] = (200, status("succeeded", 1.0))
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0


def test_standard_input_can_be_inspected(everything: FakeService, tmp_path: Path) -> None:
    done = run(["inspect", "-"], "<one.png")
    assert done.returncode == 0
    assert done.stdout.startswith(b"ddpm 0123abcd, not served here\n")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero"):
        assert "not a regular file" in one_line(run(["inspect", name]).stderr)
        done = run(["generate", "ddpm", "--image", name])
        assert done.returncode == 2
        assert b"not a regular file" in done.stderr
    with (tmp_path / "large.png").open("wb") as large:
        large.truncate(1 << 40)
    for arguments, shell in ((["inspect", "large.png"], ""), (["inspect", "-"], "</dev/zero")):
        assert "larger than 64 MiB" in one_line(run(arguments, shell).stderr)


def test_what_a_service_says_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("error: first\nsecond \x1b[31mred\udcff\x07 caf\u00e9")
    assert capsys.readouterr().err == "error: first second \\x1b[31mred\\udcff\\x07 caf\u00e9\n"
