"""One process of a run on the 64 sample images, for torchrun: python -m tests.trainer.compute.worker CONFIG FOLDER.

CONFIG is JSON; a checkpoint in FOLDER is resumed.
"""

import sys
from pathlib import Path

import torch

from tests.trainer.conftest import some
from tests.trainer.sample import SAMPLE
from trainer.compute import processes
from trainer.config import RunConfig
from trainer.data import load_fashion_mnist
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun


def main() -> None:
    config, folder = RunConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    with processes.process_group(torch.device("cpu")) as device:
        run = TrainingRun(config, some(load_fashion_mnist(SAMPLE), 64), folder, device)
        if (folder / checkpoint.FILE_NAME).exists():
            run.load_state_dict(checkpoint.load(folder)[1])
        run.fit()


if __name__ == "__main__":
    main()
