import base64
import copy
import dataclasses
import io
import math
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from service.contract.artifact import read_artifact
from service.contract.manifest import Defaults, Manifest, Score, read_history, read_manifest, write_manifest
from service.models.golden import check_golden, draw
from service.models.torchscript import load_model
from tests.trainer.conftest import FAMILIES, VARIANTS, FileSizeLimit, MakeRun, base_of
from trainer.config import load_preset, presets
from trainer.data import ImageData
from trainer.data.mnist import CLASS_NAMES
from trainer.export import Container, ExportError, averaged_parts, compare, export, load, script
from trainer.models.parts import Parts, PixelDecode
from trainer.objectives import build
from trainer.run.loop import TrainingRun

ROOT = Path(__file__).parents[2]
PARTS = {
    "autoencoder": {"encode", "decode"},
    "vae": {"encode", "decode"},
    "gan": {"decode"},
    "ddpm": {"denoise", "decode"},
    "ldm": {"encode", "denoise", "decode"},
    "few-step": {"denoise", "decode"},
}
CAPABILITIES = {
    "autoencoder": {"encode", "decode"},
    "vae": {"generate", "interpolate", "encode", "decode"},
    "gan": {"generate", "interpolate", "decode"},
    "ddpm": {"generate", "interpolate"},
    "ldm": {"generate", "interpolate", "encode", "decode"},
    "few-step": {"generate", "interpolate"},
}


@pytest.fixture(params=VARIANTS)
def run(request: pytest.FixtureRequest, finished_runs: dict[str, TrainingRun]) -> TrainingRun:
    return finished_runs[request.param]


@pytest.fixture(scope="module")
def models(finished_runs: dict[str, TrainingRun], tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The folder of every finished run, and that of its model."""
    weights = tmp_path_factory.mktemp("weights")
    for name, run in finished_runs.items():
        export(run.folder, weights / name, run.data)
    return {run.folder: weights / name for name, run in finished_runs.items()}


@pytest.fixture
def model(run: TrainingRun, models: dict[Path, Path]) -> Path:
    return models[run.folder]


@pytest.fixture(params=FAMILIES)
def family_run(request: pytest.FixtureRequest, finished_runs: dict[str, TrainingRun]) -> TrainingRun:
    """One of each family, for what its losses and networks have no part in."""
    return finished_runs[request.param]


@pytest.fixture
def vae_run(finished_runs: dict[str, TrainingRun]) -> TrainingRun:
    return finished_runs["vae"]


def served(target: Path) -> tuple[Manifest, dict[str, nn.Module]]:
    """What the service would find in ``target``: the manifest and the parts of the file that it names."""
    manifest = read_manifest(target)
    module = torch.jit.load(io.BytesIO(read_artifact(target, manifest.artifact)))  # type: ignore[no-untyped-call]
    return manifest, dict(module.named_children())


def arguments(latent_shape: tuple[int, ...], batch: int) -> dict[str, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(batch)
    latent = torch.randn(batch, *latent_shape, generator=generator)
    image = torch.rand(batch, 1, 28, 28, generator=generator) * 2 - 1
    t = torch.rand(batch, generator=generator).clamp(min=0.01, max=0.98)
    label = torch.arange(batch) % (len(CLASS_NAMES) + 1)
    return {"encode": (image, label), "denoise": (latent, t, label), "decode": (latent, label)}


# What is written


def test_the_artefact_computes_what_the_averaged_network_computes(run: TrainingRun, model: Path) -> None:
    """Eager, scripted and reloaded, every part at every batch size, the first call and later ones."""
    manifest, reloaded = served(model)
    eager = run.objective.parts(run.ema.module)
    scripted = torch.jit.script(Container(eager))
    assert reloaded.keys() == PARTS[run.config.family]
    for batch in (1, 3, 11, 1):
        inputs = arguments(manifest.latent_shape, batch)
        for name, part in reloaded.items():
            wanted = getattr(eager, name)(*inputs[name])
            for same in (part, getattr(scripted, name)):
                torch.testing.assert_close(same(*inputs[name]), wanted, rtol=1e-5, atol=1e-5)


def test_the_artefact_is_the_average_and_not_the_last_network(run: TrainingRun, model: Path) -> None:
    manifest, parts = served(model)
    name = "denoise" if "denoise" in parts else "decode"
    inputs = arguments(manifest.latent_shape, batch=11)
    last = run.objective.parts(copy.deepcopy(run.objective.generator).eval())
    assert (parts[name](*inputs[name]) - getattr(last, name)(*inputs[name])).abs().max() > 1e-4


def test_the_artefact_holds_what_its_parts_use_and_nothing_of_training(run: TrainingRun, model: Path) -> None:
    """No discriminator, no optimizer, no spectral norm's vectors, no state of the average: names and bytes tell."""
    manifest, parts = served(model)
    eager = Container(run.objective.parts(run.ema.module))
    exported = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    assert exported.keys() == eager.state_dict().keys()
    assert all(torch.equal(value, eager.state_dict()[key]) for key, value in exported.items())
    assert not [key for key in exported if re.search("discriminator|parametrizations|n_averaged|exp_avg", key)]
    assert manifest.made_by.parameters == sum(weight.numel() for weight in eager.parameters())
    with zipfile.ZipFile(model / manifest.artifact.file) as file:
        stored = sum(entry.file_size for entry in file.infolist() if "/data/" in entry.filename)
    distinct = {value.data_ptr(): value.nbytes for value in eager.state_dict().values()}
    assert stored == pytest.approx(sum(distinct.values()), abs=1000 + 0.02 * stored)


def test_the_artefact_is_frozen_float32(model: Path) -> None:
    manifest, parts = served(model)
    weights = [weight for part in parts.values() for weight in part.parameters()]
    assert not any(module.training for part in parts.values() for module in part.modules())
    assert not any(weight.requires_grad for weight in weights)
    assert all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in weights)
    assert manifest.inference_dtype == "float32"


