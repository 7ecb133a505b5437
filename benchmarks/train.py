"""Images per second of the training loop, compared with the bare loop and with other trainers.

    bare         forward, backward, clipping and optimizer step of the DDPM, repeated on one batch
    ours         the trainer's loop: data set, noise, averaging, learning rate, log, progress bar
    lucidrains   denoising-diffusion-pytorch's Trainer (benchmarks/peers/train_lucidrains.py)
    diffusers    the loop of its unconditional example (benchmarks/peers/train_diffusers.py)

All train in float32 on the same Fashion-MNIST pictures with the same batch size and threads; the peers' U-Nets have the
width whose number of parameters is nearest to ours. The first steps, samples and checkpoints at the end of an epoch are
not timed.

    python -m benchmarks.train                   prints a table, writes benchmarks/results/train.json
    python -m benchmarks.train --rounds 1 --steps 5 --images 1024      a short trial, not recorded
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.running import Peer
from benchmarks.peers.training import Task, synchronise
from benchmarks.report import verdict, write_record
from service.images import encode_png
from trainer.config import RunConfig, load_preset
from trainer.data import ImageData, load_fashion_mnist, to_unit_range
from trainer.run.loop import TrainingRun

PEERS = {name: Peer(name, ("-m", f"benchmarks.peers.train_{name}")) for name in ("lucidrains", "diffusers")}

#: Goal: the ratio of the loop's images per second to the bare loop's.
GOAL = 0.9


@dataclass(frozen=True)
class Speed:
    """The speed of one loop in one round."""

    images_per_s: float
    parameters: int


@dataclass(frozen=True)
class Summary:
    """Median and range over the rounds; ``of_bare`` is the median ratio to the bare loop of the same round."""

    images_per_s: float
    least: float
    greatest: float
    of_bare: float
    parameters: int


class TimedRun(TrainingRun):
    """Records the times before step ``warm_up`` and after the last one."""

    warm_up = 0
    started = ended = 0.0

    def _epoch_step(self, *arguments: object) -> None:
        if self.state.step == self.warm_up:
            synchronise()
            self.started = time.perf_counter()
        super()._epoch_step(*arguments)  # type: ignore[arg-type]
        if self.state.step == self.plan.total:
            synchronise()
            self.ended = time.perf_counter()


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps per loop and round (default 30)")
    parser.add_argument("--warm-up", type=int, default=5, help="untimed steps before them (default 5)")
    parser.add_argument("--images", type=int, default=8192, help="training pictures (default 8192)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_preset("ddpm", precision="fp32")
    data = first(load_fashion_mnist(), options.images)
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as scratch:
        pictures = Path(scratch, "pictures")
        write_pictures(data, pictures / "all")
        task = Task(str(pictures), 28, config.batch_size, options.warm_up, options.steps, 0, options.threads)
        rounds = [_round(number, config, data, task, device) for number in range(1, options.rounds + 1)]
    summaries = summarise(rounds)
    reached = summaries["ours"].of_bare
    _print(summaries, reached)
    defaults = all(getattr(options, name) == parser.get_default(name) for name in vars(options))
    if defaults:
        settings = {"config": config.model_dump(), "rounds_in_turn": rounds, "goal": GOAL, "met": reached >= GOAL}
        write_record("train", summaries=summaries, steps=options.steps, threads=options.threads, **settings)


def _round(number: int, config: RunConfig, data: ImageData, task: Task, device: torch.device) -> dict[str, Speed]:
    pair = {"bare": bare, "ours": ours}
    # Alternate the order, because the second one finds a warm allocator.
    speeds = {name: pair[name](config, data, task, device) for name in sorted(pair, reverse=number % 2 == 0)}
    task = replace(task, parameters=speeds["ours"].parameters)
    for name, peer in PEERS.items():
        if peer.installed:
            speeds[name] = theirs(peer, task)
        elif number == 1:
            print(f"{name} is not installed: left out")
    print(
        f"round {number}: {', '.join(f'{name} {speed.images_per_s:.0f}' for name, speed in speeds.items())}", flush=True
    )
    return speeds


def bare(config: RunConfig, data: ImageData, task: Task, device: torch.device) -> Speed:
    """Forward, backward, clip and step on one prepared batch."""
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as folder:
        objective = TrainingRun(config, data, Path(folder), device).objective
    (network,), (optimizer,) = objective.networks.values(), objective.optimizers.values()
    parameters = list(network.parameters())
    x = to_unit_range(data.images[: task.batch_size]).to(device).contiguous(memory_format=torch.channels_last)
    noise, label = torch.randn_like(x), data.labels[: task.batch_size].to(device)
    t = torch.rand(len(x), device=device).clamp(min=0.01)
    started = 0.0
    for step in range(task.warm_up + task.steps):
        if step == task.warm_up:
            synchronise()
            started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(network(x, t, label), noise).backward()  # type: ignore[no-untyped-call]
        if config.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(parameters, config.optimizer.clip)
        optimizer.step()
    synchronise()
    seconds = time.perf_counter() - started
    return Speed(task.steps * task.batch_size / seconds, sum(weight.numel() for weight in parameters))


def ours(config: RunConfig, data: ImageData, task: Task, device: torch.device) -> Speed:
    """The trainer's loop, over as many steps."""
    with tempfile.TemporaryDirectory(prefix="genserve-bench-") as folder:
        changes = {"steps": task.warm_up + task.steps}
        run = TimedRun(config.model_copy(update=changes), data, Path(folder), device)
        run.warm_up = task.warm_up
        run.fit()
    parameters = sum(weight.numel() for weight in run.objective.networks.parameters())
    return Speed(task.steps * task.batch_size / (run.ended - run.started), parameters)


