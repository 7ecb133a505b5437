"""The house's order: who may import whom, what a leaf loads, how long a file may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the top down: a module of a package imports from lower rows and from its own folder only.
LAYERS = {
    "service": (
        {"cli"},
        {"__main__"},
        {"processes"},
        {"server"},
        {"admin", "app"},
        {"api"},
        {"models"},
        {"link"},
        {"engine"},
        {"admission", "store"},
        {"sampling", "images", "history"},
        {"contract", "decoding", "nvml"},
        {"logs", "supervision"},
        {"client", "request_info", "settings", "metrics", "process", "background"},
        {"access", "change_errors", "errors"},
        {"retry_after", "series"},
    ),
    "trainer": (
        {"__main__"},
        {"commands"},
        {"evaluate", "start"},
        {"export"},
        {"run"},
        {"objectives", "card", "encode"},
        {"generate"},
        {"models"},
        {"text"},
        {"data", "suggestions"},
        {"compute"},
        {"config"},
        {"model_config", "files", "vision"},
    ),
}
TRAINER_MAY_USE = {"contract", "sampling"}
LONGEST_FILE = 400
SOURCE = {".py", ".js", ".css", ".html", ".sh"}


def python_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py" or path.stat().st_size)


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: `from a.b import c` is "a.b.c"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used_of(package: str, path: Path) -> set[str]:
    """The first names below `package` that a file imports."""
    dotted = (name.split(".") for name in imports_of(path))
    return {parts[1] for parts in dotted if parts[0] == package and len(parts) > 1}


def rank(package: str, unit: str) -> int:
    ranks = [row for row, units in enumerate(LAYERS[package]) if unit in units]
    assert ranks, f"{package}/{unit} has no layer yet: give it one in docs/ARCHITECTURE.md and here"
    return ranks[0]


def require_downward(package: str, path: Path) -> None:
    own = path.relative_to(ROOT / package).with_suffix("").parts[0]
    for used in used_of(package, path):
        assert used == own or rank(package, used) > rank(package, own), f"{own} may not import {used}"


@pytest.mark.parametrize("path", python_files("service"), ids=lambda path: str(path.relative_to(ROOT)))
def test_service_imports_run_downward(path: Path) -> None:
    require_downward("service", path)
    assert not used_of("trainer", path)


@pytest.mark.parametrize("path", python_files("trainer"), ids=lambda path: str(path.relative_to(ROOT)))
def test_trainer_imports_run_downward(path: Path) -> None:
    require_downward("trainer", path)
    assert used_of("service", path) <= TRAINER_MAY_USE


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def late() -> None:\n    from service.engine import lane\n    import trainer.run.loop\n")
    assert used_of("service", path) == {"engine"}
    assert used_of("trainer", path) == {"run"}


def of_the_api(path: Path) -> set[str]:
    """The parts of service/api that a file imports."""
    dotted = (name.split(".") for name in imports_of(path))
    return {parts[2] for parts in dotted if parts[:2] == ["service", "api"] and len(parts) > 2}


@pytest.mark.parametrize("path", python_files("service/api"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_native_api_imports_no_dialect(path: Path) -> None:
    own = path.relative_to(ROOT / "service/api").parts[0]
    assert own == "dialects" or "dialects" not in of_the_api(path)
    assert own != "request" or of_the_api(path) <= {"request"}


def loaded_by(package: str) -> set[str]:
    """The top-level packages in a fresh interpreter after importing every module of a package."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in python_files(package)]
    assert modules
    script = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", script]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("package", "too_heavy"),
    [
        ("service/contract", {"torch", "numpy", "fastapi", "starlette", "trainer"}),
        ("service/decoding", {"torch", "numpy", "fastapi", "starlette", "trainer"}),
        ("service/store", {"torch", "numpy", "fastapi", "starlette", "trainer"}),
        ("service/series", {"torch", "numpy", "fastapi", "starlette", "pydantic", "trainer"}),
        ("service/supervision", {"torch", "numpy", "fastapi", "starlette", "trainer"}),
        ("service/client", {"torch", "numpy", "fastapi", "starlette", "trainer", "PIL"}),
        ("service/cli", {"torch", "numpy", "fastapi", "starlette", "trainer", "httpx", "tqdm"}),
        ("service/sampling", {"fastapi", "starlette", "trainer", "torchvision"}),
    ],
)
def test_a_leaf_loads_nothing_heavy(package: str, too_heavy: set[str]) -> None:
    loaded = loaded_by(package)
    assert "service" in loaded
    assert not loaded & too_heavy


def test_no_file_is_too_long() -> None:
    folders = ("service", "trainer", "tests", "benchmarks", "examples", "scripts")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.suffix in SOURCE]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
