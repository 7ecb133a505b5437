"""The card of a model: what it is, how it came about, what it is not good for. Written for people."""

from itertools import groupby

from service.contract.manifest import Manifest, Score
from trainer.config import Family, RunConfig

ABOUT: dict[Family, str] = {
    "vae": """\
A convolutional variational autoencoder (Kingma & Welling 2014), conditioned on the class.
One pass of the decoder turns a standard normal latent vector into a picture; the encoder goes the other way.
VAEs tend to cover their data and to soften what they draw.""",
    "gan": """\
A DCGAN (Radford et al. 2016) whose generator and discriminator were both told the class.
One pass of the generator turns a standard normal latent vector into a picture.
GANs tend to crisp pictures and to leaving out rarer kinds; there is no encoder and no likelihood.""",
    "ddpm": """\
A denoising diffusion model (Ho et al. 2020): a small U-Net, conditioned on the class, predicts the noise.
A picture starts as noise and is denoised in steps: 20 of DPM-Solver++(2M) unless asked otherwise.
Each step is a pass of the network, so a picture costs far more than one of a VAE or a GAN.""",
}

CAVEATS: dict[str, tuple[str, ...]] = {
    "fashion-mnist": (
        "It knows centred grey product photos only.",
        "Labels follow the data set, where shirt, t-shirt, pullover and coat are hard to tell apart even for people.",
    )
}

#: What stands around the scores in the template below.
QUALITY_HEADING, LIMITS_HEADING = "\n## Quality\n\n", "\n\n## Limits\n\n"

TEMPLATE = """\
# {name}

{about}

![Samples, a class a column]({samples})

Columns: {classes}. Rows differ in the seed only. The pictures were not chosen.

## Training

    {command}

| | |
| --- | --- |
| images seen | {seen:,} in {epochs:g} epochs of {images:,} |
| time | {time} on {device} |
| arithmetic | {precision} in training, {inference} in this file |
| weights | exponential moving average, {decay} per step; {parameters:,} parameters |
| losses of the last epoch | {losses} |

All settings of the run: `{config}`

## Data

{data} ({source}), licence {licence}. The training images only: no test image was seen.

## Use

    make serve
    curl -o {name}.png http://127.0.0.1:8000/generate/{name}
    curl -o {name}-grid.png -H 'Content-Type: application/json' \\
         -d '{{"n": 16, "seed": 7, "class_label": "{example}"}}' http://127.0.0.1:8000/generate/{name}

The same seed gives the same picture.

## Shapes

Images are (channel, height, width) = {image_shape} in [-1, 1], latents {latent_shape}.
Labels are 0 to {last_label} in the order above; {null_label} means no class.
The file is {file}, {size:,} bytes of TorchScript made with torch {torch}.

## Quality

{quality}

## Limits

{limits}
- It was trained once, from one seed: another seed gives another, similar model.
"""


def render(manifest: Manifest, config: RunConfig) -> str:
    """The card in Markdown; samples.png lies beside it."""
    training, dataset, artifact = manifest.training, manifest.dataset, manifest.artifact
    return TEMPLATE.format(
        name=manifest.name,
        about=ABOUT[config.family],
        samples="samples.png",
        classes=", ".join(manifest.class_names),
        example=manifest.class_names[-1],
        command=training.command,
        seen=training.images_seen,
        epochs=training.epochs,
        images=dataset.images,
        time=duration(training.seconds),
        device=training.device,
        precision=training.precision,
        inference=manifest.inference_dtype,
        decay=training.ema_decay,
        parameters=training.parameters,
        losses=", ".join(f"{name} {value:.4g}" for name, value in training.losses.items()),
        config=config.model_dump_json(),
        data=dataset.name,
        source=dataset.source,
        licence=dataset.licence,
        image_shape=manifest.image_shape,
        latent_shape=manifest.latent_shape,
        last_label=manifest.null_label - 1,
        null_label=manifest.null_label,
        file=artifact.file,
        size=artifact.size,
        torch=manifest.torch_version,
        quality=_quality(manifest.quality),
        limits="\n".join(f"- {limit}" for limit in _limits(manifest)),
    )


def _limits(manifest: Manifest) -> list[str]:
    _, height, width = manifest.image_shape
    size = f"It makes pictures of {height} x {width} pixels, of what it was trained on, and nothing else."
    return [size, *CAVEATS.get(manifest.dataset.name, ())]


def duration(seconds: float) -> str:
    """Seconds in the units that people use: 7300 is "2 h 1 min", 99 "1 min 39 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s"


def with_quality(text: str, quality: tuple[Score, ...]) -> str:
    """A rendered card with other scores. Raises ValueError when it has no Quality section."""
    before, found, rest = text.partition(QUALITY_HEADING)
    _, limits, after = rest.partition(LIMITS_HEADING)
    if not (found and limits):
        raise ValueError("no section Quality before a section Limits")
    return f"{before}{found}{_quality(quality)}{limits}{after}"


def _quality(scores: tuple[Score, ...]) -> str:
    """A table for each set of pictures that was measured, in the order of the scores."""
    if not scores:
        return "No score has been measured yet: look at the pictures."
    tables = []
    for (sampler, samples, reference), group in groupby(scores, lambda it: (it.sampler, it.samples, it.reference)):
        made_by = f" ({sampler})" if sampler else ""
        head = [
            f"{samples:,} pictures{made_by} against {reference}:",
            "",
            "| | this model | real pictures |",
            "| --- | --- | --- |",
        ]
        tables.append("\n".join([*head, *map(_row, group)]))
    return "\n\n".join(tables)


def _row(score: Score) -> str:
    floor = "" if score.floor is None else f"{score.floor:.4g}"
    return f"| {score.metric} | {score.value:.4g} | {floor} |"
