"""Codes of training pictures, for the latent map of a model that has no data set when it serves."""

import torch

from service.sampling.latent_map import LatentMap, project
from trainer.data import ImageData, choose, to_unit_range
from trainer.models.parts import Parts

#: Enough to see how the classes lie, in a file of a few hundred kilobytes.
MAPPED_PICTURES = 2000
BATCH = 250


@torch.inference_mode()
def latent_map(parts: Parts, data: ImageData) -> LatentMap:
    """The mean codes of some pictures of ``data``, and the plane through them. ``parts`` must encode."""
    assert parts.encode is not None
    chosen = choose(MAPPED_PICTURES, len(data.images))  # at random: a folder's lie class by class
    images, labels = data.images[chosen], data.labels[chosen]
    batches = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    codes = torch.cat([parts.encode(to_unit_range(pictures), label)[0] for pictures, label in batches])
    return project(codes.numpy(), labels.numpy())
