"""Codes of training pictures, the plane of a latent map through them, and their file format."""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class LatentsError(ValueError):
    """Invalid bytes; the message gives the reason."""


@dataclass(frozen=True)
class LatentMap:
    """``codes`` (count, *latent), the ``labels`` (count,) of their pictures, and their plane of greatest variance.

    A point (x, y) of the plane is the latent ``origin`` + x ``axes[0]`` + y ``axes[1]``, where ``origin`` (*latent) is
    the codes' mean and ``axes`` (2, *latent) have unit length. ``points`` (count, 2) are the codes' projections.
    """

    codes: Floats
    labels: npt.NDArray[np.int64]
    points: Floats
    origin: Floats
    axes: Floats


def project(codes: Floats, labels: npt.NDArray[np.int64]) -> LatentMap:
    """The map of ``codes`` (count, *latent): the plane of their first two principal components."""
    flat = codes.reshape(len(codes), -1).astype(np.float64)
    origin = flat.mean(axis=0)
    _, _, rows = np.linalg.svd(flat - origin, full_matrices=False)
    axes = rows[:2] * np.sign(rows[:2, np.abs(rows[:2]).argmax(axis=1)].diagonal())[:, None]  # fix the signs
    points = (flat - origin) @ axes.T
    shape = codes.shape[1:]
    return LatentMap(
        codes.astype(np.float32),
        labels.astype(np.int64),
        points.astype(np.float32),
        origin.reshape(shape).astype(np.float32),
        axes.reshape(2, *shape).astype(np.float32),
    )


def pack(latent_map: LatentMap) -> bytes:
    """The map as an .npz file; codes as float16, which is precise enough."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        codes=latent_map.codes.astype(np.float16),
        labels=latent_map.labels.astype(np.uint16),
        points=latent_map.points,
        origin=latent_map.origin,
        axes=latent_map.axes,
    )
    return file.getvalue()


def unpack(payload: bytes, latent_shape: tuple[int, ...], null_label: int) -> LatentMap:
    """The inverse of `pack`, for a model with latents of this shape. Raises LatentsError."""
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("codes", "labels", "points", "origin", "axes")}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as failure:
        raise LatentsError(f"not a file of latent codes: {failure}") from failure
    count = len(arrays["codes"])
    shapes = {
        "codes": (count, *latent_shape),
        "labels": (count,),
        "points": (count, 2),
        "origin": latent_shape,
        "axes": (2, *latent_shape),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise LatentsError(f"{name} is {arrays[name].shape}, not {shape}")
    if count and int(arrays["labels"].max()) > null_label:
        raise LatentsError(f"a label is above {null_label}, the label for no class")
    labels = arrays.pop("labels").astype(np.int64)
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    if not all(np.isfinite(array).all() for array in floats.values()):
        raise LatentsError("a number is not finite")
    return LatentMap(labels=labels, **floats)
