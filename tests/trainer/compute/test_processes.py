"""Several processes compute together what one computes alone: two on this machine, with gloo."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import MakeConfig, MakeRun, before_step, without_dropout
from trainer.compute import processes
from trainer.config import RunConfig
from trainer.data import ImageData
from trainer.run import checkpoint
from trainer.run.loop import Indivisible, TrainingRun
from trainer.run.stopping import Interrupted

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def test_alone_nothing_is_shared() -> None:
    with processes.process_group(CPU) as device, processes.main_process_first():
        assert device == CPU
        assert (processes.count(), processes.rank()) == (1, 0)
        value = torch.tensor(3.0)
        assert processes.batch_mean(value) is value
        assert processes.mean_of({"loss": value}) == {"loss": value}
        assert processes.any_of([True, False]) == [True, False]


def together(config: RunConfig, folder: Path) -> subprocess.CompletedProcess[str]:
    """The run in ``folder`` by two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.trainer.compute.worker", config.model_dump_json(), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def begin(run: TrainingRun, folder: Path) -> None:
    """Have ``folder`` hold ``run`` as it stands at its start, with what it begins with."""
    folder.mkdir()
    checkpoint.save(folder, run.config, run.state_dict())


def assert_same_run(folder: Path, other: Path) -> None:
    states = [checkpoint.load(each)[1] for each in (folder, other)]
    assert states[0]["step"] == states[1]["step"] == 8
    assert states[0]["losses"] == pytest.approx(states[1]["losses"], rel=1e-4)
    torch.testing.assert_close(*(state["networks"] for state in states), rtol=0.0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "gan", "ddpm", "ldm"])
def test_two_processes_give_the_losses_and_weights_of_one(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    # Free bits take effect on some dimensions: whether a dimension is below them is the whole batch's to say.
    model = without_dropout(name) | ({"free_bits": 0.4} if name == "vae" else {})
    run = make_run(name, tmp_path / "one", model=model)
    begin(run, tmp_path / "two")
    run.fit()
    result = together(run.config, tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(
    make_config: MakeConfig, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("vae")
    TrainingRun(config, data, tmp_path / "whole", CPU).fit()
    cut = TrainingRun(config, data, tmp_path / "cut", CPU)
    before_step(cut, 4, lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)
    with pytest.raises(Interrupted):
        cut.fit()
    result = together(config, tmp_path / "cut")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_batch_normalisation_is_not_taken_apart(
    make_config: MakeConfig, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(Indivisible, match="this gan has batch normalisation"):
        TrainingRun(make_config("dcgan"), data, tmp_path, CPU)
