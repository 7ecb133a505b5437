"""The training loop of every family: batches, learning rate, average, log, grid, checkpoint, resume.

Whatever decides the numbers is in the checkpoint or a function of the config, so a run that was cut off and
resumed takes the same steps as one that was not, by whatever number of processes and micro-batches.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from trainer import checkpoint, processes
from trainer.config import OptimizerConfig, RunConfig
from trainer.data import DataError, DataFacts, ImageData, to_unit_range
from trainer.draws import Draws, step_seed
from trainer.generate import save_grid
from trainer.models.parts import Parts
from trainer.objectives import Objective, build
from trainer.objectives.base import Position

LOG_EVERY_STEPS = 50
CHECKPOINT_EVERY_SECONDS = 60.0
#: Pictures on which a run that begins with another's network measures its codes.
MEASURED_IMAGES = 2048

Tensors = tuple[Tensor, ...] | list[Tensor]


class Diverged(Exception):
    """A loss is no longer finite; the last checkpoint is from before."""


class Indivisible(Exception):
    """A batch of this run cannot be cut into so many parts; the message says why."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its checkpoint; ``signum`` is the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; go on with --resume")
        self.signum = signum


@dataclass(frozen=True)
class Best:
    """The ``state_dict`` of the average nearest to the training pictures, after which epoch, how near, by whom."""

    epoch: int
    distance: float
    generator: dict[str, Tensor]
    judge: str


class Distance(Protocol):
    """How far a model's pictures are from training pictures; distances of another ``judge`` mean something else."""

    judge: str

    def __call__(self, parts: Parts) -> float:
        """The distance of a model in eval mode."""


@dataclass
class RunState:
    """Where a run stands: steps taken, seconds spent, losses of this epoch and of the last whole one.

    ``loss_counts`` are the steps of this epoch that told each loss: a WGAN's generator moves in one of five.
    """

    step: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, Tensor] = field(default_factory=dict)
    loss_counts: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    best: Best | None = None


def learning_rate_factor(settings: OptimizerConfig, progress: float) -> float:
    """What the learning rate is multiplied by when ``progress`` (0 to 1) of the run is done."""
    if progress < settings.warmup:
        return progress / settings.warmup
    if not settings.decay:
        return 1.0
    done = (progress - settings.warmup) / (1.0 - settings.warmup)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))


def ema_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average for AveragedModel, its horizon growing with the steps up to ``decay``.

    A fixed decay near one keeps the random start in the average of a short run for thousands of steps.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, seen: Tensor | int) -> None:
        warm = min(decay, (1.0 + int(seen)) / (10.0 + int(seen)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1.0 - warm)
        else:  # counters, such as batch norm's
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return average


def drop_labels(label: Tensor, share: float, null_label: int, draws: Draws) -> Tensor:
    """``label`` (batch,) with a random ``share`` replaced by "no class", so that one network learns both."""
    dropped = draws.rand(len(label)) < share
    return torch.where(dropped, null_label, label)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch visits the images: (count,) int64, a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)


