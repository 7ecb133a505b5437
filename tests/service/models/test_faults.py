"""Faults of one model's files: at start and at a reload that model alone is refused, with the file and the reason.

What served before keeps serving. Nothing here may block: a pipe without a writer would.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.change_errors import ModelUnusable, NoSuchVersion
from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, read_manifest
from service.contract.signature import ANYONE, signature_of
from service.models.folders import read_any_manifest
from service.models.manager import ChangeResult
from service.models.registry import load_registry
from service.settings import Settings
from tests.service.artefacts import write_diffusion
from tests.service.engine.conftest import CPU, set_golden
from tests.service.engine.running import Nan, Shifted, export, running

pytest.importorskip("cryptography", reason="signatures need the extra `sign`")

from tests.service.contract.signing import pair
from tests.service.models.not_files import directory, pipe, server_socket

OURS, OTHERS = pair(1), pair(2)

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Fault:
    """What `damage` does to the folder of a model, and what the reason must contain.

    `decode` is a network that is the fault. `signed`: the service accepts only what OURS signed.
    """

    reason: str
    damage: Callable[[Path], object]
    decode: nn.Module | None = None
    signed: bool = False


def weights_of(folder: Path) -> Path:
    return folder / read_manifest(folder).artifact.file


def manifest_of(folder: Path) -> Path:
    return folder / MANIFEST_FILE


def keep(fraction: float, less: int = 0) -> Callable[[Path], object]:
    """Cut a file."""
    return lambda path: os.truncate(path, max(0, int(fraction * path.stat().st_size) - less))


def flip(where: Callable[[Path], int]) -> Callable[[Path], object]:
    """Flip a bit, so that the size stays."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[where(path)] ^= 1
        path.write_bytes(content)

    return damage


def middle(path: Path) -> int:
    return path.stat().st_size // 2


