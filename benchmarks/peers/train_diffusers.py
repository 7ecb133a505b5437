"""A loop as in diffusers' unconditional example: python -m benchmarks.peers.train_diffusers TASK, TASK in JSON.

accelerate, a DataLoader over a folder of pictures, UNet2DModel with its EMAModel, DDPMScheduler, AdamW with clipping
and a cosine schedule: what the example's script does in a step, without its samples and checkpoints.
"""

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainer.vision import datasets  # torchvision beside a CPU-only torch: before anything else imports it

assert datasets

from accelerate import Accelerator  # noqa: E402
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel  # noqa: E402
from diffusers.optimization import get_scheduler  # noqa: E402
from diffusers.training_utils import EMAModel  # noqa: E402
from torchvision import transforms  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.peers.training import Task, nearest, synchronise  # noqa: E402


def network(width: int) -> nn.Module:
    """A U-Net of two resolutions, with attention at the lower one."""
    model: nn.Module = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(width, 2 * width),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return model


def batches(loader: "DataLoader[list[Tensor]]") -> Iterator[Tensor]:
    """Epoch after epoch."""
    while True:
        for images, _ in loader:
            yield images


def sample(model: nn.Module, schedule: DDPMScheduler, count: int, task: Task) -> Tensor:
    """Pictures by DDIM, in [0, 1]."""
    solver = DDIMScheduler.from_config(schedule.config)
    solver.set_timesteps(task.sampling_steps)
    x = torch.randn(count, 1, task.image_size, task.image_size)
    for t in solver.timesteps:
        x = solver.step(model(x, t).sample, t, x).prev_sample
    return (x + 1) / 2


def main() -> None:
    """Train, draw, report."""
    task = Task.told()
    accelerator, schedule = Accelerator(), DDPMScheduler(num_train_timesteps=1000)
    model = nearest(network, task.parameters)
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    prepare = [transforms.Grayscale(), transforms.Resize(task.image_size), transforms.CenterCrop(task.image_size)]
    prepare += [transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    pictures = datasets.ImageFolder(task.folder, transforms.Compose(prepare))
    loader = DataLoader(pictures, batch_size=task.batch_size, shuffle=True, drop_last=True)
    total = task.warm_up + task.steps
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=total)
    model, optimizer, loader, rate = accelerator.prepare(model, optimizer, loader, rate)
    average.to(accelerator.device)
    source, started = batches(loader), 0.0
    for step in (bar := tqdm(range(total))):
        if step == task.warm_up:
            synchronise()
            started = time.perf_counter()
        clean = next(source)
        noise = torch.randn_like(clean)
        at = torch.randint(0, 1000, (len(clean),), device=clean.device)
        with accelerator.accumulate(model):
            loss = F.mse_loss(model(schedule.add_noise(clean, noise, at), at).sample, noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        average.step(model.parameters())
        bar.set_postfix(loss=loss.detach().item(), lr=rate.get_last_lr()[0])
    synchronise()
    seconds = time.perf_counter() - started
    average.copy_to(model.parameters())
    task.draw(lambda count: sample(model.eval(), schedule, count, task))
    task.report(seconds, model)


if __name__ == "__main__":
    main()
