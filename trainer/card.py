"""The model card: what the model is, how it was trained, what its limits are."""

from itertools import groupby

from service.contract.manifest import Manifest, Score
from trainer.config import RunConfig
from trainer.generate import grid_classes
from trainer.model_config import DdpmConfig, Family, LdmConfig, ModelConfig, VaeConfig
from trainer.text.prompts import PROMPTS

TEXT = """\
A text-to-image model: a U-Net on patches of {patch} x {patch} pixels that attends to the words of a prompt. A small
transformer, trained with it, reads up to {words} words of a vocabulary of {vocabulary:,}; other words are ignored. The
network predicts {prediction}. By default it takes {steps} steps of {solver} with guidance {guidance_scale:g}."""

ABOUT: dict[Family, str] = {
    "autoencoder": """\
An autoencoder{conditioned}: it encodes pictures to latent maps and decodes them, the first stage of latent
diffusion (Rombach et al. 2022). A KL term of weight {beta:g} bounds the latents; the model does not generate.""",
    "vae": """\
A convolutional variational autoencoder (Kingma & Welling 2014){conditioned}. One pass of the decoder turns
a standard normal latent vector into a picture; the encoder does the reverse.
The decoder's variance is learned (Rybkin et al. 2021), the KL term has weight {beta:g}, the prior is {prior}.""",
    "gan": """\
A generative adversarial network{conditioned}. One pass of the generator turns a standard normal latent
vector into a picture; there is no encoder and no likelihood.
Network {network}, loss {loss}, gradient penalty of weight {gamma:g} every {penalty_every} steps.""",
    "ddpm": """\
A diffusion model of pictures (Ho et al. 2020; Lipman et al. 2023): a small U-Net{conditioned} predicts
{prediction}. A picture starts as noise and is denoised in steps, by default {steps} of {solver}; each step is one
forward pass.""",
    "ldm": """\
Diffusion in the latent space of an autoencoder (Rombach et al. 2022): a network on {latent}-channel maps of
1/{reduction} of the picture's height{conditioned} predicts {prediction}. By default it takes {steps} steps of
{solver} and one pass of the decoder.""",
    "few-step": """\
A diffusion model of pictures, tuned to one to four steps by distribution matching (Yin et al. 2024): the network is a
small U-Net{conditioned} that predicts {prediction}. By default it takes {steps} steps of {solver}.""",
    "text": TEXT,
    "control": TEXT
    + """
A control network (Zhang et al. 2023) reads a sketch, dark on white, and adds to the U-Net of the model that it started
from.""",
    "few-step-text": TEXT
    + """
It was tuned to few steps without guidance: it includes guidance of scale {guidance:g} (Luo et al. 2023).""",
}

ADVERSARIAL = """
A discriminator was trained beside it, whose gradient had {weight:g} times the size of that of the model's own loss."""

GUIDED = """
It includes guidance of scale {guidance_scale:g} at times up to {largest_t:g} (Meng et al. 2023; Kynkäänniemi et al.
2024), without a second forward pass."""

PRIORS = {
    "standard": "the standard normal",
    "flow": "a flow fitted to the codes (a second stage, Dai & Wipf 2019)",
}

CAVEATS: dict[str, tuple[str, ...]] = {
    "fashion-mnist": (
        "It was trained on centred grey product photos only.",
        "Labels follow the data set, where shirt, t-shirt, pullover and coat are hard to tell apart even for people.",
    ),
    "emoji": (
        "It was trained on one design of emoji on white, so other styles, backgrounds and scenes are out of reach.",
        "Objects that occur once in the data are often drawn badly in new combinations.",
        "The captions are English names and keywords of Unicode's CLDR; so are its ideas of people, skin tones and "
        "flags.",
    ),
}

SAMPLES_OF_CLASSES = """\
![Samples, one class per column](samples.png)

Columns: {classes}. Rows differ in the seed only. The pictures were not selected."""
SAMPLES_WITHOUT_CLASSES = """\
![Samples](samples.png)

The pictures differ in the seed only and were not selected."""
SAMPLES_OF_PROMPTS = """\
![Samples, one prompt each](samples.png)

The prompts are fixed, and the pictures were not selected: {prompts}."""
SAMPLES_OF_SKETCHES = """\
![Sketches and the pictures of them](samples.png)

Edges of training pictures; below each row are the pictures of them, with the names as prompts. They were not
selected."""
RECONSTRUCTIONS = """\
![Pictures and their reconstructions](samples.png)

Training pictures; below each row are their reconstructions. The pictures were not selected."""