def test_the_manifest_tells_the_run(family_run: TrainingRun, tmp_path: Path) -> None:
    run, family = family_run, family_run.config.family
    manifest = export(run.folder, tmp_path / f"my-{family}", run.data)
    assert read_manifest(tmp_path / f"my-{family}") == manifest
    assert (manifest.name, manifest.family) == (f"my-{family}", "ddpm" if family == "few-step" else family)
    assert (manifest.image_shape, manifest.class_names) == ((1, 28, 28), CLASS_NAMES)
    assert set(manifest.capabilities) == CAPABILITIES[family]
    training = manifest.made_by
    assert (training.epochs, training.images_seen, manifest.made_from.images) == (2, 128, 64)
    assert (training.seed, training.precision, training.ema_decay) == (3, "fp32", 0.9)
    assert training.losses == run.state.losses
    assert training.device == "CPU, 1 thread"
    assert training.seconds == pytest.approx(run.state.seconds, abs=0.1)


@pytest.mark.parametrize(
    ("name", "schedule", "x0_range", "latent_shape", "defaults"),
    [
        ("ddpm", "flow", (-1.0, 1.0), (1, 28, 28), Defaults(steps=3, solver="dpmpp_2m", guidance_scale=1.0)),
        ("ddpm-epsilon", "linear", (-1.0, 1.0), (1, 28, 28), Defaults(steps=3, solver="dpmpp_2m", guidance_scale=1.0)),
        ("ddpm-v", "cosine", (-1.0, 1.0), (1, 28, 28), Defaults(steps=3, solver="dpmpp_2m", guidance_scale=1.0)),
        ("ldm", "flow", None, (2, 7, 7), Defaults(steps=3, solver="dpmpp_2m", guidance_scale=1.0)),
        ("few-step", "flow", (-1.0, 1.0), (1, 28, 28), Defaults(steps=2, solver="consistency", guidance_scale=1.0)),
    ],
)
def test_a_diffusion_names_its_sampler(
    finished_runs: dict[str, TrainingRun],
    models: dict[Path, Path],
    name: str,
    schedule: str,
    x0_range: tuple[float, float] | None,
    latent_shape: tuple[int, ...],
    defaults: Defaults,
) -> None:
    manifest = read_manifest(models[finished_runs[name].folder])
    assert manifest.noise_schedule is not None
    assert (manifest.noise_schedule.kind, manifest.noise_schedule.timesteps, manifest.t_max) == (schedule, 1000, 1.0)
    assert (manifest.x0_range, manifest.latent_shape, manifest.defaults) == (x0_range, latent_shape, defaults)


