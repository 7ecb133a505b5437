import copy
import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import VARIANTS, MakeConfig, MakeRun, before_step, without_dropout
from trainer.config import RunConfig
from trainer.data import DataError, DataFacts, ImageData
from trainer.generate import draw_grid
from trainer.model_config import LdmConfig
from trainer.models.parts import Parts
from trainer.objectives.base import Position, Task
from trainer.objectives.ldm import LdmObjective
from trainer.run import checkpoint, loop
from trainer.run.loop import STATISTICS_IMAGES, Diverged, Indivisible, TrainingRun, device_name
from trainer.run.stopping import Interrupted

STEPS_PER_EPOCH, TOTAL_STEPS = 4, 8


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


# Resume


@pytest.mark.parametrize(
    ("name", "steps"),
    [("vae", 2), ("vae", 4), *((name, 5) for name in VARIANTS)],
    ids=lambda value: str(value),
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    make_run: MakeRun,
    finished_runs: dict[str, TrainingRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    steps: int,
) -> None:
    """Cut off in the first epoch, between the epochs, and in the last one."""
    cut = make_run(name, tmp_path)
    before_step(cut, steps - 1, lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)
    with pytest.raises(Interrupted, match="--resume") as stopped:
        cut.fit()
    assert stopped.value.signum == signal.SIGTERM
    _, state = checkpoint.load(tmp_path)
    assert state["step"] == steps

    torch.manual_seed(99)  # whatever happened since
    resumed = TrainingRun(cut.config, cut.data, tmp_path, cut.device)  # what it began with is in the checkpoint
    resumed.load_state_dict(state)
    resumed.fit()
    ours, theirs = (checkpoint.load(folder)[1] | {"seconds": None} for folder in (tmp_path, finished_runs[name].folder))
    assert ours["step"] == TOTAL_STEPS
    assert_equal(ours, theirs)


@pytest.mark.parametrize("epochs", [1, 2], ids=["in the middle", "at the end"])
def test_a_run_stopped_while_it_draws_samples_draws_them_when_it_is_resumed(
    make_run: MakeRun,
    finished_runs: dict[str, TrainingRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
) -> None:
    """The signal ends the drawing at once, and the checkpoint is from before it."""
    cut = make_run("vae", tmp_path, grid_every=epochs)
    drawn: list[str] = []

    def slow(*arguments: Any) -> Tensor:
        drawn.append("begun")
        signal.raise_signal(signal.SIGINT)
        drawn.append("went on")
        return draw_grid(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw_grid", slow)
        with pytest.raises(Interrupted):
            cut.fit()
    assert drawn == ["begun"]
    _, state = checkpoint.load(tmp_path)
    assert state["step"] == epochs * STEPS_PER_EPOCH
    path = tmp_path / "samples" / f"epoch-{epochs:03d}.png"
    assert not path.exists()
    resumed = TrainingRun(cut.config, cut.data, tmp_path, cut.device)
    resumed.load_state_dict(state)
    resumed.fit()
    assert path.exists()
    ours, theirs = (checkpoint.load(folder)[1] for folder in (tmp_path, finished_runs["vae"].folder))
    own = ("seconds", "config")
    assert_equal({k: v for k, v in ours.items() if k not in own}, {k: v for k, v in theirs.items() if k not in own})


def test_the_first_samples_come_before_a_long_epoch_ends_and_change_nothing(
    make_run: MakeRun, finished_runs: dict[str, TrainingRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_GRID_STEP", STEPS_PER_EPOCH - 1)
    run = make_run("vae", tmp_path)
    run.fit()
    assert (tmp_path / "samples" / "epoch-000.png").is_file()
    assert not (finished_runs["vae"].folder / "samples" / "epoch-000.png").exists()
    ours, theirs = (checkpoint.load(each.folder)[1] | {"seconds": None} for each in (run, finished_runs["vae"]))
    assert_equal(ours, theirs)


def test_short_epochs_have_no_earlier_samples(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_GRID_STEP", STEPS_PER_EPOCH)
    make_run("vae", tmp_path).fit()
    assert not (tmp_path / "samples" / "epoch-000.png").exists()


def test_a_run_of_so_many_steps_ends_within_an_epoch(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("vae", tmp_path, steps=6)
    run.fit()
    assert (run.state.step, run.epoch, run.plan.epochs) == (6, 2, 2)
    assert run.state.losses
    assert (tmp_path / "samples" / "epoch-002.png").is_file()


def test_a_finished_run_has_left_its_checkpoint_grid_and_events(finished_runs: dict[str, TrainingRun]) -> None:
    vae_run = finished_runs["vae"]
    _, state = checkpoint.load(vae_run.folder)
    assert state["step"] == TOTAL_STEPS
    assert DataFacts(**state["data"]) == vae_run.data.facts
    assert state["device"] == device_name(torch.device("cpu"))
    assert state["losses"].keys() == {"reconstruction", "kl", "prior"}
    assert (vae_run.folder / "samples" / "epoch-002.png").is_file()
    assert any((vae_run.folder / "tensorboard").iterdir())


def test_the_best_average_is_kept_and_survives_a_resume(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs, of which the second is nearest; cut off in the third."""
    distances, averages = [3.0, 1.0, 2.0, 1.5], []

    def run_in(folder: Path) -> TrainingRun:
        run = make_run("vae", folder, epochs=4, grid_every=1)

        class Fixed:
            evaluator_version = "one"

            def __call__(self, parts: Parts) -> float:
                averages.append(copy.deepcopy(run.ema.module.state_dict()))
                return distances[run.epoch - 1]

        run.distance = Fixed()
        return run

    cut = run_in(tmp_path)
    before_step(cut, 10, lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)
    with pytest.raises(Interrupted):
        cut.fit()
    resumed = run_in(tmp_path)
    resumed.load_state_dict(checkpoint.load(tmp_path)[1])
    resumed.fit()
    _, state = checkpoint.load(tmp_path)
    assert (state["best"]["epoch"], state["best"]["distance"]) == (2, 1.0)
    assert_equal(checkpoint.generator(state), averages[1])
    for version, best in (("one", True), ("another", False), (None, False)):
        again = run_in(tmp_path)
        if version is None or again.distance is None:
            again.distance = None
        else:
            again.distance.evaluator_version = version
        again.load_state_dict(state)
        assert (again.state.best is not None) == best  # distances of two evaluators are not comparable
    state["best"]["judge"] = state["best"].pop("evaluator")  # its name in checkpoints of earlier versions
    again = run_in(tmp_path)
    again.load_state_dict(state)
    assert again.state.best is not None


def test_without_a_distance_the_last_average_is_kept(finished_runs: dict[str, TrainingRun]) -> None:
    run = finished_runs["vae"]
    _, state = checkpoint.load(run.folder)
    assert state["best"] is None
    assert_equal(checkpoint.generator(state), dict(run.ema.module.state_dict()))


@pytest.mark.parametrize(("name", "reported"), [("wgan-gp", [6]), ("gan", [4, 5, 6, 7])])
def test_an_epochs_loss_is_the_mean_over_the_steps_that_told_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reported: list[int]
) -> None:
    """A WGAN's generator moves at every third step here: in the second epoch of four steps at one."""
    run = make_run(name, tmp_path)

    def numbered(images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:
        losses = {"discriminator": torch.tensor(100.0)}
        return losses | ({"generator": torch.tensor(float(at.step))} if at.step in reported else {})

    monkeypatch.setattr(run.objective, "train_step", numbered)
    run.fit()
    assert run.state.losses == {"discriminator": 100.0, "generator": sum(reported) / len(reported)}


def test_the_average_takes_the_statistics_of_batch_norm_along(finished_runs: dict[str, TrainingRun]) -> None:
    run = finished_runs["dcgan"]
    averaged, last = run.ema.module.state_dict(), run.objective.generator.state_dict()
    assert averaged["norm_enter.num_batches_tracked"] == last["norm_enter.num_batches_tracked"] == TOTAL_STEPS
    for name in ("norm_enter.running_mean", "norm_enter.running_var"):
        assert not torch.equal(averaged[name], last[name])
        torch.testing.assert_close(averaged[name], last[name], rtol=0.5, atol=0.05)
    assert not any(module.training for module in run.ema.modules())


def test_resuming_on_other_data_is_refused(make_run: MakeRun, tmp_path: Path, data: ImageData) -> None:
    run = make_run("vae", tmp_path)
    facts = dataclasses.replace(data.facts, images=48)
    other = dataclasses.replace(data, facts=facts, images=data.images[:48], labels=data.labels[:48])
    with pytest.raises(checkpoint.CheckpointError, match=r"trained on other data: images: 64 then, 48 now"):
        TrainingRun(run.config, other, tmp_path, run.device).load_state_dict(run.state_dict())


def test_other_pictures_of_the_same_number_are_noticed(make_run: MakeRun, tmp_path: Path, data: ImageData) -> None:
    """Two classes swapped: as many pictures with the same names of classes."""
    run = make_run("vae", tmp_path)
    labels = torch.where(data.labels == 0, 1, torch.where(data.labels == 1, 0, data.labels))
    swapped = dataclasses.replace(data, labels=labels)
    resumed = TrainingRun(run.config, swapped, tmp_path, run.device)
    with pytest.raises(checkpoint.CheckpointError, match="the same number of images, but different images or labels"):
        resumed.load_state_dict(run.state_dict())
    resumed.load_state_dict(run.state_dict(), changed_data=True)
    old = {key: value for key, value in run.state_dict().items() if key != "fingerprint"}
    resumed.load_state_dict(old)  # of a version that took no fingerprint


@pytest.mark.parametrize("changed", [{"class_names": ("one",)}, {"image_shape": (3, 28, 28)}])
def test_pictures_that_do_not_fit_the_networks_are_refused_always(
    make_run: MakeRun, tmp_path: Path, data: ImageData, changed: dict[str, Any]
) -> None:
    state = make_run("vae", tmp_path).state_dict()
    other = dataclasses.replace(data, facts=dataclasses.replace(data.facts, **changed))
    assert checkpoint.data_difference(state, other, changed_data=True)


def test_a_checkpoint_of_other_networks_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("gan", tmp_path)
    state = run.state_dict()
    state["networks"] = {f"old.{name}": weight for name, weight in state["networks"].items()}
    with pytest.raises(checkpoint.CheckpointError, match="holds a gan of another version") as refusal:
        run.load_state_dict(state)
    assert "\n" not in str(refusal.value)


def test_codes_are_measured_on_pictures_from_all_over_the_data(
    make_config: MakeConfig, averages: dict[str, dict[str, Tensor]], data: ImageData, tmp_path: Path
) -> None:
    """A folder's pictures lie class by class: here 2,048 dark ones, then as many bright ones."""
    dark, bright = torch.zeros(STATISTICS_IMAGES, 1, 28, 28), torch.full((STATISTICS_IMAGES, 1, 28, 28), 255.0)
    images = torch.cat([dark, bright]).to(torch.uint8)
    facts = dataclasses.replace(data.facts, images=len(images))
    halves = dataclasses.replace(data, facts=facts, images=images, labels=torch.zeros(len(images), dtype=torch.int64))
    seen: list[Tensor] = []

    class Recorder(LdmObjective):
        def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:
            seen.append(images)

    def build(config: RunConfig, shape: tuple[int, int, int], classes: int, device: torch.device) -> Recorder:
        assert isinstance(config.model, LdmConfig)
        return Recorder(Task(config, shape, classes, device), config.model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build", build)
        TrainingRun(make_config("ldm"), halves, tmp_path, torch.device("cpu"), averages["ldm"])
    (measured,) = seen
    assert len(measured) == STATISTICS_IMAGES
    assert float((measured > 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_less_data_than_a_batch_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"64 images .* batch of 65"):
        make_run("vae", tmp_path, batch_size=65)


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("vae", tmp_path)

    def ruin() -> None:
        with torch.no_grad():
            next(run.objective.networks.parameters()).fill_(math.nan)

    before_step(run, STEPS_PER_EPOCH + 1, ruin, monkeypatch)
    with pytest.raises(
        Diverged, match=r"not finite at step 8. The last checkpoint is kept; try a --learning-rate below 0.001$"
    ):
        run.fit()
    _, state = checkpoint.load(tmp_path)
    assert state["step"] == STEPS_PER_EPOCH
    assert all(weight.isfinite().all() for weight in state["networks"].values())


def test_a_run_that_diverges_at_once_says_that_nothing_is_kept(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("vae", tmp_path)
    with torch.no_grad():
        next(run.objective.networks.parameters()).fill_(math.inf)
    with pytest.raises(Diverged, match="No checkpoint was written yet"):
        run.fit()


# Batches in parts


def losses_of(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of every step of ``run``, and the run done."""
    reported: list[float] = []
    train_on = run._train_on

    def watched(index: Tensor, at: Position) -> dict[str, Tensor]:
        losses = train_on(index, at)
        reported.extend(float(loss) for loss in losses.values())
        return losses

    monkeypatch.setattr(run, "_train_on", watched)
    run.fit()
    return reported


@pytest.mark.parametrize("name", ["ddpm", "ddpm-epsilon", "ldm", "ddpm-guided", "ldm-guided"])
def test_micro_batches_give_the_losses_of_the_whole_batch(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = without_dropout(name)
    whole = losses_of(make_run(name, tmp_path / "whole", model=model), monkeypatch)
    parts = losses_of(make_run(name, tmp_path / "parts", 4, model=model), monkeypatch)
    assert len(whole) == TOTAL_STEPS
    assert parts == pytest.approx(whole, rel=1e-4)
    other = losses_of(make_run(name, tmp_path / "other", model=model, seed=4), monkeypatch)
    assert other != pytest.approx(whole, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "own", "other"), [("few-step", "unet", "scores"), ("vae-adversarial", "vae", "discriminator")]
)
def test_networks_beside_the_generator_have_their_own_learning_rate_also_when_resumed(
    make_run: MakeRun, tmp_path: Path, name: str, own: str, other: str
) -> None:
    run = make_run(name, tmp_path)
    run.fit()
    resumed = make_run(name, tmp_path)
    resumed.load_state_dict(checkpoint.load(tmp_path)[1])
    for each in (run, resumed):
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in each.objective.optimizers.items()}
        assert rates[other] == pytest.approx(4 * rates[own])


def test_a_run_goes_on_in_another_number_of_micro_batches(
    make_config: MakeConfig, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("ddpm", model=without_dropout("ddpm"))
    cpu = torch.device("cpu")
    whole = losses_of(TrainingRun(config, data, tmp_path / "whole", cpu), monkeypatch)
    cut = TrainingRun(config, data, tmp_path / "cut", cpu)
    before_step(cut, 4, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(Interrupted):
        cut.fit()
    resumed = TrainingRun(config, data, tmp_path / "cut", cpu, accumulate=2)
    resumed.load_state_dict(checkpoint.load(tmp_path / "cut")[1])
    assert losses_of(resumed, monkeypatch) == pytest.approx(whole[5:], rel=1e-4)


@pytest.mark.parametrize(
    ("family", "accumulate", "complaint"),
    [
        ("ddpm", 3, "--batch-size 16 is not divisible by 3"),
        ("vae", 2, "--accumulate: a step of the family vae needs the whole batch"),
        ("autoencoder", 2, "--accumulate: a step of the family autoencoder needs the whole batch"),
        ("gan", 2, "--accumulate: a step of the family gan needs the whole batch"),
    ],
)
def test_what_cannot_be_divided_is_rejected(
    make_config: MakeConfig, data: ImageData, tmp_path: Path, family: str, accumulate: int, complaint: str
) -> None:
    with pytest.raises(Indivisible, match=complaint):
        TrainingRun(make_config(family), data, tmp_path, torch.device("cpu"), accumulate=accumulate)
