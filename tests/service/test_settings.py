import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.__main__ import main, refusal
from service.access.keys import line_of
from service.settings import Settings
from service.settings.texts import GROUPS, variable


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of ours, and a working folder with the weights that are the default."""
    for name in [name for name in os.environ if name.upper().startswith("GENSERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    return tmp_path


def test_defaults_listen_on_loopback_and_find_the_weights() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, "auto")
    assert (settings.admin_port, settings.watch_s) == (None, 0)
    assert settings.weights_dir == Path("weights")
    assert settings.table_rows > settings.max_bucket
    assert settings.max_megapixels == 4


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("GENSERVE_HOST", "0.0.0.0", "0.0.0.0"),
        ("GENSERVE_PORT", "9000", 9000),
        ("GENSERVE_PORT", "0", 0),
        ("GENSERVE_ADMIN_PORT", "8001", 8001),
        ("GENSERVE_WATCH_S", "2", 2.0),
        ("GENSERVE_PUBLIC_URL", "https://example.org:8443", "https://example.org:8443"),
        ("GENSERVE_PUBLIC_URL", "http://[::1]/", "http://[::1]"),
        ("GENSERVE_ROOT_PATH", "/pictures/", "/pictures"),
        ("GENSERVE_FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1", "10.0.0.0/8, ::1"),
        ("GENSERVE_FORWARDED_ALLOW_IPS", "*", "*"),
        ("GENSERVE_KEEP_ALIVE_S", "0.5", 0.5),
        ("GENSERVE_WEIGHTS_DIR", ".", Path()),
        ("GENSERVE_DEVICE", "cpu", "cpu"),
        ("GENSERVE_ENGINE_THREADS", "3", 3),
        ("GENSERVE_TABLE_ROWS", "512", 512),
        ("GENSERVE_MAX_BUCKET", "16", 16),
        ("GENSERVE_DETERMINISTIC", "true", True),
        ("GENSERVE_CLIENT_SHARE", "0.25", 0.25),
        ("GENSERVE_CLIENT_SHARE", "1", 1.0),
        ("GENSERVE_TICK_BUDGET_MS", "12.5", 12.5),
        ("GENSERVE_MAX_QUEUE_MS", "1e4", 10_000.0),
        ("GENSERVE_REQUEST_TIMEOUT_S", "5", 5.0),
        ("GENSERVE_DRAIN_S", "2", 2.0),
        ("GENSERVE_MAX_IMAGES", "8", 8),
        ("GENSERVE_MAX_STEPS", "50", 50),
        ("GENSERVE_MAX_MEGAPIXELS", "0.5", 0.5),
        ("GENSERVE_MAX_BODY_BYTES", "1024", 1024),
        ("GENSERVE_LOG_LEVEL", "debug", "debug"),
        ("GENSERVE_LOG_FORMAT", "text", "text"),
        ("genserve_port", "9001", 9001),
    ],
)
def test_a_variable_replaces_a_default(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, expected: object
) -> None:
    monkeypatch.setenv(variable, text)
    field = variable.removeprefix("GENSERVE_").removeprefix("genserve_").lower()
    settings = Settings()
    assert getattr(settings, field) == expected
    unchanged = Settings.model_fields.keys() - {field}
    monkeypatch.delenv(variable)
    assert settings.model_dump(include=unchanged) == Settings().model_dump(include=unchanged)


def test_the_root_path_is_that_of_the_public_url() -> None:
    assert Settings().root_path == Settings(public_url="https://example.org/").root_path == ""
    published = Settings(public_url="https://example.org/a/b/")
    assert (published.public_url, published.root_path) == ("https://example.org/a/b", "/a/b")
    assert Settings(public_url="https://example.org/a", root_path="/a").root_path == "/a"
    with pytest.raises(ValidationError, match="not the path of GENSERVE_PUBLIC_URL"):
        Settings(public_url="https://example.org/a", root_path="/b")


def test_idle_connections_outlive_the_pools_of_proxies() -> None:
    assert Settings().keep_alive_s > 60


WRONG = [
    ("PUBLIC_URL", "example.org"),
    ("PUBLIC_URL", "ftp://example.org"),
    ("PUBLIC_URL", "https://example.org/?a"),
    ("PUBLIC_URL", "https://user@example.org"),
    ("PUBLIC_URL", "https://example.org/a\r\nb"),
    ("ROOT_PATH", "pictures"),
    ("ROOT_PATH", "//pictures"),
    ("FORWARDED_ALLOW_IPS", "proxy"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
    ("FORWARDED_ALLOW_IPS", "127.0.0.1,*"),
    ("KEEP_ALIVE_S", "0"),
    ("PORT", "http"),
    ("PORT", "-1"),
    ("PORT", "65536"),
    ("PORT", ""),
    ("WEIGHTS_DIR", "nowhere"),
    ("DEVICE", "tpu"),
    ("DEVICE", "cuda:0"),
    ("ENGINE_THREADS", "-1"),
    ("ENGINE_THREADS", "257"),
    ("TABLE_ROWS", "0"),
    ("TABLE_ROWS", "4097"),
    ("MAX_BUCKET", "0"),
    ("MAX_BUCKET", "1.5"),
    ("TICK_BUDGET_MS", "0"),
    ("DETERMINISTIC", "perhaps"),
    ("CLIENT_SHARE", "0"),
    ("CLIENT_SHARE", "1.01"),
    ("MAX_QUEUE_MS", "-1"),
    ("MAX_QUEUE_MS", "inf"),
    ("REQUEST_TIMEOUT_S", "nan"),
    ("REQUEST_TIMEOUT_S", "inf"),
    ("DRAIN_S", "inf"),
    ("DRAIN_S", "ten"),
    ("MAX_IMAGES", "1025"),
    ("MAX_STEPS", "0"),
    ("MAX_MEGAPIXELS", "-4"),
    ("MAX_BODY_BYTES", "64k"),
    ("LOG_LEVEL", "loud"),
    ("LOG_FORMAT", "xml"),
    ("ADMIN_PORT", "65536"),
    ("WATCH_S", "-1"),
    ("ALLOWED_HOSTS", "example.org:80"),
    ("ALLOWED_HOSTS", "https://example.org"),
    ("CORS_ORIGINS", "example.org"),
    ("CORS_ORIGINS", "https://example.org/"),
    ("CORS_ORIGINS", "https://user@example.org"),
    ("CLIENT_STREAMS", "0"),
    ("ALLOW_ANONYMOUS", "perhaps"),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_wrong_value_stops_the_service_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    monkeypatch.setenv(f"GENSERVE_{name}", text)
    monkeypatch.setattr(sys, "argv", ["python -m service"])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: GENSERVE_{name}: ")


def test_every_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENSERVE_PORT", "http")
    monkeypatch.setenv("GENSERVE_DEVICE", "tpu")
    monkeypatch.setattr(sys, "argv", ["python -m service"])
    assert main() == 2
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "GENSERVE_PORT",
        "GENSERVE_DEVICE",
    ]


EXPOSED = ["0.0.0.0", "::", "", "192.168.1.5", "example.org"]


@pytest.mark.parametrize("host", EXPOSED)
def test_an_address_that_others_reach_needs_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.setenv("GENSERVE_HOST", host)
    monkeypatch.setattr(sys, "argv", ["python -m service"])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: GENSERVE_HOST: ")
    assert all(name in line for name in ("GENSERVE_API_KEYS_FILE", "genserve key new", "GENSERVE_ALLOW_ANONYMOUS=true"))


@pytest.mark.parametrize("host", EXPOSED)
def test_or_that_anonymous_requests_are_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    assert refusal(Settings(host=host, allow_anonymous=True)) is None
    keys = tmp_path / "keys.toml"
    keys.write_text(line_of("alice", "secret", ["generate"]))
    assert refusal(Settings(host=host, api_keys_file=keys)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert refusal(Settings(host=host)) is None


def test_a_broken_file_of_keys_stops_the_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m service"])
    for content in ("alice = ", ""):
        (tmp_path / "keys.toml").write_text(content)
        monkeypatch.setenv("GENSERVE_API_KEYS_FILE", "keys.toml")
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: GENSERVE_API_KEYS_FILE: keys.toml: ")


def test_settings_have_texts_in_groups() -> None:
    texts = list(Settings.texts())
    assert [name for name, _ in groupby(each.group for each in texts)] == list(GROUPS)
    assert sorted(each.variable for each in texts) == sorted(variable(name) for name in Settings.model_fields)
    assert all(each.meaning.endswith(".") and each.change.endswith(".") for each in texts)
    units = {"s", "ms", "bytes", "megapixels"}
    for each in texts:
        suffix = each.variable.rsplit("_", 1)[1].lower()
        assert each.unit == suffix or suffix not in units


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_other_variables_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "HOST", "DEVICE"):
        monkeypatch.setenv(name, "7")
    assert (Settings().port, Settings().host) == (8000, "127.0.0.1")


def run_service(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=root,
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_setting_with_its_texts() -> None:
    result = run_service("--help")
    assert (result.returncode, result.stderr) == (0, "")
    words = " ".join(result.stdout.split())
    for each in Settings.texts():
        assert f"{each.variable} (default: {each.default}" in words
        assert f"{each.meaning} When to change: {each.change}" in words
    assert max(len(line) for line in result.stdout.splitlines()) <= 120
    assert "GENSERVE_PORT=9000 python -m service" in result.stdout


def test_a_wrong_variable_is_exit_code_2() -> None:
    result = run_service(GENSERVE_PORT="http", GENSERVE_WEIGHTS_DIR="/")
    assert result.returncode == 2
    assert result.stderr.startswith("error: GENSERVE_PORT: ")
    assert "Traceback" not in result.stderr


def test_the_command_takes_no_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m service", "--port", "9000"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--port" in capsys.readouterr().err
