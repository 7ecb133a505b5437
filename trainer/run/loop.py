"""The training loop of every family: batches, learning rate, average, log, grid, checkpoint, resume.

Whatever decides the numbers is in the checkpoint or a function of the config, so a run that was cut off and
resumed takes the same steps as one that was not, by whatever number of processes and micro-batches.
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from trainer.compute import memory, processes
from trainer.compute.draws import step_seed
from trainer.config import RunConfig
from trainer.data import DataError, ImageData, to_unit_range
from trainer.files import write
from trainer.generate import draw_grid, to_png
from trainer.models.parts import Parts
from trainer.objectives import Objective, build
from trainer.objectives.base import Position
from trainer.run import checkpoint
from trainer.run.folder import EVENTS, SAMPLES
from trainer.run.reporting import Report, reporting
from trainer.run.schedule import Plan, drop_labels, ema_average, epoch_order, learning_rate_factor
from trainer.run.stopping import Interrupted, StopRequests, stop_requests

LOG_EVERY_STEPS = 50
CHECKPOINT_EVERY_SECONDS = 60.0
#: Pictures on which a run that begins with another's network measures its codes.
MEASURED_IMAGES = 2048


class Diverged(Exception):
    """A loss is no longer finite; the last checkpoint is from before."""


class Indivisible(Exception):
    """A batch of this run cannot be cut into so many parts; the message says why."""


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

    ``loss_counts`` are the steps of this epoch that told each loss: a WGAN's generator moves in one of five. ``shown``
    is the last step after which samples were drawn and judged: it comes after the checkpoint of that step.
    """

    step: int = 0
    shown: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, Tensor] = field(default_factory=dict)
    loss_counts: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    best: Best | None = None


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
        data_dir: Path | None = None,
    ) -> None:
        """``start`` is the averaged generator, a ``state_dict``, of the run that this one begins with.

        ``accumulate`` is into how many micro-batches each process cuts its rows of a batch. ``distance`` is what the
        best average is chosen by; without it the last is. ``data_dir``, the folder of the data set's files, is kept in
        the checkpoint: a run is resumed and exported without naming it again. Raises DataError when there is less data
        than a batch, Indivisible when a batch cannot be cut like that.
        """
        self.accumulate, self.distance, self.data_dir = accumulate, distance, data_dir
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
        if len(data.images) < config.batch_size:
            raise DataError(
                f"{len(data.images)} images are less than a batch of {config.batch_size}: lower --batch-size"
            )
        self.plan = Plan(config.total_steps(len(data.images)), len(data.images) // config.batch_size)
        # A device holds the whole uint8 set: indexing there costs less than copying batches to it.
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self._order, self._order_of = torch.empty(0, dtype=torch.int64), -1

    @property
    def epoch(self) -> int:
        """The number, from 1, of the epoch that is going or has just ended; 0 before the first step."""
        return self.plan.epoch(self.state.step)

    def fit(self) -> None:
        """Train to the end. Raises Diverged, or Interrupted after SIGINT or SIGTERM, the checkpoint saved."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved_at = time.monotonic()
        position = self.plan, self.config.family, self.config.batch_size, self.state.step
        with (
            reporting(self.folder / EVENTS, *position) as report,
            stop_requests() as stop,
            memory.explained(self._less_memory()),
        ):
            self._show(report, stop)  # stopped while it drew samples, it draws them now
            while self.state.step < self.plan.total:
                self._epoch_step(report)
                at_epoch_end = self.plan.ends_epoch(self.state.step)
                if at_epoch_end:
                    self._close_epoch(report)
                overdue = processes.rank() == 0 and time.monotonic() - saved_at > CHECKPOINT_EVERY_SECONDS
                stopping, saving = processes.any_of([bool(stop), overdue])
                if stopping or saving or at_epoch_end:
                    self.save()
                    saved_at = time.monotonic()
                if stopping:
                    raise Interrupted(stop.signum)
                self._show(report, stop)

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
            "shown": self.state.shown,
            "seconds": self.state.seconds,
            "device": device_name(self.device),
            "data": asdict(self.data.facts),
            "fingerprint": self.data.fingerprint,
            "data_dir": self.data_dir and str(self.data_dir.resolve()),
            "loss_sums": self.state.loss_sums,
            "loss_counts": self.state.loss_counts,
            "losses": self.state.losses,
            "networks": self.objective.networks.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in self.objective.optimizers.items()},
            "average": self.average.state_dict(),
            "best": self.state.best and vars(self.state.best),
        }

    def load_state_dict(self, state: dict[str, Any], *, changed_data: bool = False) -> None:
        """Stand where ``state``, of a run with this config, stood.

        Its best average is forgotten when another judge chose it, or when there is none now. Raises CheckpointError on
        other pictures than those it was trained on, unless ``changed_data``, and on those of another shape or other
        classes, which its networks do not fit.
        """
        problem = checkpoint.other_data(state, self.data, changed_data=changed_data)
        if problem:
            raise checkpoint.CheckpointError(f"{self.folder} was begun on other data: {problem}")
        sums = {name: value.to(self.device) for name, value in state["loss_sums"].items()}
        counts = dict(state["loss_counts"])
        judge, best = self.distance and self.distance.judge, None
        if state["best"] is not None and state["best"].get("judge") == judge:
            best = Best(**state["best"])
        shown = state.get("shown", state["step"])  # before there was this field, samples came before the checkpoint
        self.state = RunState(state["step"], shown, state["seconds"], sums, counts, dict(state["losses"]), best)
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

    def _epoch_step(self, report: Report) -> None:
        started = time.monotonic()
        at = Position(self.state.step, self.plan.total)
        self._set_learning_rate(at.share)
        losses = self._train_on(self._batch_index(), at)
        self.average.update_parameters(self.objective.generator)
        for name, loss in losses.items():
            self.state.loss_sums[name] = self.state.loss_sums.get(name, torch.zeros_like(loss)) + loss
            self.state.loss_counts[name] = self.state.loss_counts.get(name, 0) + 1
        self.state.step += 1
        self.state.seconds += time.monotonic() - started
        report.advance(self.config.batch_size)
        if self.state.step % LOG_EVERY_STEPS == 0:
            self._require_finite()
            report.step(self.state.step, {name: float(loss) for name, loss in processes.mean_of(losses).items()})

    def _batch_index(self) -> Tensor:
        epoch, position = divmod(self.state.step, self.plan.per_epoch)
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

    def _close_epoch(self, report: Report) -> None:
        self._require_finite()
        totals, counts = processes.mean_of(self.state.loss_sums), self.state.loss_counts
        self.state.losses = {name: float(total) / counts[name] for name, total in totals.items()}
        self.state.loss_sums, self.state.loss_counts = {}, {}
        report.epoch(self.state.step, self.state.losses)

    def _show(self, report: Report, stop: StopRequests) -> None:
        """Draw and judge samples of the average where they are due; after a signal the resumed run does it."""
        step = self.state.step
        due = step == self.plan.total or (self.plan.ends_epoch(step) and self.epoch % self.config.grid_every == 0)
        if not due or self.state.shown == step:
            return
        if processes.rank() == 0:
            with stop.abandoning():
                self._judge(report, self.objective.parts(self.average.module))
        (stopping,) = processes.any_of([bool(stop)])
        if stopping:
            raise Interrupted(stop.signum)
        self.state.shown = step
        self.save()

    def _judge(self, report: Report, parts: Parts) -> None:
        """Show the average's pictures, and keep it when they are nearer to the training pictures than any before."""
        step = self.state.step
        report.drawing(step)
        path = self.folder / SAMPLES / f"epoch-{self.epoch:03d}.png"
        grid = draw_grid(parts, self.device, self.data)
        write(path, to_png(grid))
        report.samples(step, grid)
        if self.distance is None:
            return
        distance, best = self.distance(parts), self.state.best
        report.distance(step, distance)
        if best is None or distance < best.distance:
            weights = {name: value.clone() for name, value in self.average.module.state_dict().items()}
            self.state.best = Best(self.epoch, distance, weights, self.distance.judge)

    def _less_memory(self) -> str:
        parts = self.finer_parts()
        finer = f"choose --accumulate {parts}, which gives the same numbers, or" if parts else "choose"
        return f"{finer} a --batch-size below {self.config.batch_size}"

    def finer_parts(self) -> int | None:
        """The next number of micro-batches, for a step that needs less memory; None where the batch cannot be cut."""
        of = range(self.accumulate + 1, self.config.batch_size + 1) if self.objective.accumulates else ()
        return next((parts for parts in of if self.config.batch_size % (parts * processes.count()) == 0), None)

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
                f"try a --learning-rate below {self.config.optimizer.learning_rate:g}"
                + (", or --precision fp32" if self.config.precision == "bf16" else "")
            )
