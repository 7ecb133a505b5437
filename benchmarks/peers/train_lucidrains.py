"""lucidrains' Trainer on a folder of pictures: python -m benchmarks.peers.train_lucidrains TASK, TASK in JSON.

Left as its README has it but for what would make the work unequal: no flips (they cost a copy), no samples and no
FID while it is timed, and a U-Net of two resolutions whose width gives the wanted number of parameters.
"""

import time
from pathlib import Path

from trainer.vision import utils  # torchvision beside a CPU-only torch: before anything else imports it

assert utils

from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet  # noqa: E402

from benchmarks.peers.training import Task, nearest, synchronise  # noqa: E402


def main() -> None:
    """Train, draw, report."""
    task = Task.told()
    network = nearest(lambda width: Unet(dim=width, dim_mults=(1, 2), channels=1), task.parameters)
    trainer = Trainer(
        GaussianDiffusion(network, image_size=task.image_size, sampling_timesteps=task.sampling_steps),
        task.folder,
        train_batch_size=task.batch_size,
        train_num_steps=task.warm_up,
        augment_horizontal_flip=False,
        save_and_sample_every=10**9,
        calculate_fid=False,
        results_folder=str(Path(task.folder).with_name("results")),
    )
    trainer.train()
    trainer.train_num_steps += task.steps
    synchronise()
    started = time.perf_counter()
    trainer.train()
    synchronise()
    seconds = time.perf_counter() - started
    task.draw(lambda count: trainer.ema.ema_model.sample(batch_size=count))
    task.report(seconds, network)


if __name__ == "__main__":
    main()
