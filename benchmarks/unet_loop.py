"""The bare loop of a folder's UNet, as diffusers loads it: rows per second by the number of rows in a call.

Prints a JSON object from numbers of rows to rows per second. ``--threads`` is that of torch.

    python -m benchmarks.unet_loop FOLDER --threads 1 --seconds 2 --rows 1 2 4 8
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.prompt_folder import TOKENS
from service.models.diffusers.libraries import class_of
from service.process import keep_memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each number of rows (default 2)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    unet = class_of("diffusers", "UNet2DConditionModel").from_pretrained(options.folder / "unet", local_files_only=True)
    print(json.dumps({rows: rows_per_s(unet.eval(), rows, options.seconds) for rows in options.rows}))


@torch.inference_mode()
def rows_per_s(unet: Any, rows: int, seconds: float) -> float:  # noqa: ANN401  (diffusers has no types)
    """Rows per second of calls with ``rows`` rows, for at least ``seconds`` after a first call."""
    config = unet.config
    x = torch.randn(rows, config.in_channels, config.sample_size, config.sample_size)
    context = torch.randn(rows, TOKENS, config.cross_attention_dim)
    t = torch.linspace(999.0, 0.0, rows)  # rows of a tick are at different steps
    unet(x, t, context, return_dict=False)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        unet(x, t, context, return_dict=False)
        calls += 1
    return rows * calls / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
