import math
from itertools import pairwise

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import ROW_BUCKETS, SECONDS_BUCKETS, Metrics


def families(metrics: Metrics) -> list[Metric]:
    return list(text_string_to_metric_families(metrics.expose().decode()))


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of a model, a GPU or a version."""
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in families(metrics)
        for sample in family.samples
        if {"model", "gpu", "version"} & sample.labels.keys()
    }


def test_buckets_rise_from_a_tenth_of_a_millisecond_to_half_a_minute() -> None:
    assert SECONDS_BUCKETS[0] == 1e-4
    assert 1.21 in SECONDS_BUCKETS  # the objective's, in deploy/prometheus/alerts.yml
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
    gauges = ("queued_rows", "live_rows", "table_rows", "accepted_work_seconds", "accepted_work_limit_seconds")
    counters = ("steps", "images", "padding_rows", "device_seconds", "split_calls", "out_of_memory")
    per_model = ("cost_ratio", *gauges, *(f"{name}_total" for name in counters))
    for name in per_model:
        assert f"genserve_{name} [('model', 'vae')]" in found
    for stage in ("queued", "running"):
        assert f"genserve_dropped_rows_total [('model', 'vae'), ('stage', '{stage}')]" in found
    for reason in ("raised", "not-finite", "engine"):
        assert f"genserve_failed_rows_total [('model', 'vae'), ('reason', '{reason}')]" in found
    for reason in ("client-left", "too-late"):
        assert f"genserve_cancelled_total [('model', 'vae'), ('reason', '{reason}')]" in found
    for outcome in ("swapped", "unchanged", "failed", "unloaded"):
        assert f"genserve_model_changes_total [('model', 'vae'), ('outcome', '{outcome}')]" in found
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
    vae.dropped_queued.inc(2)
    vae.dropped_running.inc(5)
    found = samples(metrics)
    assert found["genserve_request_seconds_sum [('model', 'vae')]"] == 0.5
    assert found["genserve_images_total [('model', 'vae')]"] == 3
    assert found["genserve_tick_rows_bucket [('le', '16.0'), ('model', 'vae')]"] == 1
    assert found["genserve_tick_rows_bucket [('le', '8.0'), ('model', 'vae')]"] == 0
    assert found["genserve_live_rows [('model', 'vae')]"] == 2
    assert found["genserve_errors_total [('model', 'vae'), ('reason', 'internal')]"] == 1
    assert found["genserve_dropped_rows_total [('model', 'vae'), ('stage', 'queued')]"] == 2
    assert found["genserve_dropped_rows_total [('model', 'vae'), ('stage', 'running')]"] == 5
    assert not any(number for name, number in found.items() if "'gan'" in name)
    assert gan is not vae


def test_of_a_model_that_is_served_no_more_only_what_was_counted_is_left() -> None:
    metrics = Metrics()
    bound = metrics.for_model("vae", [])
    bound.images.inc(3)
    bound.accepted_work.set(1.0)
    metrics.show_version("vae", "vae", "aaaaaaaa", "a" * 64)
    metrics.forget("vae")
    found = samples(metrics)
    assert found["genserve_images_total [('model', 'vae')]"] == 3
    gauges = {family.name for family in families(metrics) if family.type == "gauge"}
    assert not [name for name in found if name.split()[0] in gauges and "'vae'" in name]


def test_times_are_histograms_with_the_same_buckets() -> None:
    metrics = Metrics()
    metrics.for_model("vae", [])
    histograms = {each.name: each for each in families(metrics) if each.type == "histogram"}
    times = {f"genserve_{stage}_seconds" for stage in ("request", "queue", "compute", "encode")}
    assert histograms.keys() == times | {"genserve_tick_rows"}
    for name in times:
        bounds = [each.labels["le"] for each in histograms[name].samples if each.name.endswith("_bucket")]
        assert [float(bound) for bound in bounds] == [*SECONDS_BUCKETS, math.inf]


def test_services_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.for_model("vae", []).images.inc()
    second.for_model("vae", [])
    assert samples(second)["genserve_images_total [('model', 'vae')]"] == 0


def test_one_version_of_a_model_runs_at_a_time() -> None:
    metrics = Metrics()
    metrics.show_version("vae", "vae", "11111111", "1" * 64)
    metrics.show_version("gan", "gan", "22222222", "2" * 64)
    metrics.show_version("vae", "vae", "33333333", "3" * 64)
    found = {name for name in samples(metrics) if name.startswith("genserve_model_info")}
    assert found == {
        f"genserve_model_info [('family', '{model}'), ('model', '{model}'), "
        f"('sha256', '{digit * 64}'), ('version', '{digit * 8}')]"
        for model, digit in (("gan", "2"), ("vae", "3"))
    }
    assert samples(metrics)["genserve_model_ready [('model', 'vae')]"] == 1


def test_the_build_and_the_process_are_told() -> None:
    metrics = Metrics()
    metrics.show_build("1.2.3", "2.13.0+cpu", "abc123")
    (build,) = (each for each in families(metrics) if each.name == "genserve_build_info")
    (sample,) = build.samples
    assert sample.labels.items() >= {"version": "1.2.3", "torch": "2.13.0+cpu", "commit": "abc123"}.items()
    flat = {sample.name: sample.value for family in families(metrics) for sample in family.samples}
    assert flat["genserve_threads"] >= 1
    assert flat["process_resident_memory_bytes"] > 1e6
    assert flat["process_open_fds"] > 0


def test_gauges_are_set_when_metrics_are_read() -> None:
    metrics = Metrics()
    vae = metrics.for_model("vae", [])
    waiting = [3]
    metrics.on_refresh(lambda: vae.queued_rows.set(len(waiting)))
    assert samples(metrics)["genserve_queued_rows [('model', 'vae')]"] == 1
    waiting.append(4)
    metrics.refresh()
    assert vae.queued_rows.value == 2


def test_the_text_has_what_the_registry_collects() -> None:
    metrics = Metrics()
    metrics.for_model("vae", ["internal"]).images.inc()
    collected = [(each.name, each.documentation, each.type, len(each.samples)) for each in metrics.registry.collect()]
    assert collected == [(each.name, each.documentation, each.type, len(each.samples)) for each in families(metrics)]