@pytest.mark.parametrize(("name", "latent_shape"), [("gan", (4,)), ("vae", (4,)), ("autoencoder", (2, 7, 7))])
def test_only_a_diffusion_names_one(
    finished_runs: dict[str, TrainingRun], models: dict[Path, Path], name: str, latent_shape: tuple[int, ...]
) -> None:
    manifest = read_manifest(models[finished_runs[name].folder])
    assert (manifest.noise_schedule, manifest.t_max, manifest.x0_range, manifest.defaults) == (None,) * 4
    assert manifest.latent_shape == latent_shape


def test_card_and_samples_are_for_people(family_run: TrainingRun, models: dict[Path, Path]) -> None:
    run, target = family_run, models[family_run.folder]
    manifest = read_manifest(target)
    card = (target / "card.md").read_text()
    for needed in (
        manifest.made_by.command,
        manifest.made_by.device,
        *(f"{name} {value:.4g}" for name, value in run.state.losses.items()),
        manifest.made_from.licence,
        manifest.made_from.source,
        "curl",
        "samples.png",
        "The model has not been evaluated yet",
    ):
        assert needed in card
    with Image.open(target / "samples.png") as image:
        assert image.format == "PNG"
        assert image.size == (10 * 30 + 2, 8 * 30 + 2)  # a class a column, eight rows, two pixels between
    codes = set() if manifest.latents is None else {manifest.latents.file}
    assert (manifest.latents is not None) == ("encode" in manifest.capabilities)
    assert {path.name for path in target.iterdir()} == codes | {
        manifest.artifact.file,
        "manifest.json",
        "card.md",
        "samples.png",
    }


@pytest.mark.parametrize("preset", presets())
def test_the_presets_files_are_small_and_tell_nothing_of_the_machine(
    preset: str, data: ImageData, emoji: ImageData
) -> None:
    config = load_preset(preset, base_of(preset))
    seen = emoji if config.captioned else data
    fresh = build(config, seen.facts.image_shape, len(seen.facts.class_names), torch.device("cpu"))
    fresh.bind(seen)
    state = {"average": AveragedModel(fresh.generator).state_dict(), "best": None, "notes": fresh.notes()}
    parts = averaged_parts(config, state | {"data": dataclasses.asdict(seen.facts)})
    payload = script(parts)
    assert len(payload) < (33_000_000 if config.captioned else 10_000_000)
    assert payload == script(parts)
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        assert not [name for name in archive.namelist() if str(ROOT).encode() in archive.read(name)]


# What is refused