GENERATE = """\
    curl -o {name}.png http://127.0.0.1:8000/generate/{name}
    curl -o {name}-grid.png -H 'Content-Type: application/json' \\
         -d '{{"n": 16, "seed": 7{label}}}' http://127.0.0.1:8000/generate/{name}

The same seed gives the same picture."""
GENERATE_PROMPT = """\
    curl -o {name}.png 'http://127.0.0.1:8000/generate/{name}?prompt=red%20heart&scale=4'
    curl -o {name}-grid.png -H 'Content-Type: application/json' \\
         -d '{{"prompt": "red heart", "n": 16, "seed": 7}}' http://127.0.0.1:8000/generate/{name}

The same seed gives the same picture."""
GENERATE_SKETCH = """\
    curl -o {name}.png http://127.0.0.1:8000/generate/{name} \\
         -F prompt='red heart' -F control_image=@sketch.png -F scale=4

A sketch is dark strokes on white; without one, the model follows the prompt alone.

The same seed gives the same picture."""
MEMORISATION = """
## Memorisation

{memorised}
"""
NOT_MEASURED = """\
A model of so few pictures reproduces many of them when a prompt is the name of one. The share of copies among the
pictures of training captions and of new prompts has not been measured yet."""
ENCODE = """\
    curl --data-binary @picture.png http://127.0.0.1:8000/encode/{name}"""
MEASURED = """\
A model of so few pictures reproduces many of them when a prompt is the name of one. The tables below have the share of
copies, pictures nearer to a training picture than all but 1 % of the real ones that were held out."""
#: The text before and after the scores in the template.
QUALITY_HEADING, LIMITS_HEADING = "\n## Quality\n\n", "\n\n## Limits\n\n"

TEMPLATE = """\
# {name}

{about}

{samples}

## Training

    {command}

| | |
| --- | --- |
| images seen | {seen:,} in {epochs} of {images:,} |
| time | {time} on {device} |
| precision | {precision} in training, {inference} in use |
| weights | exponential moving average, {decay} per step, after {kept}; {parameters:,} parameters |
| losses of the last epoch | {losses} |

All settings of the run: `{config}`

## Data

{data} ({source}), licence {licence}. Only training images were used, no test images.

## Use

    make serve
{use}

## Shapes

Images are (channel, height, width) = {image_shape} in [-1, 1], latents {latent_shape}.
{labels}
The file is {file}, {size:,} bytes of TorchScript written by torch {torch}{stored}.
{memorisation}
## Quality

{quality}

## Limits

{limits}
- It was trained once, with one seed; another seed gives a similar, not an equal model.
"""


def render(manifest: Manifest, config: RunConfig) -> str:
    """The card in Markdown; it refers to samples.png in the same folder."""
    training, dataset, artifact = manifest.made_by, manifest.made_from, manifest.artifact
    return TEMPLATE.format(
        name=manifest.name,
        about=_about(config.model, conditioned=bool(manifest.class_names)),
        samples=_samples(manifest),
        use=_use(manifest),
        command=training.command,
        seen=training.images_seen,
        epochs=f"{training.epochs:g} epoch{'s' * (training.epochs != 1)}",
        images=dataset.images,
        time=duration(training.seconds),
        device=training.device,
        precision=training.precision,
        inference=manifest.inference_dtype,
        decay=training.ema_decay,
        kept=f"epoch {training.kept_epoch}, the best" if training.kept_epoch else "the last epoch",
        parameters=training.parameters,
        losses=", ".join(f"{name} {value:.4g}" for name, value in training.losses.items()),
        config=config.model_dump_json(),
        data=dataset.name,
        source=dataset.source,
        licence=dataset.licence,
        image_shape=manifest.image_shape,
        latent_shape=manifest.latent_shape,
        labels=_labels(manifest),
        file=artifact.file,
        size=artifact.size,
        torch=manifest.torch_version,
        stored="" if manifest.text is None else ", with weights in float16",
        memorisation="" if manifest.text is None else MEMORISATION.format(memorised=NOT_MEASURED),
        quality=_quality(manifest.quality),
        limits="\n".join(f"- {limit}" for limit in _limits(manifest)),
    )


