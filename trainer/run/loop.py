"""The training loop of every family: batches, learning rate, EMA, log, sample grids, checkpoints, resume.

Everything that decides the numbers is in the checkpoint or follows from the config. An interrupted and resumed run
therefore takes the same steps as an uninterrupted one, with any number of processes and micro-batches.
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
#: The step after which a first grid of samples shows that the run works, where an epoch is longer.
FIRST_GRID_STEP = 100
#: Training images from which a run that starts from another one estimates statistics, such as the scale of its codes.
STATISTICS_IMAGES = 2048


class Diverged(Exception):
    """A loss or a weight is not finite; the last checkpoint was written before that."""


class Indivisible(Exception):
    """The batch cannot be divided into this many processes and micro-batches; the message says why."""


@dataclass(frozen=True)
class Best:
    """The EMA weights with the smallest distance so far: a ``state_dict``, its epoch, and the evaluator's version."""

    epoch: int
    distance: float
    generator: dict[str, Tensor]
    evaluator: str | None


class Distance(Protocol):
    """A distance between generated and training images; values of different evaluators are not comparable."""

    evaluator_version: str

    def __call__(self, parts: Parts) -> float:
        """The distance of the images that ``parts``, in eval mode, generate; lower is better."""


@dataclass
class RunState:
    """Progress of a run: steps taken, seconds spent, losses of the current epoch and of the last complete one.

    ``loss_counts`` has the number of steps of this epoch that reported each loss: a WGAN's generator trains in one step
    of five. ``sampled_step`` is the last step whose samples were drawn and evaluated, after that step's checkpoint.
    """

    step: int = 0
    sampled_step: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, Tensor] = field(default_factory=dict)
    loss_counts: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    best: Best | None = None


