"""Both images, built and run by a real engine; DOCKER_HOST and TORCH_INDEX_URL come from the environment."""

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE, TRAINER = "genserve-service:test", "genserve-trainer:test"
#: As in docker-compose.yml.
RESTRICTED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")

# A cold build downloads torch.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("no container engine answers; DOCKER_HOST names one elsewhere")


@pytest.fixture(scope="module")
def service_image() -> str:
    docker("build", "--target", "service", "--build-arg", "TORCH_INDEX_URL", "--tag", SERVICE, ".")
    return SERVICE


@pytest.fixture(scope="module")
def trainer_image() -> str:
    docker("build", "--target", "trainer", "--build-arg", "TORCH_INDEX_URL", "--tag", TRAINER, ".")
    return TRAINER


def run(image: str, *command: str) -> str:
    """The output of ``command`` in place of what the image runs."""
    return docker("run", "--rm", *RESTRICTED, "--entrypoint", command[0], image, *command[1:])


@pytest.fixture(scope="module")
def address(service_image: str) -> Iterator[str]:
    """A running service that says of itself that it is ready."""
    container = docker("run", "--detach", *RESTRICTED, "--publish=127.0.0.1::8000", service_image)
    try:
        deadline = time.monotonic() + 180
        while (health := docker("inspect", "--format", "{{.State.Health.Status}}", container)) != "healthy":
            assert time.monotonic() < deadline, f"{health}\n{docker('logs', container)}"
            time.sleep(1)
        yield "http://" + docker("port", container, "8000").splitlines()[0]
    finally:
        docker("rm", "--force", "--volumes", container)


def test_the_service_image_is_lean(service_image: str) -> None:
    code = "from importlib.util import find_spec as f; print(*map(f, ('torchvision', 'trainer', 'pip')))"
    assert run(service_image, "python", "-c", code) == "None None None"


def test_the_images_do_not_run_as_root(service_image: str, trainer_image: str) -> None:
    assert run(service_image, "id", "-u") != "0"
    assert run(trainer_image, "id", "-u") != "0"


def test_the_service_cannot_write_its_own_code(service_image: str) -> None:
    owners = run(service_image, "find", "/app", "-printf", "%U\n")
    assert set(owners.split()) == {"0"}


@pytest.mark.parametrize("model", ["vae", "gan", "ddpm"])
def test_the_service_generates(address: str, model: str) -> None:
    request = urllib.request.Request(f"{address}/generate/{model}?seed=1", headers={"Accept": "image/png"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"


def test_the_service_shows_its_metrics(address: str) -> None:
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        assert b"genserve_request_seconds_bucket" in answer.read()


def test_the_trainer_explains_itself(trainer_image: str) -> None:
    assert "train" in docker("run", "--rm", *RESTRICTED, trainer_image, "--help")


@pytest.mark.parametrize("files", [("docker-compose.yml",), ("docker-compose.yml", "docker-compose.gpu.yml")])
def test_compose_accepts_the_files(files: tuple[str, ...]) -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    docker("compose", *(f"--file={file}" for file in files), "--profile=train", "config", "--quiet")
