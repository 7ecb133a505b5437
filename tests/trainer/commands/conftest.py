from pathlib import Path

import pytest

from tests.trainer.conftest import EMOJI, MakeRun
from tests.trainer.evaluate.conftest import SHIPPED
from tests.trainer.sample import first_of_sample
from trainer.__main__ import main
from trainer.export import export


@pytest.fixture(scope="package")
def trained(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs/vae, runs/ddpm, runs/autoencoder and weights/vae."""
    folder = tmp_path_factory.mktemp("trained")
    for family in ("vae", "ddpm", "autoencoder"):
        run = make_run(family, folder / "runs" / family, epochs=1)
        run.fit()
    export(folder / "runs" / "vae", folder / "weights" / "vae", run.data)
    return folder


@pytest.fixture(scope="package")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training and 150 test pictures."""
    return first_of_sample(tmp_path_factory.mktemp("data"), 400, 150)


@pytest.fixture
def options(data_folder: Path) -> list[str]:
    return ["--evaluator", str(SHIPPED), "--data-dir", str(data_folder), "--device", "cpu"]


@pytest.fixture(scope="package")
def evaluator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("text-evaluator")
    assert (
        main(["text-evaluator", "--data-dir", str(EMOJI), "--epochs", "2", "--precision", "fp32", "--out", str(folder)])
        == 0
    )
    return folder
