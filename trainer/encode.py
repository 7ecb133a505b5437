"""The latent map of a model: codes of training images, which the service does not have."""

import torch

from service.sampling.latent_map import LatentMap, project
from trainer.data import ImageData, choose, to_unit_range
from trainer.models.parts import Parts

#: Enough to show where the classes lie, in a file of a few hundred kilobytes.
MAPPED_PICTURES = 2000
BATCH = 250


@torch.inference_mode()
def latent_map(parts: Parts, data: ImageData) -> LatentMap:
    """Mean codes of a random selection of ``data`` and their projection to a plane. ``parts`` must have an encoder."""
    assert parts.encode is not None
    chosen = choose(MAPPED_PICTURES, len(data.images))  # random, because the images of a folder are sorted by class
    images, labels = data.images[chosen], data.labels[chosen]
    batches = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    codes = torch.cat([parts.encode(to_unit_range(pictures), label)[0] for pictures, label in batches])
    return project(codes.numpy(), labels.numpy())
