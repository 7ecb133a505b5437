"""The file of API keys, and the search in it."""

import hmac
from pathlib import Path

import msgspec
import pytest

from service.access.buckets import MOST, Buckets
from service.access.keys import (
    LONGEST,
    MOST_BYTES,
    ApiKey,
    KeyFile,
    KeyRing,
    KeysRefused,
    digest_of,
    line_of,
    new_secret,
    parse_keys,
    read_keys,
)


def key_of(name: str, secret: str, rate: float | None = None) -> ApiKey:
    return ApiKey(name, digest_of(secret), ("generate",), rate)


def test_a_new_key_is_found_by_its_line_and_not_in_it() -> None:
    secret = new_secret()
    line = line_of("alice", secret, ["generate", "metrics"], 12.5)
    assert secret not in line
    (key,) = parse_keys(line.encode())
    assert (key.name, key.scopes, key.rate_ms_per_s) == ("alice", ("generate", "metrics"), 12.5)
    found = KeyRing([key]).find(secret)
    assert found is not None
    assert found.client == "key:alice"


def test_keys_are_long_and_never_the_same() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert all(len(new_secret()) > 40 for _ in range(10))


@pytest.mark.parametrize("secret", ["", "a", "secret", "secret1 ", "Secret1", "x" * 10_000, "ÿ", "\ud800"])
def test_other_texts_are_not_found(secret: str) -> None:
    assert KeyRing([key_of("one", "secret1")]).find(secret) is None


def test_a_text_that_is_too_long_is_not_the_key_that_it_begins_with() -> None:
    long = "x" * LONGEST
    ring = KeyRing([key_of("one", long)])
    assert ring.find(long) is not None
    assert ring.find(long + "x") is None


def test_every_key_is_compared_whichever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing([key_of(f"key{number}", f"secret{number}") for number in range(5)])
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for secret in ("secret0", "secret4", "none of them"):
        compared.clear()
        ring.find(secret)
        assert compared == [32] * 5


def test_without_a_file_no_key_is_needed() -> None:
    assert not KeyRing().required
    assert KeyRing([]).required


HASH = "0" * 64


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no key"),
        (b"# nothing\n", "no key"),
        (b"alice", "Expected '='"),
        (b"alice = 1", "Expected `object`"),
        (b"alice = {}", "missing required field `sha256`"),
        (f'alice = {{ sha256 = "{HASH[1:]}", scopes = ["generate"] }}'.encode(), "sha256"),
        (f'alice = {{ sha256 = "{"A" * 64}", scopes = ["generate"] }}'.encode(), "sha256"),
        (f'alice = {{ sha256 = "{HASH}", scopes = [] }}'.encode(), "scopes"),
        (f'alice = {{ sha256 = "{HASH}", scopes = ["all"] }}'.encode(), "'all'"),
        (f'alice = {{ sha256 = "{HASH}", scopes = ["generate"], rate = 0 }}'.encode(), "rate"),
        (f'alice = {{ sha256 = "{HASH}", scopes = ["generate"], rate = nan }}'.encode(), "rate"),
        (f'alice = {{ sha256 = "{HASH}", scopes = ["generate"], more = 1 }}'.encode(), "more"),
        (f'"al ice" = {{ sha256 = "{HASH}", scopes = ["generate"] }}'.encode(), "regex"),
        ("\n".join(f'{name} = {{ sha256 = "{HASH}", scopes = ["admin"] }}' for name in "ab").encode(), "same"),
        (f'"a\\n" = {{ sha256 = "{HASH}", scopes = ["generate"] }}'.encode(), "regex"),
        (b"a = " + b"[" * 100_000, ""),
        (b"\xff", ""),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(content)
    with pytest.raises(KeysRefused) as refused:
        read_keys(path)
    assert str(path) in str(refused.value)
    assert reason in str(refused.value)


def test_the_number_of_keys_and_the_size_are_bounded(tmp_path: Path) -> None:
    lines = [line_of(f"key{number}", f"{number}", ["generate"]) for number in range(MOST + 1)]
    assert len(parse_keys("\n".join(lines[:MOST]).encode())) == MOST
    with pytest.raises(KeysRefused, match="limit is 256"):
        parse_keys("\n".join(lines).encode())
    large = tmp_path / "large"
    large.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(KeysRefused, match="larger than"):
        read_keys(large)
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(KeysRefused, match=str(missing)):
            read_keys(missing)


@pytest.mark.parametrize("name", ["", "a b", "a.b", 'a"', "a\n", "ä", "x" * 65])
def test_a_line_is_made_for_valid_names_only(name: str) -> None:
    with pytest.raises(KeysRefused):
        line_of(name, "secret", ["generate"])


def test_a_file_that_becomes_invalid_keeps_the_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(line_of("alice", "secret1", ["generate"]))
    file = KeyFile(path, Buckets())
    path.write_text("alice = ")
    with pytest.raises(KeysRefused):
        file.reload()
    assert "API keys not changed" in caplog.text
    assert file.ring.find("secret1") is not None
    path.write_text(line_of("bob", "secret2", ["generate"]))
    assert file.reload() == 1
    assert file.ring.find("secret1") is None
    assert file.ring.find("secret2") is not None


def test_a_key_keeps_its_bucket_and_a_new_one_gets_a_full_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    alice, bob, carol = (line_of(name, name, ["generate"], 100) for name in ("alice", "bob", "carol"))
    path.write_text(f"{alice}\n{bob}\n")
    file = KeyFile(path, Buckets(clock=lambda: 1))

    def left_ms(name: str) -> float:
        caller = file.ring.find(name)
        assert caller is not None
        assert caller.bucket is not None
        return caller.bucket.left_ms

    for name in ("alice", "bob"):
        caller = file.ring.find(name)
        assert caller is not None
        assert caller.bucket is not None
        caller.bucket.take(400)
    path.write_text(f"{carol}\n{bob}\n")
    file.reload()
    assert (left_ms("bob"), left_ms("carol")) == (600, 1000)


def test_keys_travel_between_processes() -> None:
    keys = [key_of("alice", "secret1", 5.0)]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(keys), type=list[ApiKey]) == keys