def device_name(device: torch.device) -> str:
    """The device as a model's card names it: the GPU's name, or "CPU" and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


class TrainingRun:
    """One run in one folder. ``fit`` trains from the current step to the last one."""

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
        notes: dict[str, str] | None = None,
    ) -> None:
        """``start`` is the ``state_dict`` of the averaged generator to start from, ``notes`` the notes of its run.

        ``accumulate`` is the number of micro-batches into which each process divides its rows of a batch. ``distance``
        selects the best EMA weights; without it the last ones are exported. ``data_dir``, the folder of the data set,
        is stored in the checkpoint so that resuming and exporting find it. Raises DataError when there are fewer images
        than a batch needs, Indivisible when the batch cannot be divided.
        """
        self.accumulate, self.distance, self.data_dir = accumulate, distance, data_dir
        self.config, self.data, self.folder, self.device = config, data, folder, device
        self.objective: Objective = build(config, data.facts.image_shape, len(data.facts.class_names), device)
        self._require_divisible()
        self._bind(notes or {})
        if start is not None:
            # Shuffled, because the images of a folder are sorted by class.
            chosen = epoch_order(config.seed, 0, len(data.images))[:STATISTICS_IMAGES]
            sample = to_unit_range(data.images[chosen]).to(device)
            self.objective.start_from(start, sample, data.labels[chosen].to(device))
        self.ema = AveragedModel(self.objective.generator, multi_avg_fn=ema_average(config.ema_decay), use_buffers=True)
        self.ema.eval()
        self.state = RunState()
        if len(data.images) < config.batch_size:
            raise DataError(
                f"{len(data.images)} images are fewer than one batch of {config.batch_size}: lower --batch-size"
            )
        self.plan = Plan(config.total_steps(len(data.images)), len(data.images) // config.batch_size)
        # The whole uint8 data set is on the device: indexing there costs less than copying every batch.
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self._order, self._order_of = torch.empty(0, dtype=torch.int64), -1

    @property
    def epoch(self) -> int:
        """The current epoch or the one that has just ended, counted from 1; 0 before the first step."""
        return self.plan.epoch(self.state.step)

    def fit(self) -> None:
        """Train to the last step. Raises Diverged; SIGINT and SIGTERM save a checkpoint and raise Interrupted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved_at = time.monotonic()
        position = self.plan, self.config.family, self.config.batch_size, self.state.step
        with (
            reporting(self.folder / EVENTS, *position) as report,
            stop_requests() as stop,
            memory.hint(self._less_memory()),
        ):
            self._sample_if_due(report, stop)  # the interrupted run may have stopped before it drew them
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
                if self.state.step == FIRST_GRID_STEP < min(self.plan.per_epoch, self.plan.total):
                    self._show_first(report, stop)
                self._sample_if_due(report, stop)

    def save(self) -> None:
        """Write the checkpoint. Raises Diverged, keeping the previous one, when a loss or weight is not finite."""
        self._require_finite()
        self.state.loss_sums = processes.mean_of(self.state.loss_sums)
        if processes.rank() == 0:
            checkpoint.save(self.folder, self.config, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on. The keys are those of ``checkpoint.FORMAT``."""
        return {
            "step": self.state.step,
            "shown": self.state.sampled_step,
            "seconds": self.state.seconds,
            "device": device_name(self.device),
            "data": asdict(self.data.facts),
            "fingerprint": self.data.fingerprint,
            "data_dir": self.data_dir and str(self.data_dir.resolve()),
            "loss_sums": self.state.loss_sums,
            "loss_counts": self.state.loss_counts,
            "losses": self.state.losses,
            "notes": self.objective.notes(),
            "networks": self.objective.networks.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in self.objective.optimizers.items()},
            "average": self.ema.state_dict(),
            "best": self.state.best and vars(self.state.best),
        }

    def load_state_dict(self, state: dict[str, Any], *, changed_data: bool = False) -> None:
        """Restore ``state``, which a run with this config saved.

        The best EMA weights are dropped unless the evaluator that selected them is in use. Raises CheckpointError when
        the images differ from those of the run, unless ``changed_data``, and always when their shape or classes do.
        """
        problem = checkpoint.data_difference(state, self.data, changed_data=changed_data)
        if problem:
            raise checkpoint.CheckpointError(f"{self.folder} was trained on other data: {problem}")
        sums = {name: value.to(self.device) for name, value in state["loss_sums"].items()}
        counts = dict(state["loss_counts"])
        best = _best_of(state["best"])
        if best is not None and (self.distance is None or best.evaluator != self.distance.evaluator_version):
            best = None
        sampled = state.get("shown", state["step"])  # versions without this field drew samples before the checkpoint
        self.state = RunState(state["step"], sampled, state["seconds"], sums, counts, dict(state["losses"]), best)
        self._bind(state.get("notes", {}))
        try:
            self.objective.networks.load_state_dict(state["networks"])
            for name, optimizer in self.objective.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.ema.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError) as failure:
            raise checkpoint.CheckpointError(
                f"{self.folder} holds a {self.config.family} of another version with different networks: "
                + " ".join(str(failure).split())
            ) from failure

    def _bind(self, notes: dict[str, str]) -> None:
        """Restore the ``notes`` of an earlier run, then prepare the captions of the data."""
        if notes:
            self.objective.recall(notes)
        self.objective.bind(self.data)

    def _epoch_step(self, report: Report) -> None:
        started = time.monotonic()
        at = Position(self.state.step, self.plan.total)
        self._set_learning_rate(at.progress)
        losses = self._train_on(self._batch_index(), at)
        self.ema.update_parameters(self.objective.generator)
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
            self._order = epoch_order(self.config.seed, epoch, len(self.images), self.data.captions).to(self.device)
            self._order_of = epoch
        first = position * self.config.batch_size
        return self._order[first : first + self.config.batch_size]

    def _train_on(self, index: Tensor, at: Position) -> dict[str, Tensor]:
        """Train one step on this process's rows of the batch; returns the mean losses over them."""
        rows = index.chunk(processes.count())[processes.rank()]
        seed = step_seed(self.config.seed, self.state.step)
        losses = [self._train_on_micro_batch(rows, seed, number, at) for number in range(self.accumulate)]
        return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}

    def _train_on_micro_batch(self, rows: Tensor, seed: int, number: int, at: Position) -> dict[str, Tensor]:
        index = rows.chunk(self.accumulate)[number]
        self.objective.begin_micro_batch(seed, number, self.accumulate)
        images = to_unit_range(self.images[index]).contiguous(memory_format=torch.channels_last)
        share, null_label = self.config.label_dropout, self.data.null_label
        label = drop_labels(self.labels[index], share, null_label, self.objective.draws)
        return self.objective.train_step(images, label, at)

    def _require_divisible(self) -> None:
        parts = processes.count() * self.accumulate
        if self.config.batch_size % parts:
            raise Indivisible(f"--batch-size {self.config.batch_size} is not divisible by {parts}, the number of parts")
        if self.accumulate > 1 and not self.objective.accumulates:
            raise Indivisible(f"--accumulate: a step of the family {self.config.family} needs the whole batch at once")
        if parts > 1 and any(isinstance(module, _BatchNorm) for module in self.objective.networks.modules()):
            raise Indivisible(
                f"this {self.config.family} has batch normalisation, which needs the whole batch: "
                "train it in one process, without --accumulate"
            )

    def _set_learning_rate(self, progress: float) -> None:
        settings = self.config.optimizer
        for optimizer in self.objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group.get("rate", 1.0) * settings.learning_rate * learning_rate_factor(settings, progress)

    def _close_epoch(self, report: Report) -> None:
        self._require_finite()
        totals, counts = processes.mean_of(self.state.loss_sums), self.state.loss_counts
        self.state.losses = {name: float(total) / counts[name] for name, total in totals.items()}
        self.state.loss_sums, self.state.loss_counts = {}, {}
        report.epoch(self.state.step, self.state.losses)

    def _sample_if_due(self, report: Report, stop: StopRequests) -> None:
        """Draw and evaluate samples of the EMA when they are due; after a signal the resumed run does so."""
        step = self.state.step
        due = step == self.plan.total or (self.plan.ends_epoch(step) and self.epoch % self.config.grid_every == 0)
        if not due or self.state.sampled_step == step:
            return
        if processes.rank() == 0:
            with stop.interruptible():
                self._evaluate(report, self.objective.parts(self.ema.module))
        (stopping,) = processes.any_of([bool(stop)])
        if stopping:
            raise Interrupted(stop.signum)
        self.state.sampled_step = step
        self.save()

    def _show_first(self, report: Report, stop: StopRequests) -> None:
        """Write a grid before the first epoch ends, for people only: nothing later depends on it."""
        if processes.rank() == 0:
            with stop.interruptible():
                report.drawing(self.state.step)
                self._write_grid(self.objective.parts(self.ema.module), epoch=0)

    def _write_grid(self, parts: Parts, epoch: int) -> Tensor:
        grid = draw_grid(parts, self.device, self.data)
        write(self.folder / SAMPLES / f"epoch-{epoch:03d}.png", to_png(grid))
        return grid

    def _evaluate(self, report: Report, parts: Parts) -> None:
        """Write a grid of samples of the EMA; keep its weights when their distance is the smallest so far."""
        step = self.state.step
        report.drawing(step)
        report.samples(step, self._write_grid(parts, self.epoch))
        if self.distance is None:
            return
        distance, best = self.distance(parts), self.state.best
        report.distance(step, distance)
        if best is None or distance < best.distance:
            weights = {name: value.clone() for name, value in self.ema.module.state_dict().items()}
            self.state.best = Best(self.epoch, distance, weights, self.distance.evaluator_version)

    def _less_memory(self) -> str:
        parts = self.more_micro_batches()
        more = f"choose --accumulate {parts}, which gives the same numbers, or" if parts else "choose"
        return f"{more} a --batch-size below {self.config.batch_size}"

    def more_micro_batches(self) -> int | None:
        """The next larger number of micro-batches, which needs less memory; None when the batch cannot be divided."""
        candidates = range(self.accumulate + 1, self.config.batch_size + 1) if self.objective.accumulates else ()
        return next((parts for parts in candidates if self.config.batch_size % (parts * processes.count()) == 0), None)

    def _require_finite(self) -> None:
        # Averaged over all processes, so that all of them stop.
        totals = processes.mean_of(self.state.loss_sums)
        bad = [f"loss {name}" for name, total in totals.items() if not torch.isfinite(total)]
        # Weights too: a loss is computed before its step, and the step itself may have made them infinite.
        weights = self.objective.networks.named_parameters()
        bad += [f"weight {name}" for name, weight in weights if not torch.isfinite(weight.detach()).all()]
        if bad:
            kept = (self.folder / checkpoint.FILE_NAME).exists()
            raise Diverged(
                f"the {bad[0]} is not finite at step {self.state.step}. "
                f"{'The last checkpoint is kept' if kept else 'No checkpoint was written yet'}; "
                f"try a --learning-rate below {self.config.optimizer.learning_rate:g}"
                + (", or --precision fp32" if self.config.precision == "bf16" else "")
            )


def _best_of(saved: dict[str, Any] | None) -> Best | None:
    """The best weights of a checkpoint; earlier versions called the evaluator "judge", or did not store it."""
    if saved is None:
        return None
    evaluator = saved.get("evaluator", saved.get("judge"))
    return Best(saved["epoch"], saved["distance"], saved["generator"], evaluator)