def _samples(manifest: Manifest) -> str:
    if "generate" not in manifest.capabilities:
        return RECONSTRUCTIONS
    if manifest.text is not None:
        if manifest.text.hint_shape is not None:
            return SAMPLES_OF_SKETCHES
        return SAMPLES_OF_PROMPTS.format(prompts=", ".join(PROMPTS))
    if not manifest.class_names:
        return SAMPLES_WITHOUT_CLASSES
    classes = len(manifest.class_names)
    shown = [manifest.class_names[label] for label in grid_classes(classes)]
    some = f" ({len(shown)} of {classes} classes)" if len(shown) < classes else ""
    return SAMPLES_OF_CLASSES.format(classes=", ".join(shown) + some)


def _use(manifest: Manifest) -> str:
    if "generate" not in manifest.capabilities:
        return ENCODE.format(name=manifest.name)
    if manifest.text is not None:
        of = GENERATE_PROMPT if manifest.text.hint_shape is None else GENERATE_SKETCH
        return of.format(name=manifest.name)
    label = f', "class_label": "{manifest.class_names[-1]}"' if manifest.class_names else ""
    return GENERATE.format(name=manifest.name, label=label)


def _labels(manifest: Manifest) -> str:
    if manifest.text is not None:
        return f"A prompt gives a context of {manifest.text.tokens} x {manifest.text.width}, and its mask."
    if not manifest.class_names:
        return "There are no classes: the label of every picture is 0."
    return f"Labels are 0 to {manifest.null_label - 1} in the order above; {manifest.null_label} means no class."


def _about(model: ModelConfig, *, conditioned: bool) -> str:
    """The description of the model, with the settings that determine its abilities."""
    values = model.model_dump() | {"conditioned": " conditioned on the class" if conditioned else ""}
    values |= values.get("base", {}) | values.get("autoencoder", {}) | {"family": model.family}
    if "tokens" in values:
        values["words"] = values["tokens"] - 1  # one marks the start
    if isinstance(model, VaeConfig):
        values["prior"] = PRIORS[model.prior]
    if isinstance(model, LdmConfig):
        values["reduction"] = 2 * model.autoencoder.patch
    about = ABOUT[model.family].format(**values)
    if isinstance(model, DdpmConfig | LdmConfig) and model.teacher is not None:
        about += GUIDED.format(**model.teacher.model_dump())
    discriminator = values.get("discriminator")
    return about + ADVERSARIAL.format(**discriminator) if discriminator else about


def _limits(manifest: Manifest) -> list[str]:
    _, height, width = manifest.image_shape
    size = f"It generates pictures of {height} x {width} pixels that resemble its training data, and nothing else."
    return [size, *CAVEATS.get(manifest.made_from.name, ())]


def duration(seconds: float) -> str:
    """Seconds as text: 7300 is "2 h 1 min", 99 is "1 min 39 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s"


def with_quality(text: str, quality: tuple[Score, ...]) -> str:
    """The card ``text`` with other scores. Raises ValueError when it has no Quality section."""
    text = text.replace(NOT_MEASURED, MEASURED)
    before, found, rest = text.partition(QUALITY_HEADING)
    _, limits, after = rest.partition(LIMITS_HEADING)
    if not (found and limits):
        raise ValueError("no section Quality before a section Limits")
    return f"{before}{found}{_quality(quality)}{limits}{after}"


def _quality(scores: tuple[Score, ...]) -> str:
    """A table for each evaluated set of pictures, in the order of the scores."""
    if not scores:
        return "The model has not been evaluated yet."
    tables = []
    for (sampler, samples, reference), group in groupby(scores, lambda it: (it.sampler, it.samples, it.reference)):
        drawn_by = f" ({sampler})" if sampler else ""
        head = [
            f"{samples:,} pictures{drawn_by} against {reference}:",
            "",
            "| | this model | real pictures |",
            "| --- | --- | --- |",
        ]
        tables.append("\n".join([*head, *map(_row, group)]))
    return "\n\n".join(tables)


def _row(score: Score) -> str:
    floor = "" if score.floor is None else f"{score.floor:.4g}"
    return f"| {score.metric} | {score.value:.4g} | {floor} |"