def constant(value: float) -> Parts:
    class Constant(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            return torch.full_like(z, value)

    return Parts((1, 2, 2), 0, (4,), decode=Constant())


@pytest.mark.parametrize(("one", "other"), [(0.0, 2e-5), (0.0, math.nan), (math.nan, math.nan), (0.0, math.inf)])
def test_parts_that_differ_are_refused(one: float, other: float) -> None:
    with pytest.raises(ExportError, match="the scripted decode differs from the eager one"):
        compare(constant(one), constant(other))


def test_parts_that_agree_pass() -> None:
    compare(constant(0.5), constant(0.5 + 5e-6))
    identity = Parts((1, 2, 2), 0, (4,), decode=PixelDecode())
    compare(identity, load(script(identity), identity))


def test_an_unfinished_run_is_refused_with_how_to_go_on(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("vae", tmp_path / "run")
    run.folder.mkdir()
    run.state.step = 5
    run.save()
    with pytest.raises(ExportError, match=r"5 of 8 steps.* train vae --out .*run --resume"):
        export(run.folder, tmp_path / "weights", run.data)
    assert not (tmp_path / "weights").exists()


def test_a_name_that_the_service_would_refuse_leaves_nothing_behind(vae_run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="name"):
        export(vae_run.folder, tmp_path / "My VAE", vae_run.data)
    assert list(tmp_path.iterdir()) == []


# All or nothing


@pytest.fixture
def exported(vae_run: TrainingRun, tmp_path: Path) -> tuple[Path, Manifest, Path]:
    """A model in use, and the folder of a newer run with other weights."""
    target = tmp_path / "vae"
    old = export(vae_run.folder, target, vae_run.data)
    newer = TrainingRun(vae_run.config, vae_run.data, tmp_path / "newer", vae_run.device)
    newer.folder.mkdir()
    newer.state = dataclasses.replace(vae_run.state)
    newer.save()
    return target, old, newer.folder


def test_a_new_version_leaves_the_old_file_for_a_rollback(
    exported: tuple[Path, Manifest, Path], data: ImageData
) -> None:
    target, old, newer = exported
    new = export(newer, target, data)
    assert new.version != old.version
    assert served(target)[0] == new
    assert read_history(target) == [old]
    read_artifact(target, old.artifact)


def test_scores_of_the_same_model_are_kept(vae_run: TrainingRun, tmp_path: Path) -> None:
    target = tmp_path / "vae"
    old = export(vae_run.folder, target, vae_run.data)
    score = Score(metric="fid", value=1.0, floor=0.5, samples=100, reference="test")
    write_manifest(target, old.model_copy(update={"quality": (score,)}))
    assert export(vae_run.folder, target, vae_run.data).quality == (score,)
    assert "fid" in (target / "card.md").read_text()


@pytest.mark.slow
def test_the_same_parts_give_the_same_bytes_in_every_process() -> None:
    """Python's hashes differ from process to process, and with them the order in sets."""
    code = "from torch import nn; from trainer.export import archive; from hashlib import sha256; "
    code += "print(sha256(archive(nn.Sequential(nn.Flatten(), nn.Conv2d(1, 1, 3)))).hexdigest())"
    made = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", "import torch; torch.manual_seed(0); " + code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(made) == 1


def test_the_golden_picture_is_what_the_service_draws(family_run: TrainingRun, tmp_path: Path) -> None:
    manifest = export(family_run.folder, tmp_path / "model", family_run.data)
    model, golden = load_model(tmp_path / "model", torch.device("cpu")), manifest.golden
    check_golden(model)
    if "generate" not in manifest.capabilities:
        assert golden is None
        return
    assert golden is not None
    assert draw(model, golden).tobytes() == golden.levels
    other = golden.model_copy(update={"picture": base64.b64encode(bytes(28 * 28)).decode()})
    with pytest.raises(ValueError, match="golden"):
        check_golden(dataclasses.replace(model, manifest=manifest.model_copy(update={"golden": other})))


def failing_fsync(failing: int) -> Callable[[int], None]:
    """``os.fsync``, but the call number ``failing``, counted from 0, finds the disk full."""
    calls, fsync = count(), os.fsync

    def sync(descriptor: int) -> None:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    return sync


@pytest.mark.parametrize("failing", range(12))
def test_a_failure_at_any_write_leaves_a_model_that_can_be_read(
    exported: tuple[Path, Manifest, Path], data: ImageData, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Each of the six files, the replaced manifest among them, is synced twice, its content and its folder."""
    target, old, newer = exported
    monkeypatch.setattr(os, "fsync", failing_fsync(failing))
    with pytest.raises(ExportError, match="No space left"):
        export(newer, target, data)
    manifest = served(target)[0]
    if failing < 11:
        assert manifest == old
    else:  # the manifest was already renamed: there is no way back from there, and none is needed
        assert manifest.version != old.version
    assert not list(target.glob(".*"))


def test_a_full_disk_leaves_the_model_as_it_was(
    exported: tuple[Path, Manifest, Path], data: ImageData, file_size_limit: FileSizeLimit
) -> None:
    target, manifest, newer = exported
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with file_size_limit(10_000), pytest.raises(ExportError, match=r"cannot be written: .*File too large"):
        export(newer, target, data)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert served(target)[0] == manifest
