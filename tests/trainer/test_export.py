import base64
import copy
import dataclasses
import io
import math
import os
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
from service.contract.manifest import Defaults, Manifest, NoiseSchedule, read_history, read_manifest
from service.engine.golden import check_golden, draw
from service.engine.model import load_model
from tests.trainer.conftest import FAMILIES, MakeRun
from trainer.config import Family, load_preset
from trainer.data import CLASS_NAMES, ImageData
from trainer.export import ExportError, averaged_parts, compare, export, load, script
from trainer.loop import TrainingRun
from trainer.models.parts import Parts, PixelDecode
from trainer.objectives import build

ROOT = Path(__file__).parents[2]
PARTS = {"vae": {"encode", "decode"}, "gan": {"decode"}, "ddpm": {"denoise", "decode"}}


@pytest.fixture(scope="session")
def finished_runs(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingRun]:
    runs = {family: make_run(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}
    for run in runs.values():
        run.fit()
    return runs


@pytest.fixture(params=FAMILIES)
def run(request: pytest.FixtureRequest, finished_runs: dict[str, TrainingRun]) -> TrainingRun:
    return finished_runs[request.param]


@pytest.fixture
def vae_run(finished_runs: dict[str, TrainingRun]) -> TrainingRun:
    return finished_runs["vae"]


def served(target: Path) -> tuple[Manifest, dict[str, nn.Module]]:
    """What the service would find in ``target``: the manifest and the parts of the file that it names."""
    manifest = read_manifest(target)
    module = torch.jit.load(io.BytesIO(read_artifact(target, manifest)))  # type: ignore[no-untyped-call]
    return manifest, dict(module.named_children())


def arguments(latent_shape: tuple[int, ...], batch: int) -> dict[str, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(batch, *latent_shape, generator=generator)
    image = torch.rand(batch, 1, 28, 28, generator=generator) * 2 - 1
    t = torch.rand(batch, generator=generator).clamp(min=0.01)
    label = torch.arange(batch) % (len(CLASS_NAMES) + 1)
    return {"encode": (image, label), "denoise": (latent, t, label), "decode": (latent, label)}


# What is written


def test_the_artefact_computes_what_the_averaged_network_computes(run: TrainingRun, tmp_path: Path) -> None:
    export(run.folder, tmp_path / "model")
    manifest, parts = served(tmp_path / "model")
    assert parts.keys() == PARTS[run.config.family]
    eager = run.objective.parts(run.average.module)
    inputs = arguments(manifest.latent_shape, batch=11)
    for name, part in parts.items():
        torch.testing.assert_close(part(*inputs[name]), getattr(eager, name)(*inputs[name]), rtol=0.0, atol=1e-5)

    name = "denoise" if "denoise" in parts else "decode"
    last = run.objective.parts(copy.deepcopy(run.objective.generator).eval())
    assert (parts[name](*inputs[name]) - getattr(last, name)(*inputs[name])).abs().max() > 1e-4


def test_the_artefact_is_frozen_float32(run: TrainingRun, tmp_path: Path) -> None:
    export(run.folder, tmp_path / "model")
    manifest, parts = served(tmp_path / "model")
    weights = [weight for part in parts.values() for weight in part.parameters()]
    assert not any(module.training for part in parts.values() for module in part.modules())
    assert not any(weight.requires_grad for weight in weights)
    assert all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in weights)
    assert sum(weight.numel() for weight in weights) == manifest.training.parameters


def test_the_manifest_tells_the_run(run: TrainingRun, tmp_path: Path) -> None:
    family = run.config.family
    manifest = export(run.folder, tmp_path / f"my-{family}")
    assert read_manifest(tmp_path / f"my-{family}") == manifest
    assert (manifest.name, manifest.family) == (f"my-{family}", family)
    assert (manifest.image_shape, manifest.class_names) == ((1, 28, 28), CLASS_NAMES)
    assert manifest.capabilities == ("generate", "interpolate", *(["encode"] if family == "vae" else []))
    training = manifest.training
    assert (training.epochs, training.images_seen, manifest.dataset.images) == (2, 128, 64)
    assert (training.seed, training.precision, training.ema_decay) == (3, "fp32", 0.9)
    assert training.losses == run.state.losses
    assert training.device == "CPU, 1 thread"
    assert training.seconds == pytest.approx(run.state.seconds, abs=0.1)


def test_only_a_diffusion_names_its_sampler(finished_runs: dict[str, TrainingRun], tmp_path: Path) -> None:
    ddpm = export(finished_runs["ddpm"].folder, tmp_path / "ddpm")
    assert ddpm.noise_schedule == NoiseSchedule(kind="linear", timesteps=1000)
    assert (ddpm.t_max, ddpm.x0_range, ddpm.latent_shape) == (1.0, (-1.0, 1.0), (1, 28, 28))
    assert ddpm.defaults == Defaults(steps=20, solver="dpmpp_2m", guidance_scale=1.0)
    gan = export(finished_runs["gan"].folder, tmp_path / "gan")
    assert (gan.noise_schedule, gan.t_max, gan.x0_range, gan.defaults, gan.latent_shape) == (None,) * 4 + ((4,),)


def test_card_and_samples_are_for_people(run: TrainingRun, tmp_path: Path) -> None:
    target = tmp_path / "model"
    manifest = export(run.folder, target)
    card = (target / "card.md").read_text()
    for needed in (
        manifest.training.command,
        manifest.training.device,
        *(f"{name} {value:.4g}" for name, value in run.state.losses.items()),
        manifest.dataset.licence,
        manifest.dataset.source,
        "curl",
        "samples.png",
        "No score has been measured yet",
    ):
        assert needed in card
    with Image.open(target / "samples.png") as image:
        assert image.format == "PNG"
        assert image.size == (10 * 30 + 2, 8 * 30 + 2)  # a class a column, eight rows, two pixels between
    assert {path.name for path in target.iterdir()} == {
        manifest.artifact.file,
        "manifest.json",
        "card.md",
        "samples.png",
    }


@pytest.mark.parametrize("family", ["vae", "gan", "ddpm"])
def test_the_presets_files_are_small_and_tell_nothing_of_the_machine(family: Family, data: ImageData) -> None:
    config = load_preset(family)
    fresh = build(config, (1, 28, 28), len(CLASS_NAMES), torch.device("cpu"))
    average = AveragedModel(fresh.generator).state_dict()
    parts = averaged_parts(config, {"average": average, "data": dataclasses.asdict(data.facts)})
    payload = script(parts)
    assert len(payload) < 10_000_000
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
    with pytest.raises(ExportError, match=r"1 of 2 epochs.* train vae --out .*run --resume"):
        export(run.folder, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_a_name_that_the_service_would_refuse_leaves_nothing_behind(vae_run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="name"):
        export(vae_run.folder, tmp_path / "My VAE")
    assert list(tmp_path.iterdir()) == []


# All or nothing


@pytest.fixture
def exported(vae_run: TrainingRun, tmp_path: Path) -> tuple[Path, Manifest, Path]:
    """A model in use, and the folder of a newer run with other weights."""
    target = tmp_path / "vae"
    old = export(vae_run.folder, target)
    newer = TrainingRun(vae_run.config, vae_run.data, tmp_path / "newer", vae_run.device)
    newer.folder.mkdir()
    newer.state = dataclasses.replace(vae_run.state)
    newer.save()
    return target, old, newer.folder


def test_a_new_version_leaves_the_old_file_for_a_rollback(exported: tuple[Path, Manifest, Path]) -> None:
    target, old, newer = exported
    new = export(newer, target)
    assert new.version != old.version
    assert served(target)[0] == new
    assert read_history(target) == [old]
    read_artifact(target, old)


def test_the_golden_picture_is_what_the_service_draws(run: TrainingRun, tmp_path: Path) -> None:
    manifest = export(run.folder, tmp_path / "model")
    model, golden = load_model(tmp_path / "model", torch.device("cpu")), manifest.golden
    assert golden is not None
    assert draw(model, golden).tobytes() == golden.levels
    check_golden(model)
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


@pytest.mark.parametrize("failing", range(10))
def test_a_failure_at_any_write_leaves_a_model_that_can_be_read(
    exported: tuple[Path, Manifest, Path], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Each of the five files, the replaced manifest among them, is synced twice, its content and its folder."""
    target, old, newer = exported
    monkeypatch.setattr(os, "fsync", failing_fsync(failing))
    with pytest.raises(ExportError, match="No space left"):
        export(newer, target)
    manifest = served(target)[0]
    if failing < 9:
        assert manifest == old
    else:  # the manifest was already renamed: there is no way back from there, and none is needed
        assert manifest.version != old.version
    assert not list(target.glob(".*"))
