"""The latent map that an export writes."""

from pathlib import Path

import torch

from service.sampling.latent_map import LatentMap, pack, unpack
from tests.trainer.conftest import MakeRun
from trainer.encode import MAPPED_PICTURES, latent_map


def test_a_map_shows_every_class_of_pictures_that_lie_class_by_class(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("autoencoder", tmp_path)
    repeats = 3 * MAPPED_PICTURES // len(run.data.images)
    images, labels = run.data.images.repeat(repeats, 1, 1, 1), run.data.labels.repeat(repeats)
    order = labels.argsort()
    run.data = run.data.__class__(run.data.facts, images[order], labels[order], "")
    shown: LatentMap = latent_map(run.objective.parts(run.objective.generator.eval()), run.data)
    assert set(shown.labels.tolist()) == set(labels.tolist())
    assert len(shown.labels) == MAPPED_PICTURES


def test_a_map_knows_more_classes_than_a_byte_can_count(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("autoencoder", tmp_path)
    shown = latent_map(run.objective.parts(run.objective.generator.eval()), run.data)
    shown.labels[:3] = [255, 256, 299]
    back = unpack(pack(shown), tuple(shown.codes.shape[1:]), null_label=300)
    assert back.labels[:3].tolist() == [255, 256, 299]
    assert torch.equal(torch.from_numpy(back.points), torch.from_numpy(shown.points))
