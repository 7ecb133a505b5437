"""Results of rows: pictures, latents and previews."""

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

    ``x_t`` is the noisy latent and ``x_start`` the predicted clean one, both decoded; None if the film omits it.
    """

    row: int
    step: int
    steps: int
    t: float
    x_start: Picture | None
    x_t: Picture | None


class Progress(NamedTuple):
    """How far a job is.

    ``rows_ahead``: other jobs' rows that join the table before its next one; 0 once all of its rows have joined.
    ``calls_left``: forward-pass rows that it still needs. ``eta_ms``: estimated milliseconds until it is done, from the
    model's accepted work and its recent throughput.
    """

    rows_ahead: int
    calls_left: int
    eta_ms: float
