"""Text to image in patches of pixels against an autoencoder's codes: the same networks, data and processor time.

Both train for ``--minutes`` of processor time with one thread each, side by side, in bf16. The codes come from a
finished run of an autoencoder, whose training is reported apart.

    python -m trainer train benchmarks/codes-autoencoder.toml --precision bf16 --out runs/emoji-autoencoder
    python -m benchmarks.codes --autoencoder runs/emoji-autoencoder
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.report import write_record
from trainer.commands.evaluate_text import TEXT_EVALUATOR_FOLDER, group_sheet, table
from trainer.compute.draws import step_seed
from trainer.config import load_preset
from trainer.data import ImageData, load, to_unit_range
from trainer.evaluate.pictures import make_sampler
from trainer.evaluate.text_curves import batches
from trainer.evaluate.text_evaluator import load_text_evaluator
from trainer.evaluate.text_quality import Group, GroupScores, TextReference, pool
from trainer.generate import reconstruct
from trainer.model_config import AutoencoderConfig, TextConfig
from trainer.models.latent import LatentDecode, LatentEncode, Standardise
from trainer.models.parts import Parts
from trainer.models.text_parts import TextParts
from trainer.objectives.base import Position, Task
from trainer.objectives.ddpm import Denoising
from trainer.objectives.text import TextObjective
from trainer.objectives.vae import VaeObjective, latent_shape, reparametrise
from trainer.run.schedule import drop_labels, ema_average, epoch_order, learning_rate_factor
from trainer.start import load_start

CPU = torch.device("cpu")
WAYS = ("patches", "codes")
GROUPS = ("training", "combination")
#: Rows of a batch whose step of sampling is timed, and how many steps are timed.
TIMED_ROWS, TIMED_STEPS = 16, 10


@dataclass(frozen=True)
class Codec:
    """A frozen autoencoder: ``encode`` and ``decode`` of standardised codes, and its training."""

    parts: Parts
    steps: int
    thread_seconds: float


@dataclass(frozen=True)
class Scored:
    """One way's training and scores; times are processor time of one thread."""

    images: int
    steps: int
    thread_seconds: float
    parameters: int
    milliseconds_per_sampling_step: float
    groups: list[GroupScores]


@dataclass(frozen=True)
class Common:
    """What both ways share: the training split, the evaluator, the groups to score and the autoencoder."""

    data: ImageData
    reference: TextReference
    groups: list[Group]
    codec: Codec


class WithoutClass(nn.Module):
    """The decoder of an autoencoder without classes, as a function of the code alone."""

    def __init__(self, decode: nn.Module) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, z: Tensor) -> Tensor:
        """The image (batch, channel, height, width) of codes (batch, *latent)."""
        image: Tensor = self.decode(z, torch.zeros(len(z), dtype=torch.int64, device=z.device))
        return image


class CodesObjective(TextObjective):
    """``TextObjective`` on standardised codes; codes have no fixed range, so x_start is not clamped."""

    def __init__(self, task: Task, model: TextConfig, codec: Codec) -> None:
        channel, height, width = codec.parts.latent_shape
        super().__init__(replace(task, image_shape=(channel, height, width)), model)
        self.codec = codec
        self.denoising = Denoising(model, None, task.device)

    def parts(self, generator: nn.Module) -> TextParts:
        """The functions of ``generator``, whose pictures the autoencoder decodes."""
        image_shape, decode = self.codec.parts.image_shape, self.codec.parts.decode
        return replace(super().parts(generator), image_shape=image_shape, decode=WithoutClass(decode))


