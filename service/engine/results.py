"""What rows give: pictures, latents, and previews of a picture on its way."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: (height, width, channel) uint8.
Picture = npt.NDArray[np.uint8]
#: (*latent) float32; of an encoder (2, *latent): mean and log-variance.
Latent = npt.NDArray[np.float32]
Result = Picture | Latent


class Preview(NamedTuple):
    """Row ``row`` of a job after ``step`` of its ``steps`` steps, at noise level ``t``.

    ``x_t`` is the noisy latent there and ``x_start`` the clean one that is predicted from it, both decoded; None where
    the row's film does not ask for it.
    """

    row: int
    step: int
    steps: int
    t: float
    x_start: Picture | None
    x_t: Picture | None


class Progress(NamedTuple):
    """How far a job is.

    ``rows_ahead`` is how many rows of other jobs join before the next of its rows does, 0 once all have joined;
    ``calls_left`` is how many rows of network calls all of it still takes; ``eta_ms`` is in how many milliseconds it
    will be done, by what the model has accepted and how fast it was of late.
    """

    rows_ahead: int
    calls_left: int
    eta_ms: float
