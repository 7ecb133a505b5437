import logging
from pathlib import Path

import pytest

from service.contract.manifest import read_manifest
from service.engine.cost import CostModel
from service.engine.ready import log_ready, picture_ms
from service.logs import SENTENCE

GAN, DDPM = (read_manifest(Path(__file__).parents[3] / "weights" / name) for name in ("gan", "ddpm"))


def test_a_picture_takes_all_steps_twice_where_it_is_guided_and_its_decoding() -> None:
    cost = CostModel({1: 3.0})
    cost.decode_ms = 0.5
    assert picture_ms(GAN, cost) == 3.0
    assert DDPM.defaults is not None
    passes = DDPM.defaults.steps * (1 if DDPM.defaults.guidance_scale == 1 else 2)
    assert picture_ms(DDPM, cost) == pytest.approx(3.0 * passes + 0.5)
    assert picture_ms(DDPM, cost, CostModel({1: 4.0})) == pytest.approx(3.0 * passes + 0.5 + 8.0)


@pytest.mark.parametrize(("spent_ms", "shown"), [(0.4071, "0.41 ms"), (80.12, "80 ms"), (12_345.6, "12.3 s")])
def test_the_log_has_the_numbers_for_programs_and_a_sentence_for_people(
    spent_ms: float, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        log_ready(GAN, CostModel({4: 4 * spent_ms}))
    (record,) = caplog.records
    assert record.message == "model ready"
    told = {"model": "gan", "version": GAN.version, "bucket": 4}
    assert vars(record).items() >= (told | {SENTENCE: f"gan ready: {shown} a picture"}).items()
    assert (vars(record)["row_ms"], vars(record)["picture_ms"]) == pytest.approx((spent_ms, spent_ms))
