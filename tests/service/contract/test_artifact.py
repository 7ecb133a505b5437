import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract.artifact import ArtifactError, read_artifact, write_artifact
from service.contract.manifest import Manifest


@pytest.fixture
def file(tmp_path: Path, payload: bytes) -> Path:
    """The artefact that the manifest names, written."""
    return tmp_path / write_artifact(tmp_path, payload).file


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.pt"))
    path.symlink_to("elsewhere.pt")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_written_artifact_reads_back(file: Path, payload: bytes, manifest: Manifest) -> None:
    assert read_artifact(file.parent, manifest.artifact) == payload


def test_written_artifact_describes_itself(tmp_path: Path, payload: bytes, manifest: Manifest) -> None:
    artifact = write_artifact(tmp_path, payload)
    assert artifact == manifest.artifact
    assert [path.name for path in tmp_path.iterdir()] == [artifact.file]


def test_earlier_artifact_stays(file: Path, payload: bytes) -> None:
    newer = write_artifact(file.parent, b"newer weights")
    assert newer.file != file.name
    assert file.read_bytes() == payload


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda path: path.write_bytes(b""), "0 bytes, but its manifest says 29"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "28 bytes, but its manifest says 29"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "30 bytes, but its manifest says 29"),
        (lambda path: path.unlink(), "No such file or directory"),
        (replace_by_link, "a symbolic link"),
        (replace_by_pipe, "not a regular file"),
        (replace_by_directory, "Is a directory"),
    ],
    ids=["empty", "truncated", "longer", "missing", "link", "pipe", "directory"],
)
def test_another_file_is_refused(file: Path, manifest: Manifest, tamper: Callable[[Path], object], reason: str) -> None:
    tamper(file)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(file.parent, manifest.artifact)
    assert str(caught.value) == f"{file}: {reason}"


def test_every_flipped_bit_is_refused(file: Path, payload: bytes, manifest: Manifest) -> None:
    for bit in range(8 * len(payload)):
        flip_bit(file, bit)
        with pytest.raises(ArtifactError, match="SHA-256"):
            read_artifact(file.parent, manifest.artifact)
        flip_bit(file, bit)
    assert read_artifact(file.parent, manifest.artifact) == payload


def test_artifact_is_read_once(file: Path, payload: bytes, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes returned are those that were hashed, also when the file changes at that moment."""
    sha256 = hashlib.sha256

    def change_while_hashing(content: bytes) -> object:
        file.write_bytes(b"x" * len(payload))
        return sha256(content)

    monkeypatch.setattr(hashlib, "sha256", change_while_hashing)
    assert read_artifact(file.parent, manifest.artifact) == payload


def test_a_disk_that_returns_other_bytes_is_detected(
    tmp_path: Path, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"other")
    with pytest.raises(ArtifactError, match="reads back"):
        write_artifact(tmp_path, payload)
    assert list(tmp_path.iterdir()) == []
