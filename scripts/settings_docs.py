"""Write the tables of settings in docs/OPERATIONS.md: `python -m scripts.settings_docs`, from the root.

They replace what is between `<!-- settings -->` and `<!-- end of settings -->`.
"""

import re
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from service.settings import Settings
from service.settings.texts import SettingText

DOCUMENT = Path(__file__).parents[1] / "docs" / "OPERATIONS.md"
_PART = re.compile(r"(<!-- settings -->\n).*?(<!-- end of settings -->)", flags=re.DOTALL)
_HEAD = "| name | default | unit | meaning | when to change |\n| --- | --- | --- | --- | --- |"


def rewritten(text: str, settings: Iterable[SettingText]) -> str:
    """``text`` with one table for each group of ``settings``."""
    tables = [
        "\n".join([f"**{group.capitalize()}**", "", _HEAD, *(_row(each) for each in members), ""])
        for group, members in groupby(settings, key=attrgetter("group"))
    ]
    return _PART.sub(lambda part: "\n".join([part[1], *tables, part[2]]), text)


def _row(each: SettingText) -> str:
    default = each.default if each.default in ("unset", "empty") else f"`{each.default}`"
    cells = (f"`{each.variable}`", default, each.unit, _marked(each.meaning), _marked(each.change))
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    return re.sub(r"\b(GENSERVE_[A-Z_]+|genserve_[a-z_]+)\b", r"`\1`", text).replace("|", r"\|").replace("* ", r"\* ")


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), Settings.texts()))
