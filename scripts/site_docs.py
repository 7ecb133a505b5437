"""Build the documentation site in build/site from README.md and docs/: `python -m scripts.site_docs`, by `make site`.

MkDocs builds the pages of one folder, and links in docs/ lead to files outside of it. So the pages are gathered in
build/site-source: README.md as the first page, docs/ as it is, and below repository/ each other file that a page
links to. Reference pages are sections of longer documents, so that no text is written twice. The site loads nothing
from other hosts.
"""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build/site-source"
SITE = ROOT / "build/site"
TOOLS = ROOT / ".venv/peers/site"

#: Pages that are a section of a document, found by its heading. The search has them once, in the document.
SECTIONS = {
    "reference/settings.md": ("docs/OPERATIONS.md", "Settings"),
    "reference/metrics.md": ("docs/OPERATIONS.md", "Metrics"),
    "reference/errors.md": ("docs/API.md", "Errors"),
}
#: Files that the site has as they are.
FILES = frozenset({".png", ".svg", ".gif", ".webp", ".css"})
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
_LINK = re.compile(r"(\]\()([^()\s#]*)(#[^()\s]*)?(?=\))")


def place(path: str) -> str:
    """Where the site has a file or folder of the repository; both paths are relative to their roots."""
    if path == "README.md":
        return "index.md"
    inside = path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
    if (ROOT / path).is_dir():
        return f"{inside}/index.md"
    return inside if Path(path).suffix in FILES | {".md"} else f"{inside}.md"


def linked(text: str, document: str) -> Iterator[str]:
    """The files and folders of the repository that the Markdown ``text`` of ``document`` links to."""
    for match in _LINK.finditer(text):
        if path := _target(match[2], document):
            yield path


def moved(text: str, document: str, page: str) -> str:
    """``text`` of ``document`` with links that are right on ``page`` of the site."""

    def link(match: re.Match[str]) -> str:
        own = match[2] == "" and page != place(document)  # an anchor of the document, on a page that is a part of it
        path = document if own else _target(match[2], document)
        if path is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(place(path), posixpath.dirname(page) or '.')}{match[3] or ''}"

    return _LINK.sub(link, text)


def _target(link: str, document: str) -> str | None:
    """The path from the root that a relative link leads to, if it is a file or folder there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(document), link))
    return path if link and "://" not in link and not path.startswith("..") and (ROOT / path).exists() else None


def written(path: str) -> str:
    """The Markdown of a page for a file or folder of the repository: its own, its code, or a list of its files."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(each.name for each in file.iterdir() if each.is_file() and not each.name.startswith("_"))
        return "\n".join(
            [f"# {path.removeprefix('docs/')}\n", *(f"- [{_title(file / name)}]({name})" for name in names)]
        )
    text = file.read_text()
    if path.startswith("docs/decisions/"):  # how it came about is rarely what a search is for
        return f"---\nsearch:\n  boost: 0.1\n---\n\n{text}"
    return text if file.suffix == ".md" else f"# {path}\n\n```{_LANGUAGES.get(file.suffix, '')}\n{text}```\n"


def _title(file: Path) -> str:
    first = file.read_text().partition("\n")[0] if file.suffix == ".md" else ""
    return first.removeprefix("# ") if first.startswith("# ") else file.name


def section(text: str, heading: str) -> str:
    """The part of a document below ``## heading``, as a page. Raises ValueError if there is none."""
    _, found, rest = text.partition(f"\n## {heading}\n")
    if not found:
        raise ValueError(f"no section {heading!r}")
    body = rest.partition("\n## ")[0]
    return f"---\nsearch:\n  exclude: true\n---\n\n# {heading}\n{body}\n"


def gather() -> dict[str, str | Path]:
    """The pages of the site by their paths, and the pictures that they show, as files."""
    documents = sorted(path for path in (ROOT / "docs").rglob("*") if path.suffix in {".md", ".css"})
    waiting = ["README.md", *(str(path.relative_to(ROOT)) for path in documents)]
    found: dict[str, str | Path] = {}
    while waiting:
        path = waiting.pop()
        page = place(path)
        if page in found:
            continue
        if Path(path).suffix in FILES:
            found[page] = ROOT / path
            continue
        within = f"{path}/index.md" if (ROOT / path).is_dir() else path  # a folder's links start in it
        text = written(path)
        waiting += linked(text, within)
        found[page] = moved(text, within, page)
    for page, (document, heading) in SECTIONS.items():
        found[page] = moved(section((ROOT / document).read_text(), heading), document, page)
    return found


def main() -> None:
    """Gather, build and complete the site; MkDocs' warnings are errors."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for page, content in gather().items():
        file = SOURCE / page
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, file)
        else:
            file.write_text(content)
    command = [str(TOOLS / "bin/mkdocs"), "build", "--strict", "--config-file", str(ROOT / "docs/mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    if status := subprocess.run(command, check=False, env=environment).returncode:
        shutil.rmtree(SITE, ignore_errors=True)
        sys.exit(status)
    complete()


def complete() -> None:
    """Let pages with diagrams load the environment's copy of mermaid; the theme would load it from another host."""
    mermaid = TOOLS / "mermaid.min.js"
    if mermaid.exists():
        shutil.copyfile(mermaid, SITE / "assets/javascripts/mermaid.min.js")
        _edit("*.html", lambda text: _with_mermaid(text) if 'class="mermaid"' in text else text)
    _edit("assets/javascripts/bundle.*.js", lambda text: text.replace("https://unpkg.com/", "unpkg.com/"))


def _with_mermaid(text: str) -> str:
    script = r'<script src="\1assets/javascripts/mermaid.min.js"></script>'
    return re.sub(r'(?=<script src="([^"]*)assets/javascripts/bundle)', script, text)


def _edit(pattern: str, change: Callable[[str], str]) -> None:
    for file in SITE.rglob(pattern):
        file.write_text(change(file.read_text()))


if __name__ == "__main__":
    main()
