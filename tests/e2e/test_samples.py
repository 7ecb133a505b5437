"""The examples that the pages of the API show are run, in each language."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.http.samples import BASE, TAGS
from tests.e2e.process import ROOT, Service, serving

pytestmark = pytest.mark.slow

NODE = shutil.which("node")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(ROOT / "weights", engine="inline", max_bucket=8, max_queue_ms=1e9) as running:
        yield running


def samples(service: Service, fence: str) -> list[str]:
    """The examples in one language, for this service, with a job that has ended; those that delete come last."""
    paths = service.client.get("/openapi.json").json()["paths"]
    operations = [each for item in paths.values() for each in item.values() if TAGS & set(each["tags"])]
    found = [re.findall(rf"```{fence}\n(.*?)\n```", each["description"], flags=re.DOTALL) for each in operations]
    assert all(len(each) == 1 for each in found)
    job = service.client.post("/generate/gan", headers={"Prefer": "respond-async"}).json()["id"]
    service.client.get(f"/jobs/{job}/result", headers={"Prefer": "wait=60"})
    texts = [text for (text,) in found]
    texts.sort(key=lambda text: "delete" in text.lower())
    base = str(service.client.base_url).rstrip("/")
    return [text.replace(BASE, base).replace("JOB_ID", job) for text in texts]


@pytest.fixture
def folder(service: Service, tmp_path: Path) -> Path:
    """A folder with the picture that is uploaded."""
    (tmp_path / "one.png").write_bytes(service.client.post("/generate/vae").content)
    return tmp_path


def test_in_curl(service: Service, folder: Path) -> None:
    for text in samples(service, "sh"):
        command = text.replace("curl ", "curl -sS --fail-with-body ", 1)
        subprocess.run(["bash", "-c", command], cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_in_python(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("requests")
    monkeypatch.chdir(folder)
    for text in samples(service, "python"):
        exec(text, {})
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_in_javascript(service: Service, folder: Path) -> None:
    for index, text in enumerate(samples(service, "js")):
        module = folder / f"{index}.mjs"
        module.write_text(text)
        subprocess.run([str(NODE), str(module)], cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL)
