import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import FileSizeLimit, MakeConfig
from trainer.config import RunConfig
from trainer.run import checkpoint
from trainer.run.checkpoint import FILE_NAME, CheckpointError


@pytest.fixture
def config(make_config: MakeConfig) -> RunConfig:
    return make_config("vae")


def test_what_is_saved_is_loaded(tmp_path: Path, config: RunConfig) -> None:
    weight = torch.randn(3, 2)
    checkpoint.save(tmp_path, config, {"step": 7, "networks": {"weight": weight}})
    loaded_config, state = checkpoint.load(tmp_path)
    assert loaded_config == config
    assert state["step"] == 7
    assert torch.equal(state["networks"]["weight"], weight)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("before", [True, False], ids=["with an old one", "without"])
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, config: RunConfig, file_size_limit: FileSizeLimit, before: bool
) -> None:
    weights = {"weight": torch.zeros(100_000)}
    if before:
        checkpoint.save(tmp_path, config, {"step": 1})
    with file_size_limit(200_000), pytest.raises(CheckpointError, match="cannot be written") as refusal:
        checkpoint.save(tmp_path, config, {"step": 2, "networks": weights})
    assert str(tmp_path / FILE_NAME) in str(refusal.value)
    assert ("the previous one is kept" in str(refusal.value)) == before
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ([FILE_NAME] if before else [])
    if before:
        assert checkpoint.load(tmp_path)[1]["step"] == 1
    checkpoint.save(tmp_path, config, {"step": 3, "networks": weights})
    assert checkpoint.load(tmp_path)[1]["step"] == 3


def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path / FILE_NAME} does not exist"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_refused_by_name_in_one_line(tmp_path: Path, config: RunConfig, kept: float) -> None:
    checkpoint.save(tmp_path, config, {"networks": {"weight": torch.zeros(1000)}})
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read") as refusal:
        checkpoint.load(tmp_path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            {"format": checkpoint.FORMAT + 1},
            f"has format {checkpoint.FORMAT + 1}; .* reads format {checkpoint.FORMAT}",
        ),
        ({"weight": torch.zeros(1)}, "not a checkpoint of this trainer"),
        ([1, 2], "not a checkpoint of this trainer"),
        ({"format": checkpoint.FORMAT}, "contains no config"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match=complaint):
        checkpoint.load(tmp_path)


def test_a_family_that_this_version_does_not_know_is_refused_by_name(tmp_path: Path, config: RunConfig) -> None:
    newer = config.model_dump_json().replace('"family":"vae"', '"family":"mamba"')
    torch.save({"format": checkpoint.FORMAT, "config": newer}, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match=r"field model: .*mamba"):
        checkpoint.load(tmp_path)


def test_a_config_of_another_version_is_refused_by_its_field(tmp_path: Path, config: RunConfig) -> None:
    known = config.model_dump_json()
    state = {"format": checkpoint.FORMAT, "config": known.replace('"label_dropout"', '"label_drop"')}
    torch.save(state, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match="label_drop"):
        checkpoint.load(tmp_path)


class Payload:
    """A pickle that acts when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"format": checkpoint.FORMAT, "config": Payload(trace)}, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))  # the payload does act where code may run
    assert trace.exists()
