from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from service.engine import rows
from service.engine.cost import CostModel
from service.engine.lane import Lane
from service.engine.model import Model, load_model
from service.engine.rows import RowSpec
from service.metrics import Metrics
from service.sampling.solvers import Plan
from tests.service.artefacts import PoisonDecode, write_diffusion, write_one_shot

CPU = torch.device("cpu")


@pytest.fixture
def one_shot(tmp_path: Path) -> Model:
    """Decodes at once; a latent beyond +-100 is poison."""
    write_one_shot(tmp_path, "vae", PoisonDecode())
    return load_model(tmp_path / "vae", CPU)


@pytest.fixture
def diffusion(tmp_path: Path) -> Model:
    write_diffusion(tmp_path, "ddpm")
    return load_model(tmp_path / "ddpm", CPU)


@pytest.fixture
def diffusion_with(tmp_path: Path) -> Callable[[nn.Module], Model]:
    """A diffusion with a network of the test's own."""

    def make(denoise: nn.Module) -> Model:
        write_diffusion(tmp_path, "own", denoise)
        return load_model(tmp_path / "own", CPU)

    return make


@pytest.fixture
def lane_of() -> Callable[..., Lane]:
    """A lane of a model with calls that cost one millisecond whatever their size, so that the bucket is ``bucket``."""

    def make(model: Model, rows: int = 8, bucket: int = 4) -> Lane:
        cost = CostModel(dict.fromkeys(range(1, bucket + 1), 1.0))
        return Lane(model, cost, rows, Metrics().for_model(model.name, ["internal"]))

    return make


def request_rows(n: int, seed: int, label: int, guidance_scale: float, plan: Plan) -> list[RowSpec]:
    """The rows of a request for one class."""
    return rows.request_rows(n, seed, lambda _: label, guidance_scale, plan)