def load_codec(folder: Path, images: Tensor) -> Codec:
    """The averaged autoencoder of a finished run, its codes standardised over ``images`` (uint8).

    Its processor time is that of a few steps times their number: a run records elapsed time only.
    """
    start = load_start(folder)
    config, shape = start.config, start.facts.image_shape
    assert isinstance(config.model, AutoencoderConfig)
    objective = VaeObjective(Task(config, shape, 0, CPU), config.model)
    label = torch.zeros(config.batch_size, dtype=torch.int64)
    batch = to_unit_range(images[: config.batch_size])
    seconds = per_call(lambda: objective.train_step(batch, label, Position(0, 1)), 3)
    objective.vae.load_state_dict(start.generator)
    vae, standardise = objective.vae.eval().requires_grad_(False), Standardise(config.model.latent)
    standardise.fit(encoded(vae.encoder, images)[0])
    encode, decode = LatentEncode(vae.encoder, standardise), LatentDecode(vae.decoder, standardise)
    steps = config.total_steps(start.facts.images)
    return Codec(Parts(shape, 0, latent_shape(shape, config.model), decode, encode=encode), steps, steps * seconds)


def per_call(function: Callable[[], object], calls: int) -> float:
    """Processor seconds of a call, after one that is not counted."""
    function()
    started = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - started) / calls


