"""schemathesis against the document that the service gives of itself: what it says is what it does."""

from collections.abc import Iterator

import pytest

from benchmarks.reliability.fuzz import schemathesis
from tests.e2e.process import Service, serving
from tests.service.artefacts import write_autoencoder, write_diffusion


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Models that can all there is to be asked for, and requests that are soon done."""
    weights = tmp_path_factory.mktemp("schemathesis") / "weights"
    write_autoencoder(weights)
    write_diffusion(weights)
    with serving(weights, engine_threads=1, max_bucket=8, max_queue_ms=1e9, max_images=4, max_steps=20) as running:
        yield running
        assert running.errors_logged() == []


def cases(service: Service, *options: str) -> int:
    """How many requests schemathesis sent, none of which was answered against the document."""
    found = schemathesis(service.port, *options)
    assert found.failed == 0, found.report
    return found.sent


def test_random_requests_are_answered_as_documented(service: Service) -> None:
    assert cases(service, "--phases", "examples,fuzzing,stateful", "--max-examples", "6") > 200


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_thousands_of_requests_in_all_phases(service: Service) -> None:
    assert cases(service, "--max-examples", "100") >= 5000