def zip_directory(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


def link(target: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return damage


def link_to_a_copy(path: Path) -> None:
    """The right bytes, by a link: what it leads to could change unseen."""
    path.symlink_to(path.rename(path.with_name("copy")).name)


def sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


def other_weights(folder: Path) -> None:
    """The weights of another model, in a file with the right name."""
    manifest = write_diffusion(folder.parent.parent / "elsewhere", "other")
    weights_of(folder).write_bytes((folder.parent.parent / "elsewhere/other" / manifest.artifact.file).read_bytes())


def other_model(folder: Path) -> None:
    """All files of another model."""
    write_diffusion(folder.parent.parent / "elsewhere", "other")
    for path in (folder.parent.parent / "elsewhere/other").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def change(*keys: str, to: Any) -> Callable[[Path], object]:
    """Change a field of the manifest."""

    def damage(path: Path) -> None:
        fields = part = json.loads(path.read_text())
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to
        path.write_text(json.dumps(fields))

    return damage


class Raises(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        raise ValueError("no pictures today")


class WrongShape(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, 4, 4)


class OneLevel(nn.Module):
    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, 8, 8)


def nothing(folder: Path) -> None:
    """The fault is in the network."""


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "empty": ("0 bytes, but its manifest says", keep(0)),
    "one byte": ("1 bytes, but its manifest says", lambda path: path.write_bytes(b"P")),
    "half": ("bytes, but its manifest says", keep(0.5)),
    "last byte cut": ("bytes, but its manifest says", keep(1, less=1)),
    "a byte more": ("bytes, but its manifest says", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
    "terabyte": ("1099511627776 bytes, but", sparse),
    "bit of the header": ("SHA-256", flip(lambda path: 0)),
    "bit of the data": ("SHA-256", flip(middle)),
    "bit of the zip directory": ("SHA-256", flip(zip_directory)),
    "missing": ("No such file", Path.unlink),
    "link to a copy": ("a symbolic link", link_to_a_copy),
    "link to a device": ("a symbolic link", link("/dev/zero")),
    "pipe": ("not a regular file", pipe),
    "directory": ("Is a directory", directory),
    "unreadable": ("Permission denied", lambda path: path.chmod(0)),
    "socket": ("No such device", server_socket),
}
FAULTS: dict[str, Fault] = {
    name: Fault(reason, lambda folder, damage=damage: damage(weights_of(folder)))  # type: ignore[misc]
    for name, (reason, damage) in FILES.items()
} | {
    "other model's weights": Fault("bytes, but its manifest says", other_weights),
    "other model": Fault("name: other in a folder named vae", other_model),
    "wrong hash": Fault(
        "is not named by its sha256", lambda f: change("artifact", "sha256", to="0" * 64)(manifest_of(f))
    ),
    "wrong size": Fault("but its manifest says 7", lambda f: change("artifact", "size", to=7)(manifest_of(f))),
    "other schema": Fault("schema_version", lambda f: change("schema_version", to=2)(manifest_of(f))),
    "unknown field": Fault("extra", lambda f: change("extra", to=1)(manifest_of(f))),
    "path as a file": Fault("artifact.file", lambda f: change("artifact", "file", to="../x.pt")(manifest_of(f))),
    "other name": Fault("name: gan in a folder named vae", lambda f: change("name", to="gan")(manifest_of(f))),
    "other shape": Fault("decode returned float32", lambda f: change("image_shape", to=[1, 8, 9])(manifest_of(f))),
    "manifest cut": Fault("Invalid JSON", lambda f: keep(0.5)(manifest_of(f))),
    "empty manifest": Fault("Invalid JSON", lambda f: keep(0)(manifest_of(f))),
    "huge manifest": Fault("larger than 1048576 bytes", lambda f: sparse(manifest_of(f))),
    "manifest that is a pipe": Fault("not a regular file", lambda f: pipe(manifest_of(f))),
    "manifest that is a device": Fault("not a regular file", lambda f: link("/dev/zero")(manifest_of(f))),
    "deep manifest": Fault("Invalid JSON", lambda f: manifest_of(f).write_text("[" * 100_000)),
    "NaN weights": Fault("not finite", nothing, Nan()),
    "raises": Fault("no pictures today", nothing, Raises()),
    "wrong shape": Fault("decode returned float32 of shape", nothing, WrongShape()),
    "one grey level": Fault("only one grey level", nothing, OneLevel()),
    "other golden picture": Fault("differs from the golden one", lambda f: set_golden(f, change=64)),
    "unsigned": Fault("not signed", lambda f: signature_of(manifest_of(f)).unlink(), signed=True),
    "signed by another": Fault("not trusted", lambda f: OTHERS.sign(manifest_of(f)), signed=True),
    "signature cut": Fault("not a signature", lambda f: keep(0.5)(signature_of(manifest_of(f))), signed=True),
    "signature that is a pipe": Fault("not a regular", lambda f: pipe(signature_of(manifest_of(f))), signed=True),
    "changed after it was signed": Fault(
        "not the signature of manifest.json", lambda f: change("created", to="2025-01-01")(manifest_of(f)), signed=True
    ),
    "signed and damaged": Fault("SHA-256", lambda f: flip(middle)(weights_of(f)), signed=True),
}


@pytest.fixture(params=[*FAULTS.values()], ids=[*FAULTS])
def fault(request: pytest.FixtureRequest) -> Fault:
    if request.param.reason == "Permission denied" and os.geteuid() == 0:
        pytest.skip("root reads every file")
    found: Fault = request.param
    return found


@pytest.fixture
def chosen(fault: Fault, weights: Path, settings: Settings) -> Settings:
    """The settings for a fault, with the good models of the folder signed if they must be."""
    if not fault.signed:
        return settings
    for name in ("vae", "ddpm"):
        OURS.sign(manifest_of(weights / name))
    return settings.model_copy(update={"signing_keys": OURS.public, "require_signature": True})


def spoil(weights: Path, fault: Fault) -> None:
    """Replace the model vae by another version of it that has the fault."""
    shutil.rmtree(weights / "vae")
    export(weights, decode=fault.decode or Shifted(0.5))
    if fault.signed:
        OURS.sign(manifest_of(weights / "vae"))
    fault.damage(weights / "vae")


def test_at_start_that_model_alone_is_refused(fault: Fault, weights: Path, chosen: Settings) -> None:
    spoil(weights, fault)
    registry = load_registry(chosen, CPU)
    assert list(registry.served) == ["ddpm"]
    assert list(registry.refused) == ["vae"]
    assert str(weights / "vae") in registry.refused["vae"]
    assert fault.reason in registry.refused["vae"]
    assert "\n" not in registry.refused["vae"]
    assert len(registry.refused["vae"]) < 600


async def test_at_a_reload_the_version_before_keeps_serving(fault: Fault, weights: Path, chosen: Settings) -> None:
    async with running(chosen) as service:
        version, before = service.version(), await service.picture()

        async def require_refused() -> None:
            with pytest.raises(ModelUnusable) as caught:
                await service.manager.reload("vae")
            assert str(weights / "vae") in str(caught.value)
            assert fault.reason in str(caught.value)
            assert (service.version(), await service.picture()) == (version, before)
            assert await service.picture("ddpm")
            (standing,) = (each for each in await service.manager.statuses() if each.model == "vae")
            assert (standing.state, standing.problem) == ("serving", str(caught.value))

        if fault.decode is None:  # the files of the version that serves: never "unchanged"
            fault.damage(weights / "vae")
            await require_refused()
        spoil(weights, fault)
        await require_refused()


def test_a_manifest_of_another_folder_is_refused_under_the_name_of_its_own(weights: Path) -> None:
    """Else, where only manifests are read, its reason would be taken for that of the model with this name."""
    change("name", to="ddpm")(manifest_of(weights / "vae"))
    with pytest.raises(ContractError, match=r"vae/manifest\.json: name: ddpm in a folder named vae"):
        read_any_manifest(weights / "vae", ANYONE)


async def test_a_model_that_loses_its_manifest_keeps_serving(weights: Path, settings: Settings) -> None:
    """Only a folder that is gone as a whole is unloaded."""
    async with running(settings) as service:
        before, content = await service.picture(), manifest_of(weights / "vae").read_bytes()
        manifest_of(weights / "vae").unlink()
        (kept, failure) = await service.manager.reload_all()
        assert isinstance(failure, ModelUnusable)
        assert str(failure) == f"{manifest_of(weights / 'vae')}: No such file or directory"
        assert isinstance(kept, ChangeResult)
        assert kept.outcome == "unchanged"
        assert await service.picture() == before
        manifest_of(weights / "vae").write_bytes(content)
        assert (await service.manager.reload("vae")).outcome == "unchanged"
        assert service.manager.ready


@pytest.mark.parametrize("name", ["empty", "half", "missing", "pipe", "bit of the data"])
async def test_a_watch_notices_damaged_weights_behind_an_unchanged_manifest(
    weights: Path, settings: Settings, name: str
) -> None:
    reason, damage = FILES[name]
    async with running(settings) as service:
        await service.manager.follow()
        before, path = await service.picture(), weights_of(weights / "vae")
        good = path.read_bytes()
        damage(path)
        for _ in range(2):
            await service.manager.follow()
            (standing,) = (each for each in await service.manager.statuses() if each.model == "vae")
            assert (standing.state, reason in str(standing.problem)) == ("serving", True)
        assert service.sample("model_changes_total", model="vae", outcome="failed") == 1  # not at every look
        assert await service.picture() == before
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        await service.manager.follow()
        assert [each.problem for each in await service.manager.statuses()] == [None, None]


async def test_a_watch_loads_a_model_whose_weights_arrive_after_its_manifest(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        export(weights, "late")
        path = weights_of(weights / "late")
        content = path.read_bytes()
        path.unlink()
        await service.manager.follow()
        assert list(service.manager.refused) == ["late"]
        path.write_bytes(content)
        await service.manager.follow()
        assert service.manager.ready
        assert await service.picture("late")


async def test_a_signed_version_is_rolled_back_to_with_its_signature(weights: Path, settings: Settings) -> None:
    folder = weights / "vae"
    for name in ("vae", "ddpm"):
        OURS.sign(manifest_of(weights / name))
    async with running(settings.model_copy(update={"signing_keys": OURS.public, "require_signature": True})) as service:
        first, signed = service.version(), manifest_of(folder).read_bytes()
        second = export(weights)
        await service.manager.follow()
        assert service.version() == first
        OURS.sign(manifest_of(folder))
        await service.manager.follow()  # a new signature is a change too
        assert service.version() == second
        assert (await service.manager.roll_back("vae")).version == first
        assert manifest_of(folder).read_bytes() == signed
        assert (await service.manager.reload("vae")).outcome == "unchanged"
        OTHERS.sign(folder / f"manifest-{second}.json")
        with pytest.raises(NoSuchVersion, match="none"):
            await service.manager.roll_back("vae", second)