def device_name(device: torch.device) -> str:
    """What a run is said to have been trained on: the GPU's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


class TrainingRun:
    """One run in one folder. ``fit`` trains to the end of the config from wherever the run stands."""

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        folder: Path,
        device: torch.device,
        start: dict[str, Tensor] | None = None,
        accumulate: int = 1,
        distance: Distance | None = None,
    ) -> None:
        """``start`` is the averaged generator, a ``state_dict``, of the run that this one begins with.

        ``accumulate`` is into how many micro-batches each process cuts its rows of a batch. ``distance`` is what the
        best average is chosen by; without it the last is. Raises DataError when there is less data than a batch,
        Indivisible when a batch cannot be cut like that.
        """
        self.accumulate, self.distance = accumulate, distance
        self.config, self.data, self.folder, self.device = config, data, folder, device
        self.objective: Objective = build(config, data.facts.image_shape, len(data.facts.class_names), device)
        self._require_divisible()
        if start is not None:
            # Shuffled: a folder's pictures lie class by class.
            measured = epoch_order(config.seed, 0, len(data.images))[:MEASURED_IMAGES]
            sample = to_unit_range(data.images[measured]).to(device)
            self.objective.start_from(start, sample, data.labels[measured].to(device))
        self.average = AveragedModel(
            self.objective.generator, multi_avg_fn=ema_average(config.ema_decay), use_buffers=True
        )
        self.average.eval()
        self.state = RunState()
        self.steps_per_epoch = len(data.images) // config.batch_size
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{len(data.images)} images are less than a batch of {config.batch_size}: lower --batch-size"
            )
        self.total_steps = self.steps_per_epoch * config.epochs
        # A device holds the whole uint8 set: indexing there costs less than copying batches to it.
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self._order, self._order_of = torch.empty(0, dtype=torch.int64), -1

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.state.step // self.steps_per_epoch

    def fit(self) -> None:
        """Train to the end. Raises Diverged, or Interrupted after SIGINT or SIGTERM, the checkpoint saved."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved_at = time.monotonic()
        with self._board() as board, self._bar() as bar, stop_requests() as stop:
            while self.state.step < self.total_steps:
                self._epoch_step(board, bar)
                at_epoch_end = self.state.step % self.steps_per_epoch == 0
                if at_epoch_end:
                    self._close_epoch(board)
                overdue = processes.rank() == 0 and time.monotonic() - saved_at > CHECKPOINT_EVERY_SECONDS
                stopping, saving = processes.any_of([bool(stop), overdue])
                if stopping or saving or at_epoch_end:
                    self.save()
                    saved_at = time.monotonic()
                if stopping:
                    raise Interrupted(stop[0] if stop else signal.SIGTERM)

    def save(self) -> None:
        """Write the checkpoint. Raises Diverged, and keeps the one before, when losses or weights have gone bad."""
        self._require_finite()
        self.state.loss_sums = processes.mean_of(self.state.loss_sums)
        if processes.rank() == 0:
            checkpoint.save(self.folder, self.config, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.state.step,
            "seconds": self.state.seconds,
            "device": device_name(self.device),
            "data": asdict(self.data.facts),
            "loss_sums": self.state.loss_sums,
            "loss_counts": self.state.loss_counts,
            "losses": self.state.losses,
            "networks": self.objective.networks.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in self.objective.optimizers.items()},
            "average": self.average.state_dict(),
            "best": self.state.best and vars(self.state.best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where ``state``, of a run with this config, stood. Raises CheckpointError on other data.

        Its best average is forgotten when another judge chose it, or when there is none now.
        """
        if problem := DataFacts(**state["data"]).unlike(self.data.facts):
            raise checkpoint.CheckpointError(f"{self.folder} was begun on other data: {problem}")
        sums = {name: value.to(self.device) for name, value in state["loss_sums"].items()}
        counts = dict(state["loss_counts"])
        judge, best = self.distance and self.distance.judge, None
        if state["best"] is not None and state["best"].get("judge") == judge:
            best = Best(**state["best"])
        self.state = RunState(state["step"], state["seconds"], sums, counts, dict(state["losses"]), best)
        try:
            self.objective.networks.load_state_dict(state["networks"])
            for name, optimizer in self.objective.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError) as failure:
            raise checkpoint.CheckpointError(
                f"{self.folder} holds a {self.config.family} of another version, whose networks differ: "
                + " ".join(str(failure).split())
            ) from failure

    def _epoch_step(self, board: SummaryWriter | None, bar: "tqdm[Any]") -> None:
        started = time.monotonic()
        at = Position(self.state.step, self.total_steps)
        self._set_learning_rate(at.share)
        losses = self._train_on(self._batch_index(), at)
        self.average.update_parameters(self.objective.generator)
        for name, loss in losses.items():
            self.state.loss_sums[name] = self.state.loss_sums.get(name, torch.zeros_like(loss)) + loss
            self.state.loss_counts[name] = self.state.loss_counts.get(name, 0) + 1
        self.state.step += 1
        self.state.seconds += time.monotonic() - started
        bar.update(self.config.batch_size)
        if self.state.step % LOG_EVERY_STEPS == 0:
            self._log(board, bar, losses)

    def _batch_index(self) -> Tensor:
        epoch, position = divmod(self.state.step, self.steps_per_epoch)
        if self._order_of != epoch:
            self._order = epoch_order(self.config.seed, epoch, len(self.images)).to(self.device)
            self._order_of = epoch
        first = position * self.config.batch_size
        return self._order[first : first + self.config.batch_size]

    def _train_on(self, index: Tensor, at: Position) -> dict[str, Tensor]:
        """One step on this process's rows of the batch; the losses are its means over them."""
        rows = index.chunk(processes.count())[processes.rank()]
        seed = step_seed(self.config.seed, self.state.step)
        losses = [self._train_on_part(rows, seed, number, at) for number in range(self.accumulate)]
        return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}

    def _train_on_part(self, rows: Tensor, seed: int, number: int, at: Position) -> dict[str, Tensor]:
        index = rows.chunk(self.accumulate)[number]
        self.objective.begin(seed, number, self.accumulate)
        images = to_unit_range(self.images[index]).contiguous(memory_format=torch.channels_last)
        share, null_label = self.config.label_dropout, len(self.data.facts.class_names)
        label = drop_labels(self.labels[index], share, null_label, self.objective.draws)
        return self.objective.train_step(images, label, at)

    def _require_divisible(self) -> None:
        parts = processes.count() * self.accumulate
        if self.config.batch_size % parts:
            raise Indivisible(f"--batch-size {self.config.batch_size} cannot be cut into {parts} parts of one size")
        if self.accumulate > 1 and not self.objective.accumulates:
            raise Indivisible(f"--accumulate: the {self.config.family}'s step needs the whole batch at once")
        if parts > 1 and any(isinstance(module, _BatchNorm) for module in self.objective.networks.modules()):
            raise Indivisible(
                f"this {self.config.family} has batch normalisation, which looks at a whole batch: "
                "train it in one process, without --accumulate"
            )

    def _set_learning_rate(self, progress: float) -> None:
        settings = self.config.optimizer
        for optimizer in self.objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(settings, progress)

    def _log(self, board: SummaryWriter | None, bar: "tqdm[Any]", losses: dict[str, Tensor]) -> None:
        self._require_finite()
        values = {name: float(loss) for name, loss in processes.mean_of(losses).items()}
        if board is None:
            return
        for name, value in values.items():
            board.add_scalar(f"loss/{name}", value, self.state.step)
        epoch = f"epoch {min(self.epoch + 1, self.config.epochs)}/{self.config.epochs}"
        bar.set_postfix_str(", ".join([epoch, *(f"{name} {value:.4g}" for name, value in values.items())]))

    def _close_epoch(self, board: SummaryWriter | None) -> None:
        self._require_finite()
        totals, counts = processes.mean_of(self.state.loss_sums), self.state.loss_counts
        self.state.losses = {name: float(total) / counts[name] for name, total in totals.items()}
        self.state.loss_sums, self.state.loss_counts = {}, {}
        if board is None:
            return
        for name, value in self.state.losses.items():
            board.add_scalar(f"epoch/{name}", value, self.epoch)
        if self.epoch % self.config.grid_every == 0 or self.epoch == self.config.epochs:
            self._judge(board, self.objective.parts(self.average.module))

    def _judge(self, board: SummaryWriter, parts: Parts) -> None:
        """Show the average's pictures, and keep it when they are nearer to the training pictures than any before."""
        path = self.folder / "samples" / f"epoch-{self.epoch:03d}.png"
        board.add_image("samples", save_grid(parts, path, self.device, self.data), self.epoch)
        if self.distance is None:
            return
        distance, best = self.distance(parts), self.state.best
        board.add_scalar("distance", distance, self.epoch)
        if best is None or distance < best.distance:
            weights = {name: value.clone() for name, value in self.average.module.state_dict().items()}
            self.state.best = Best(self.epoch, distance, weights, self.distance.judge)

    def _require_finite(self) -> None:
        # Of all processes, so that all of them stop.
        totals = processes.mean_of(self.state.loss_sums)
        bad = [f"loss {name}" for name, total in totals.items() if not torch.isfinite(total)]
        # A loss is of the weights before its step: the step itself may be what broke them.
        weights = self.objective.networks.named_parameters()
        bad += [f"weight {name}" for name, weight in weights if not torch.isfinite(weight.detach()).all()]
        if bad:
            kept = (self.folder / checkpoint.FILE_NAME).exists()
            raise Diverged(
                f"the {bad[0]} is not finite at step {self.state.step}. "
                f"{'The last checkpoint is kept' if kept else 'There is no checkpoint from before'}; "
                "try a lower learning rate, or --precision fp32."
            )

    def _board(self) -> AbstractContextManager[SummaryWriter | None]:
        if processes.rank() > 0:
            return nullcontext()
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.state.step or None)

    def _bar(self) -> "tqdm[Any]":
        return tqdm(
            total=self.total_steps * self.config.batch_size,
            initial=self.state.step * self.config.batch_size,
            unit="img",
            unit_scale=True,
            desc=self.config.family,
            dynamic_ncols=True,
            disable=processes.rank() > 0,
        )


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM only add their number to the list: the step under way ends and is saved."""
    received: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
