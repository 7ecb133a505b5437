"""The first minute as a GIF: `genserve serve` and two commands are run, and their real output is drawn as a terminal.

    python -m scripts.first_minute docs/pictures/first-minute.gif

Waits are shortened; nothing else is changed.
"""

import os
import pty
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageSequence

ROOT = Path(__file__).parents[1]
SIZE, MARGIN, ROW, FONT = (1000, 560), 20, 23, 16
#: The most pixels of a picture's width and height.
PICTURE = (440, 285)
BACKGROUND, TEXT, PROMPT = "#101418", "#d7dde4", "#6fd08c"
#: Milliseconds of a typed group of letters, the longest wait between two lines, and of the pictures at the end.
LETTERS_MS, LONGEST_MS, END_MS = 90, 700, 3500
TYPED = 4
#: Most seconds from the start of the service to its address.
START_S = 300.0

SERVE = "genserve serve"
COMMANDS = {
    'genserve generate emoji --prompt "red heart" -n 16 -o grid.png': "grid.png",
    "genserve film ddpm --class-label bag -o film.gif": "film.gif",
}


class Line(NamedTuple):
    """A line of output, and the milliseconds between it and the line before it."""

    text: str
    wait_ms: int


def main(arguments: list[str]) -> int:
    """Write the GIF to the path that is the only argument; returns the exit code."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _service() as (started, environment):
            screen = [*_typed([], SERVE), *_printed([f"$ {SERVE}"], started)]
            shown = [f"$ {SERVE}", *(line.text for line in started), ""]
            colours = Image.new("RGB", (SIZE[0], SIZE[1] * len(COMMANDS)))
            for number, (command, file) in enumerate(COMMANDS.items()):
                output = _run(command, folder, environment)
                screen += _typed(shown, command)
                shown += [f"$ {command}", *output]
                with Image.open(folder / file) as picture:
                    screen += _pictures(shown, picture)
                colours.paste(screen[-1][0], (0, number * SIZE[1]))
    frames, durations = zip(*screen, strict=True)
    palette = colours.quantize(128)  # of all pictures: the last one alone may be grey
    pages = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    target = Path(arguments[0])
    pages[0].save(target, save_all=True, append_images=pages[1:], duration=list(durations), loop=0, optimize=True)
    print(f"{target}: {len(pages)} pages, {sum(durations) / 1000:.0f} s, {target.stat().st_size >> 10} KiB")
    return 0


def _command(command: str) -> list[str]:
    """``command`` with this interpreter and this checkout."""
    program, *words = shlex.split(command)
    assert program == "genserve"
    return [sys.executable, "-m", "service.cli", *words]


@contextmanager
def _service() -> Iterator[tuple[list[Line], dict[str, str]]]:
    """What the service prints on a terminal until it is ready, and the environment of commands that ask it."""
    reads, terminal = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(_command(SERVE), cwd=ROOT, env=environment, stderr=terminal, stdin=terminal)
    os.close(terminal)
    try:
        lines = list(_lines_until_ready(reads))
        yield lines, environment | {"GENSERVE_URL": lines[-1].text.split()[-1]}
    finally:
        process.terminate()
        process.wait(60)
        os.close(reads)


def _lines_until_ready(reads: int) -> Iterator[Line]:
    last, give_up = time.monotonic(), time.monotonic() + START_S
    with os.fdopen(os.dup(reads), errors="replace") as output:
        for line in output:
            now = time.monotonic()
            yield Line(line.rstrip(), int(1000 * (now - last)))
            last = now
            if " open http" in line:
                return
            if now > give_up:
                break
    raise RuntimeError("the service does not start")


def _run(command: str, folder: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(_command(command), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


Page = tuple[Image.Image, int]


def _typed(above: list[str], command: str) -> Iterator[Page]:
    """A person types ``command`` below the lines ``above``."""
    for end in range(0, len(command) + TYPED, TYPED):
        yield _page([*above, f"$ {command[:end]}_"]), LETTERS_MS


def _printed(above: list[str], output: list[Line]) -> Iterator[Page]:
    """Lines come one after another."""
    for count, line in enumerate(output):
        shown = [*above, *(each.text for each in output[:count])]
        yield _page(shown), max(LETTERS_MS, min(line.wait_ms, LONGEST_MS))
    yield _page([*above, *(each.text for each in output)]), 2 * LONGEST_MS


def _pictures(lines: list[str], picture: Image.Image) -> Iterator[Page]:
    """The output of a command, with the picture that it wrote, which may move."""
    parts = [each.convert("RGB") for each in ImageSequence.Iterator(picture)]
    for each in parts:
        page = _page(lines)
        each.thumbnail(PICTURE)
        page.paste(each, (SIZE[0] - each.width - MARGIN, MARGIN))  # beside the service's short lines
        yield page, max(LETTERS_MS, END_MS // len(parts))


def _page(lines: list[str]) -> Image.Image:
    """A terminal with ``lines``, the last ones if there are too many."""
    page = Image.new("RGB", SIZE, BACKGROUND)
    draw = ImageDraw.Draw(page)
    for row, line in enumerate(lines[-((SIZE[1] - 2 * MARGIN) // ROW) :]):
        colour = PROMPT if line.startswith("$ ") or " open http" in line else TEXT
        draw.text((MARGIN, MARGIN + row * ROW), line, colour, _font())
    return page


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans Mono, which comes with matplotlib."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", FONT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