def theirs(peer: Peer, task: Task) -> Speed:
    """A peer's loop in its own environment."""
    command = [str(peer.home / "bin/python"), *peer.arguments, json.dumps(asdict(task))]
    settings = {"PYTHONPATH": ".", "OMP_NUM_THREADS": str(task.threads)}
    result = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{peer.name} failed: {result.stderr[-2000:]}")
    return Speed(**json.loads(result.stdout.splitlines()[-1]))


def summarise(rounds: Sequence[Mapping[str, Speed]]) -> dict[str, Summary]:
    """The summary of each loop over the rounds."""
    summaries = {}
    for name in rounds[0]:
        rates = [each[name].images_per_s for each in rounds]
        of_bare = median(each[name].images_per_s / each["bare"].images_per_s for each in rounds)
        summaries[name] = Summary(median(rates), min(rates), max(rates), of_bare, rounds[0][name].parameters)
    return summaries


def first(data: ImageData, count: int) -> ImageData:
    """The first ``count`` pictures of ``data``."""
    facts = replace(data.facts, images=count)
    return replace(data, facts=facts, images=data.images[:count], labels=data.labels[:count])


def write_pictures(data: ImageData, folder: Path) -> None:
    """Write the pictures as PNG files to ``folder`` for the peers."""
    folder.mkdir(parents=True)
    for number, image in enumerate(data.images.permute(0, 2, 3, 1).numpy()):
        (folder / f"{number:05d}.png").write_bytes(encode_png(image))


def _print(summaries: Mapping[str, Summary], reached: float) -> None:
    print(f"\n{'':12}{'images/s':>10}{'least':>10}{'greatest':>10}{'of bare':>10}{'parameters':>12}")
    for name, each in summaries.items():
        speeds = f"{each.images_per_s:10.0f}{each.least:10.0f}{each.greatest:10.0f}"
        print(f"{name:12}{speeds}{each.of_bare:10.2f}{each.parameters:12,}")
    print(f"the whole loop {reached:.2f} of the bare one, goal {GOAL:g}: {verdict(reached >= GOAL)}")


if __name__ == "__main__":
    main()
