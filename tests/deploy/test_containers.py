"""The images, built and run by a real engine; DOCKER_HOST and TORCH_INDEX_URL come from the environment."""

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from service.models.adding import add_folder
from tests.service.models.diffusers.tiny import write_folder

ROOT = Path(__file__).parents[2]
SERVICE, TRAINER, DIFFUSERS = "genserve-service:test", "genserve-trainer:test", "genserve-service:diffusers-test"
COMMIT = "0123abc"
MODELS = ("vae", "gan", "ddpm")
PNG = b"\x89PNG\r\n\x1a\n"
#: As in docker-compose.yml.
RESTRICTED = ("--read-only", "--tmpfs=/tmp:size=256m", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")

# A cold build downloads torch.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]


#: Compose publishes on free ports.
ENVIRONMENT = os.environ | {"GENSERVE_PORT": "0", "PROMETHEUS_PORT": "0"}


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
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
    docker(
        "build",
        "--target",
        "service",
        "--build-arg",
        "TORCH_INDEX_URL",
        "--build-arg",
        f"GIT_COMMIT={COMMIT}",
        "--tag",
        SERVICE,
        ".",
    )
    return SERVICE


@pytest.fixture(scope="module")
def trainer_image() -> str:
    docker("build", "--target", "trainer", "--build-arg", "TORCH_INDEX_URL", "--tag", TRAINER, ".")
    return TRAINER


@pytest.fixture(scope="module")
def diffusers_image(service_image: str) -> str:
    docker("build", "--target", "service-diffusers", "--build-arg", "TORCH_INDEX_URL", "--tag", DIFFUSERS, ".")
    return DIFFUSERS


def run(image: str, *command: str) -> str:
    """The output of ``command`` in place of what the image runs."""
    return docker("run", "--rm", *RESTRICTED, "--entrypoint", command[0], image, *command[1:])


@pytest.fixture(scope="module")
def stack(service_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The service and Prometheus as docker-compose.yml has them, on free ports: addresses by name."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["image"]
    if not _has(image):
        pytest.skip(f"{image} is not to be had here")
    override = tmp_path_factory.mktemp("stack") / "compose.yml"
    override.write_text(f"services: {{service: {{image: '{service_image}'}}}}")
    files = ("--file=docker-compose.yml", f"--file={override}")
    compose = ("compose", "--project-name=genserve-test", f"--project-directory={ROOT}", *files)
    try:
        docker(*compose, "up", "--detach", "--no-build", "--wait", "--wait-timeout=240", "service", "prometheus")
        published = {"service": "8000", "prometheus": "9090"}
        yield {name: "http://" + docker(*compose, "port", name, port) for name, port in published.items()}
    finally:
        docker(*compose, "down", "--volumes", "--timeout=30")


def _has(image: str) -> bool:
    found = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    return found.returncode == 0 or (
        subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False).returncode == 0
    )


def _logs(container: str) -> str:
    """What the container wrote to either stream."""
    command = ["docker", "logs", "--tail=50", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


@contextmanager
def running(image: str, *options: str) -> Iterator[str]:
    """The address of a service that says of itself that it is ready."""
    container = docker("run", "--detach", *RESTRICTED, "--publish=127.0.0.1::8000", *options, image)
    try:
        deadline = time.monotonic() + 180
        while (health := docker("inspect", "--format", "{{.State.Health.Status}}", container)) != "healthy":
            assert time.monotonic() < deadline, f"{health}\n{_logs(container)}"
            time.sleep(1)
        yield "http://" + docker("port", container, "8000").splitlines()[0]
    finally:
        docker("rm", "--force", "--volumes", container)


@pytest.fixture(scope="module")
def address(service_image: str) -> Iterator[str]:
    with running(service_image) as address:
        yield address


def test_the_service_image_is_lean(service_image: str) -> None:
    unwanted = ("torchvision", "trainer", "pip", "matplotlib", "scipy")
    code = f"from importlib.util import find_spec; print({{find_spec(name) for name in {unwanted}}})"
    assert run(service_image, "python", "-c", code) == "{None}"
    compilers = "for name in gcc cc g++ clang make; do command -v $name || true; done"
    assert run(service_image, "sh", "-c", compilers) == ""


def test_the_images_do_not_run_as_root(service_image: str, trainer_image: str) -> None:
    assert run(service_image, "id", "-u") != "0"
    assert run(trainer_image, "id", "-u") != "0"


def test_the_service_cannot_write_its_own_code(service_image: str) -> None:
    owners = run(service_image, "find", "/app", "-printf", "%U\n")
    assert set(owners.split()) == {"0"}


def generate(address: str, model: str) -> bytes:
    """One picture."""
    request = urllib.request.Request(f"{address}/generate/{model}?seed=1", headers={"Accept": "image/png"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("model", MODELS)
def test_the_service_generates(address: str, model: str) -> None:
    assert generate(address, model).startswith(PNG)


def test_the_image_with_diffusers_serves_an_added_folder(diffusers_image: str, tmp_path: Path) -> None:
    """safetensors writes files that only their owner can read, and the container runs as another user."""
    weights = tmp_path / "weights"
    weights.mkdir(mode=0o755)
    add_folder(write_folder(tmp_path / "fox", "sd"), weights)
    with running(diffusers_image, f"--volume={weights}:/app/weights:ro") as address:
        assert generate(address, "fox").startswith(PNG)


def test_the_image_with_diffusers_adds_only_packages(service_image: str, diffusers_image: str) -> None:
    sizes = [int(docker("image", "inspect", "--format", "{{.Size}}", image)) for image in (service_image, DIFFUSERS)]
    assert sizes[1] - sizes[0] < 500e6  # torch alone is larger
    assert run(diffusers_image, "id", "-u") != "0"


def test_the_service_says_what_it_was_built_from(address: str) -> None:
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        assert f'genserve_build_info{{commit="{COMMIT}"'.encode() in answer.read()


def test_the_service_shows_its_metrics(address: str) -> None:
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        assert b"genserve_request_seconds_bucket" in answer.read()


def test_the_trainer_explains_itself(trainer_image: str) -> None:
    assert "train" in docker("run", "--rm", *RESTRICTED, trainer_image, "--help")


def query(prometheus: str, promql: str) -> float:
    """The value of a query with one series; 0 when there is none."""
    text = urllib.parse.urlencode({"query": promql})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{text}", timeout=10) as answer:
        result = json.load(answer)["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def test_prometheus_sees_the_service_and_every_models_latency(stack: dict[str, str]) -> None:
    for model in MODELS:
        assert generate(stack["service"], model).startswith(PNG)
    asked = ['up{job="genserve"}', *(f'genserve_request_seconds_count{{model="{model}"}}' for model in MODELS)]
    deadline = time.monotonic() + 60
    while (seen := {promql: query(stack["prometheus"], promql) for promql in asked}) != dict.fromkeys(asked, 1.0):
        assert time.monotonic() < deadline, seen
        time.sleep(1)


def test_the_stack_is_hardened(stack: dict[str, str]) -> None:
    for name in stack:
        container = docker("ps", "--quiet", f"--filter=name=genserve-test-{name}")
        (inspected,) = json.loads(docker("inspect", container))
        host = inspected["HostConfig"]
        assert inspected["State"]["Health"]["Status"] == "healthy"
        assert inspected["Config"]["User"] not in {"", "0", "root"}
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert {port["HostIp"] for ports in host["PortBindings"].values() for port in ports} == {"127.0.0.1"}


@pytest.mark.parametrize("others", [(), ("gpu",), ("diffusers",), ("gpu", "diffusers")])
def test_compose_accepts_the_files(others: tuple[str, ...]) -> None:
    files = ["docker-compose.yml", *(f"docker-compose.{other}.yml" for other in others)]
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    docker("compose", *(f"--file={file}" for file in files), "--profile=train", "config", "--quiet")
