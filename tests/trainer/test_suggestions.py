"""Commands in messages can be pasted: quoted, whole, and what the parser takes."""

import argparse
import shlex
from pathlib import Path

import pytest

from service.contract.manifest import MANIFEST_FILE
from tests.trainer.conftest import MakeConfig
from trainer import suggestions
from trainer.__main__ import parser
from trainer.config import OVERRIDES, load_preset

AWKWARD = ["runs/vae", "my runs/o'clock", "-x", "runs/$HOME; *", "läufe/ß"]


def parsed(command: str) -> argparse.Namespace:
    """A pasted command, parsed; the parser exits when it is invalid."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "trainer"]
    return parser().parse_args(words[3:])


@pytest.mark.parametrize("name", AWKWARD)
def test_a_run_is_resumed_by_the_machine_options_that_it_had(make_config: MakeConfig, name: str) -> None:
    given = ["train", "ddpm", "--evaluator", "my evaluator", "--device", "cpu", "--accumulate", "2", "--strict"]
    options = parsed(suggestions.resume(make_config("ddpm"), Path(name), parsed(suggestions.command(*given))))
    assert (options.preset, options.out, options.resume) == ("ddpm", Path(name), True)
    assert (options.evaluator, options.device) == (Path("my evaluator"), "cpu")
    assert (options.accumulate, options.strict) == (2, True)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_run_is_begun_again_with_all_that_differs_from_its_preset(name: str) -> None:
    config = load_preset(
        "ddpm", dataset="folder", image_size=64, channels=3, epochs=7, batch_size=8, width=24, precision="bf16"
    )
    before = parsed(suggestions.command("train", "ddpm", "--device", "cpu"))
    options = parsed(suggestions.restart(config, Path("run"), Path(name).resolve(), before, learning_rate=2e-4))
    assert options.folder == Path(name).resolve()
    assert (options.overwrite, options.device) == (True, "cpu")
    given = {field: getattr(options, field) for field in OVERRIDES}
    assert load_preset("ddpm", **given) == load_preset("ddpm", **{**given, "learning_rate": 2e-4})
    assert load_preset("ddpm", **{**given, "learning_rate": None}) == config


@pytest.mark.parametrize("name", AWKWARD)
def test_a_run_is_exported_to_a_model_that_is_not_there_yet(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = parsed(suggestions.export(Path(name), "--unfinished"))
    assert first.run == Path(name)
    assert first.unfinished
    (first.target / MANIFEST_FILE).parent.mkdir(parents=True)
    (first.target / MANIFEST_FILE).touch()
    second = parsed(suggestions.export(Path(name)))
    assert second.target == first.target.with_name(f"{first.target.name}-2")
