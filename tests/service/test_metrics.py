from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from service.metrics import ROW_BUCKETS, SECONDS_BUCKETS, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample but the times at which series were made."""
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_buckets_rise_from_a_tenth_of_a_millisecond_to_half_a_minute() -> None:
    assert SECONDS_BUCKETS[0] == 1e-4
    assert SECONDS_BUCKETS[-1] == 30.0
    assert list(SECONDS_BUCKETS) == sorted(set(SECONDS_BUCKETS))
    assert max(high / low for low, high in pairwise(SECONDS_BUCKETS)) < 1.7
    assert list(ROW_BUCKETS) == sorted(set(ROW_BUCKETS))


def test_a_model_has_all_of_its_series_from_the_start() -> None:
    metrics = Metrics()
    assert samples(metrics) == {}
    metrics.for_model("vae", ["internal", "overloaded"])
    found = samples(metrics)
    assert set(found.values()) == {0.0}
    for name in ("request_seconds", "queue_seconds", "compute_seconds", "encode_seconds", "tick_rows"):
        assert f"genserve_{name}_count [('model', 'vae')]" in found
    for name in ("queued_rows", "live_rows", "images_total"):
        assert f"genserve_{name} [('model', 'vae')]" in found
    for reason in ("internal", "overloaded"):
        assert f"genserve_errors_total [('model', 'vae'), ('reason', '{reason}')]" in found


def test_unknown_models_have_errors_and_nothing_else() -> None:
    metrics = Metrics()
    metrics.for_unknown_models(["unknown-model"])
    assert samples(metrics) == {"genserve_errors_total [('model', '_unknown'), ('reason', 'unknown-model')]": 0.0}


def test_what_is_observed_is_exposed() -> None:
    metrics = Metrics()
    vae, gan = (metrics.for_model(name, ["internal"]) for name in ("vae", "gan"))
    vae.request_seconds.observe(0.5)
    vae.images.inc(3)
    vae.tick_rows.observe(16)
    vae.live_rows.set(2)
    vae.errors["internal"].inc()
    found = samples(metrics)
    assert found["genserve_request_seconds_sum [('model', 'vae')]"] == 0.5
    assert found["genserve_images_total [('model', 'vae')]"] == 3
    assert found["genserve_tick_rows_bucket [('le', '16.0'), ('model', 'vae')]"] == 1
    assert found["genserve_tick_rows_bucket [('le', '8.0'), ('model', 'vae')]"] == 0
    assert found["genserve_live_rows [('model', 'vae')]"] == 2
    assert found["genserve_errors_total [('model', 'vae'), ('reason', 'internal')]"] == 1
    assert not any(number for name, number in found.items() if "'gan'" in name)
    assert gan is not vae


def test_services_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.for_model("vae", []).images.inc()
    second.for_model("vae", [])
    assert samples(second)["genserve_images_total [('model', 'vae')]"] == 0
