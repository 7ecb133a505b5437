import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.contract.files import ContractError
from service.engine.model import Model, encoder_of
from service.models.torchscript import load_model
from tests.service.artefacts import CLASS_NAMES, MapDecode, write_autoencoder, write_diffusion, write_one_shot
from tests.service.engine.conftest import CPU


def test_a_loaded_model_computes_and_knows_its_plans(diffusion: Model) -> None:
    x, inputs = torch.zeros(2, 1, 8, 8), {"label": torch.tensor([0, len(CLASS_NAMES)])}
    assert diffusion.denoise is not None
    assert diffusion.denoise(x, torch.tensor([1.0, 0.5]), inputs).shape == x.shape
    assert diffusion.max_steps == 1000
    assert len(diffusion.plan()) == 4
    assert len(diffusion.plan("ddpm", 30)) == 30
    assert diffusion.plan("ddpm", 30) is diffusion.plan("ddpm", 30)


def test_a_one_shot_model_has_an_empty_plan(one_shot: Model) -> None:
    assert one_shot.denoise is None
    assert one_shot.max_steps == 0
    assert len(one_shot.plan()) == 0


def test_plans_start_in_the_middle_and_go_back_up(diffusion: Model, one_shot: Model) -> None:
    assert len(diffusion.plan("ddim", 30, eta=0.5, strength=0.5)) == 15
    assert diffusion.plan("ddim", 30, eta=0.5, strength=0.5).adds_noise
    assert len(diffusion.inversion_plan(30)) == 30
    assert diffusion.inversion_plan(30) is diffusion.inversion_plan(30)
    with pytest.raises(ValueError, match="vae generates its pictures without steps"):
        one_shot.inversion_plan(30)


def test_an_encoder_is_the_models_own_function(tmp_path: Path) -> None:
    write_autoencoder(tmp_path)
    model = load_model(tmp_path / "vae", CPU)
    encoder = encoder_of(model)
    assert model.encode is not None
    assert encoder is not None
    assert encoder.max_steps == 0
    image, inputs = torch.rand(3, 1, 8, 8), {"label": torch.tensor([0, 1, 3])}
    mean, logvar = model.encode(image, inputs)
    numbers, usable = encoder.finish(encoder.decode(image, inputs))
    assert numbers.shape == (3, *encoder.result_shape) == (3, 2, 4)
    torch.testing.assert_close(numbers[:, 0], mean)
    torch.testing.assert_close(numbers[:, 1], logvar)
    assert usable.all()


def test_a_model_without_the_encoder_that_it_promises_is_refused(tmp_path: Path) -> None:
    decoder_only = tmp_path / "vae" / write_one_shot(tmp_path).artifact.file
    manifest = write_autoencoder(tmp_path, "coder")
    _replace(tmp_path / "coder", manifest.artifact.file, decoder_only.read_bytes())
    with pytest.raises(ContractError, match="not a TorchScript artefact of family vae"):
        load_model(tmp_path / "coder", CPU)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_weights_are_refused_by_file_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "vae" / write_one_shot(tmp_path).artifact.file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ContractError, match=path.name):
        load_model(tmp_path / "vae", CPU)


def test_altered_weights_are_refused_by_file_name(tmp_path: Path) -> None:
    path = tmp_path / "vae" / write_one_shot(tmp_path).artifact.file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ContractError, match=rf"{path.name}: its SHA-256"):
        load_model(tmp_path / "vae", CPU)


def test_a_model_in_another_models_folder_is_refused(tmp_path: Path) -> None:
    write_one_shot(tmp_path, "vae")
    (tmp_path / "vae").rename(tmp_path / "gan")
    with pytest.raises(ContractError, match="name: vae in a folder named gan"):
        load_model(tmp_path / "gan", CPU)


def test_bytes_that_hash_right_but_are_no_torchscript_are_refused(tmp_path: Path) -> None:
    manifest = write_one_shot(tmp_path)
    payload = b"not a zip file at all"
    _replace(tmp_path / "vae", manifest.artifact.file, payload)
    with pytest.raises(ContractError, match="not a TorchScript artefact of family vae"):
        load_model(tmp_path / "vae", CPU)


def test_an_artefact_without_the_parts_of_its_family_is_refused(tmp_path: Path) -> None:
    decoder_only = tmp_path / "vae" / write_one_shot(tmp_path).artifact.file
    manifest = write_diffusion(tmp_path)
    _replace(tmp_path / "ddpm", manifest.artifact.file, decoder_only.read_bytes())
    with pytest.raises(ContractError, match="not a TorchScript artefact of family ddpm"):
        load_model(tmp_path / "ddpm", CPU)


def test_torchscript_loads_one_artefact_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        write_one_shot(tmp_path, name)
    load, inside, most = torch.jit.load, [0], [0]

    def watched(*args: Any, **kwargs: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        loaded = load(*args, **kwargs)  # type: ignore[no-untyped-call]
        inside[0] -= 1
        return loaded

    monkeypatch.setattr(torch.jit, "load", watched)
    with ThreadPoolExecutor(2) as pool:
        loaded = list(pool.map(lambda name: load_model(tmp_path / name, CPU), ("one", "two")))
    assert [model.name for model in loaded] == ["one", "two"]
    assert most == [1]


def test_frozen_parts_are_in_eval_mode(tmp_path: Path) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            kept: torch.Tensor = self.dropout(torch.ones_like(z)).sum(dim=1)  # 4 when nothing is dropped
            return kept[:, None, None, None].expand(-1, 1, 8, 8)

    write_one_shot(tmp_path, decode=Dropping())
    model = load_model(tmp_path / "vae", CPU)
    assert (model.decode(torch.zeros(8, 4), {"label": torch.zeros(8, dtype=torch.int64)}) == 4).all()


def _replace(directory: Path, file: str, payload: bytes) -> None:
    """Put other weights in place, with a manifest that fits them."""
    sha256 = hashlib.sha256(payload).hexdigest()
    (directory / file).unlink()
    (directory / f"model-{sha256[:8]}.pt").write_bytes(payload)
    fields: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    fields["artifact"] |= {"file": f"model-{sha256[:8]}.pt", "size": len(payload), "sha256": sha256}
    (directory / "manifest.json").write_text(json.dumps(fields))


def test_the_bytes_that_are_loaded_are_those_that_were_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the file is replaced between the hash and the load."""
    manifest = write_one_shot(tmp_path)
    path, (z, inputs) = tmp_path / "vae" / manifest.artifact.file, (torch.ones(1, 4), {"label": torch.tensor([0])})
    expected = load_model(tmp_path / "vae", CPU).decode(z, inputs)
    write_one_shot(tmp_path, "other", MapDecode())
    (other,) = (tmp_path / "other").glob("model-*.pt")
    load = torch.jit.load

    def replace_and_load(*arguments: Any, **named: Any) -> Any:
        path.write_bytes(other.read_bytes())
        return load(*arguments, **named)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(torch.jit, "load", replace_and_load)
    torch.testing.assert_close(load_model(tmp_path / "vae", CPU).decode(z, inputs), expected)
    with pytest.raises(ContractError, match="bytes, but its manifest says"):
        load_model(tmp_path / "vae", CPU)