def train(
    objective: TextObjective, x_start_of: Callable[[Tensor], Tensor], data: ImageData, seconds: float
) -> tuple[nn.Module, int, float]:
    """Train until ``seconds`` of processor time; the learning rate follows them. Returns the averaged network, the
    number of steps and the seconds.

    ``x_start_of`` returns what is denoised, (batch, *latent), for rows (batch,) of the images.
    """
    config, step = objective.task.config, 0
    objective.bind(data)
    average = AveragedModel(objective.generator, multi_avg_fn=ema_average(config.ema_decay), use_buffers=True)
    started = time.process_time()
    while (spent := time.process_time() - started) < seconds:
        for settings in objective.optimizers["network"].param_groups:
            settings["lr"] = config.optimizer.learning_rate * learning_rate_factor(config.optimizer, spent / seconds)
        epoch, place = divmod(step, len(data.images) // config.batch_size)
        rows = epoch_order(config.seed, epoch, len(data.images), data.captions)[place * config.batch_size :][
            : config.batch_size
        ]
        objective.begin_micro_batch(step_seed(config.seed, step))
        label = drop_labels(data.labels[rows], config.label_dropout, data.null_label, objective.draws)
        losses = objective.train_step(x_start_of(rows), label, Position(step, step + 1))
        average.update_parameters(objective.generator)
        step += 1
        if step % 50 == 0:
            loss = float(losses["x_start_mse"])
            print(f"{type(objective).__name__} step {step}, {spent:.0f} s: {loss:.4f}", flush=True)
    return average.module.eval(), step, spent


def objective_of(way: str, codec: Codec, data: ImageData) -> tuple[TextObjective, Callable[[Tensor], Tensor]]:
    """The objective of ``way``, and what it denoises for rows of ``data``. Codes are encoded once, before training."""
    config = load_preset("emoji", precision="bf16")
    torch.manual_seed(config.seed)
    task = Task(config, data.facts.image_shape, 0, CPU)
    assert isinstance(config.model, TextConfig)
    if way == "patches":
        return TextObjective(task, config.model), lambda rows: to_unit_range(data.images[rows])
    codes = CodesObjective(task, config.model.model_copy(update={"patch": 1}), codec)
    assert codec.parts.encode is not None
    mean, logvar = encoded(codec.parts.encode, data.images)
    return codes, lambda rows: reparametrise(mean[rows], logvar[rows], codes.draws.randn_like(mean[rows]))


@torch.no_grad()
def encoded(encode: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, (count, *latent) each, of the codes of uint8 images."""
    both = [encode(to_unit_range(some), torch.zeros(len(some), dtype=torch.int64)) for some in torch.split(images, 256)]
    return torch.cat([mean for mean, _ in both]), torch.cat([logvar for _, logvar in both])


def measure(way: str, options: argparse.Namespace, common: Common) -> Scored:
    """Train one way and score it."""
    data, reference, groups, codec = common.data, common.reference, common.groups, common.codec
    objective, x_start_of = objective_of(way, codec, data)
    network, steps, seconds = train(objective, x_start_of, data, 60 * options.minutes)
    parts = objective.parts(network)
    sampler = make_sampler(parts, "dpmpp_2m", 20, 2.0)
    scores = []
    for group in groups:
        pictures = torch.cat(list(batches(parts, group, sampler, 0, CPU)))
        scores.append(reference.score(group, pictures))
        show(options, f"{way}-{group.name}", group, pictures)
    return Scored(
        images=steps * objective.task.config.batch_size,
        steps=steps,
        thread_seconds=seconds,
        parameters=sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
        milliseconds_per_sampling_step=1000 * sampling_step(parts),
        groups=scores,
    )


@torch.inference_mode()
def sampling_step(parts: TextParts) -> float:
    """Processor seconds of one evaluation of the network on ``TIMED_ROWS`` rows, in fp32 and without guidance."""
    assert parts.denoise is not None
    x, t = torch.randn(TIMED_ROWS, *parts.latent_shape), torch.full((TIMED_ROWS,), 0.5)
    context, mask = torch.randn(TIMED_ROWS, parts.tokens, parts.context), torch.ones(TIMED_ROWS, parts.tokens)
    network = parts.denoise
    return per_call(lambda: network(x, t, context, mask), TIMED_STEPS)


def prepare(options: argparse.Namespace) -> Common:
    """Read the images, the evaluator and the autoencoder."""
    train_split, test_split = (
        load("emoji", options.data_dir, train=part, image_size=64, channels=3, captioned=True) for part in (True, False)
    )
    _, evaluator = load_text_evaluator(TEXT_EVALUATOR_FOLDER, CPU)
    reference = TextReference(evaluator, pool(train_split, test_split))
    groups = [each for each in reference.groups(options.samples, 0) if each.name in GROUPS]
    _ = reference.held_out  # computed once, before the processes divide
    return Common(train_split, reference, groups, load_codec(options.autoencoder, train_split.images))


def show(options: argparse.Namespace, name: str, group: Group, pictures: Tensor) -> None:
    """Write the sheet of a group, real images above generated ones."""
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        (options.pictures / f"{name}.png").write_bytes(group_sheet(group, pictures))


def reconstructions(options: argparse.Namespace, common: Common) -> dict[str, object]:
    """The best that codes can reach: scores and mean squared error, in [-1, 1], of reconstructions."""
    codec, scores, errors = common.codec, [], {}
    for group in common.groups:
        label = torch.zeros(len(group.images), dtype=torch.int64)
        pictures = reconstruct(codec.parts, group.images, label).permute(0, 3, 1, 2).contiguous()
        errors[group.name] = float((to_unit_range(pictures) - to_unit_range(group.images)).square().mean())
        scores.append(common.reference.score(group, pictures))
        show(options, f"reconstructions-{group.name}", group, pictures)
    print(f"reconstructions: squared errors {errors}\n\n{table(scores)}\n", flush=True)
    return {"steps": codec.steps, "thread_seconds": codec.thread_seconds, "errors": errors, "groups": scores}


def main() -> None:
    """Train and score both ways side by side; print tables and write benchmarks/results/codes.json."""
    options = _parser().parse_args()
    torch.set_num_threads(1)  # also makes it safe to fork: torch has no other threads
    common = prepare(options)
    autoencoder = reconstructions(options, common)
    receivers = {way: start(way, options, common) for way in WAYS}
    scored = {way: receiver.recv() for way, receiver in receivers.items()}
    for way, each in scored.items():
        print(f"\n{way}: {replace(each, groups=[])}\n\n{table(each.groups)}")
    settings = {"samples": options.samples, "steps": 20, "guidance_scale": 2.0, "minutes": options.minutes}
    write_record("codes", settings=settings, autoencoder=autoencoder, **scored)


def start(way: str, options: argparse.Namespace, common: Common) -> Connection:
    """Measure one way in a forked process, which shares what was read. The connection returns ``Scored``."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    fork.Process(target=lambda: sender.send(measure(way, options, common)), daemon=True).start()
    sender.close()
    return receiver


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of the finished run of an autoencoder")
    parser.add_argument("--minutes", type=float, default=60.0, help="processor time of each training (default: 60)")
    parser.add_argument("--samples", type=int, default=60, help="images of a group (default: 60)")
    parser.add_argument("--pictures", type=Path, help="folder for sheets of images")
    parser.add_argument("--data-dir", type=Path)
    return parser


if __name__ == "__main__":
    main()
