import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.contract.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_REASON,
    Artifact,
    Manifest,
    ManifestError,
    NoiseSchedule,
    Score,
    max_steps,
    read_history,
    read_manifest,
    restore_manifest,
    write_manifest,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def write_json(directory: Path, fields: dict[str, Any]) -> Path:
    path = directory / "manifest.json"
    path.write_text(json.dumps(fields))
    return path


def refusal(directory: Path) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        read_manifest(directory)
    assert str(caught.value) == f"{directory / 'manifest.json'}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    return caught.value


def changed(fields: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `fields` with the entry at the dotted `path` set."""
    copy: dict[str, Any] = json.loads(json.dumps(fields))
    *parents, last = path.split(".")
    entry = copy
    for parent in parents:
        entry = entry[parent]
    entry[last] = value
    return copy


def test_written_manifest_reads_back_equal(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


@given(value=FINITE, floor=st.none() | FINITE, metric=st.text(min_size=1))
def test_score_survives_json_to_the_last_bit(value: float, floor: float | None, metric: str) -> None:
    score = Score(metric=metric, value=value, samples=1, reference="train", floor=floor)
    assert Score.model_validate_json(score.model_dump_json()) == score


def test_derived_values_of_a_diffusion_model(manifest: Manifest) -> None:
    assert manifest.null_label == 3
    assert manifest.version == manifest.artifact.sha256[:8]
    assert manifest.denoises


def test_model_without_steps_reads(tmp_path: Path, one_shot_fields: dict[str, Any]) -> None:
    write_json(tmp_path, one_shot_fields)
    manifest = read_manifest(tmp_path)
    assert not manifest.denoises
    assert manifest.defaults is None


@pytest.mark.parametrize(
    ("family", "denoises"), [("autoencoder", False), ("vae", False), ("gan", False), ("ddpm", True), ("ldm", True)]
)
def test_every_family_reads(tmp_path: Path, fields: dict[str, Any], family: str, denoises: bool) -> None:
    sampler = {} if denoises else {"noise_schedule": None, "t_max": None, "defaults": None}
    write_json(tmp_path, fields | sampler | {"family": family})
    manifest = read_manifest(tmp_path)
    assert (manifest.family, manifest.denoises) == (family, denoises)


@pytest.mark.parametrize("capability", ["generate", "interpolate", "encode", "decode"])
def test_every_capability_reads(tmp_path: Path, fields: dict[str, Any], capability: str) -> None:
    write_json(tmp_path, changed(fields, "capabilities", [capability]))
    assert read_manifest(tmp_path).capabilities == (capability,)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m", "consistency"])
def test_a_flow_and_every_solver_read(tmp_path: Path, fields: dict[str, Any], solver: str) -> None:
    changes = {"noise_schedule": {"kind": "flow", "timesteps": 1000}, "t_max": 1.0}
    write_json(tmp_path, changed(fields | changes, "defaults.solver", solver))
    manifest = read_manifest(tmp_path)
    assert manifest.noise_schedule == NoiseSchedule(kind="flow", timesteps=1000)
    assert manifest.defaults is not None
    assert manifest.defaults.solver == solver


def test_model_without_classes_has_null_label_zero(tmp_path: Path, fields: dict[str, Any]) -> None:
    write_json(tmp_path, changed(fields, "class_names", []))
    assert read_manifest(tmp_path).null_label == 0


def test_manifest_is_immutable(manifest: Manifest) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("schema_version", 2, "schema_version: Input should be 1"),
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
        ("training.surprise", 1, "training.surprise: Extra inputs"),
        ("name", "Upper", "name:"),
        ("name", "../escape", "name:"),
        ("name", "a" * 33, "name:"),
        ("name", "two\nlines", "name:"),
        ("family", "flow", "family:"),
        ("family", "few-step", "family:"),
        ("image_shape", [28, 28], "image_shape"),
        ("image_shape", [1, 0, 28], "image_shape.1:"),
        ("image_shape", [1, 28.0, 28], "image_shape.1:"),
        ("latent_shape", [], "latent_shape:"),
        ("x0_range", [1.0, -1.0], "x0_range: the lower bound must come first"),
        ("class_names", ["bag", "bag"], "class_names: entries must be distinct"),
        ("class_names", [""], "class_names.0:"),
        ("noise_schedule", None, "noise_schedule is required in family ddpm"),
        ("noise_schedule.kind", "sigmoid", "noise_schedule.kind:"),
        ("noise_schedule.timesteps", 0, "noise_schedule.timesteps:"),
        ("noise_schedule.beta_end", 1.0, "noise_schedule.beta_end:"),
        ("t_max", None, "t_max is required in family ddpm"),
        ("t_max", 0.0, "t_max:"),
        ("t_max", 1.5, "t_max:"),
        ("capabilities", [], "capabilities:"),
        ("capabilities", ["inpaint"], "capabilities.0:"),
        ("capabilities", ["generate", "generate"], "capabilities: entries must be distinct"),
        ("defaults", None, "defaults is required in family ddpm"),
        ("defaults.steps", "20", "defaults.steps:"),
        ("defaults.steps", 901, "defaults.steps 901 is more than the 900 up to t_max"),
        ("defaults.solver", "heun", "defaults.solver:"),
        ("defaults.guidance_scale", -1.0, "defaults.guidance_scale:"),
        ("inference_dtype", "float64", "inference_dtype:"),
        ("artifact.format", "pickle", "artifact.format:"),
        ("artifact.file", "../model-00000000.pt", "artifact.file:"),
        ("artifact.file", "model-00000000.pt", "artifact: file model-00000000.pt is not named by its sha256"),
        ("artifact.size", 0, "artifact.size:"),
        ("artifact.sha256", "ABCD", "artifact.sha256:"),
        ("dataset.images", True, "dataset.images:"),
        ("training.losses", {"loss": "low"}, "training.losses.loss:"),
        ("training.ema_decay", 1.0, "training.ema_decay:"),
        ("training.losses", {"loss": float("nan")}, "training.losses.loss:"),
        ("training.seconds", float("inf"), "training.seconds:"),
        ("quality", None, "quality:"),
        ("created", "22 November 2026", "created:"),
        ("created", "20261122", "created: must be a date YYYY-MM-DD"),
    ],
)
def test_wrong_field_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], path: str, value: object, names: str
) -> None:
    write_json(tmp_path, changed(fields, path, value))
    assert refusal(tmp_path).reason.startswith(names)


@pytest.mark.parametrize("field", ["noise_schedule", "t_max", "defaults"])
def test_model_without_steps_may_not_have_a_sampler(
    tmp_path: Path, fields: dict[str, Any], one_shot_fields: dict[str, Any], field: str
) -> None:
    write_json(tmp_path, changed(one_shot_fields, field, fields[field]))
    assert refusal(tmp_path).reason == f"{field} is not allowed in family gan"


def test_every_required_field_is_required(tmp_path: Path, fields: dict[str, Any]) -> None:
    for field in fields.keys() - {"quality"}:
        write_json(tmp_path, {key: value for key, value in fields.items() if key != field})
        optional = field in ("dataset", "training")  # in the family of diffusers folders
        reason = f"{field} is required in family ddpm" if optional else f"{field}: Field required"
        assert refusal(tmp_path).reason == reason


def test_a_newer_schema_is_reported_before_its_fields(tmp_path: Path, fields: dict[str, Any]) -> None:
    write_json(tmp_path, {"a_new_field": 1} | fields | {"schema_version": 2, "name": "?"})
    assert refusal(tmp_path).reason.startswith("schema_version:")


def test_name_of_an_unknown_field_cannot_break_the_line(tmp_path: Path, fields: dict[str, Any]) -> None:
    write_json(tmp_path, fields | {"two\nlines": 1})
    assert "two lines" in refusal(tmp_path).reason


def test_name_of_an_unknown_field_cannot_fill_the_log(tmp_path: Path, fields: dict[str, Any]) -> None:
    write_json(tmp_path, fields | {"x" * 500_000: 1})
    assert len(refusal(tmp_path).reason) == MAX_REASON


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).reason == "No such file or directory"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"\x80\x04pickle", b"{} {}", b"[" * 500_000])
def test_an_invalid_manifest_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refusal(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert "JSON" in refusal(tmp_path).reason


def test_size_is_bounded(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    text = path.read_bytes()
    path.write_bytes(text.ljust(MAX_MANIFEST_BYTES))
    assert read_manifest(tmp_path) == manifest
    path.write_bytes(text.ljust(MAX_MANIFEST_BYTES + 1))
    assert refusal(tmp_path).reason == f"larger than {MAX_MANIFEST_BYTES} bytes"


def test_failed_write_leaves_the_old_manifest_and_nothing_else(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, manifest)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path, manifest.model_copy(update={"name": "other"}))
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_contents_are_on_disk_before_the_rename_and_the_rename_after(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append(f"fsync {'directory' if os.fstat(descriptor).st_mode & 0o040000 else 'file'}")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> Path:
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_manifest(tmp_path, manifest)
    assert events == ["fsync file", "rename", "fsync directory"]


def test_every_user_may_read_what_is_written(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert (tmp_path / "manifest.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("t_max", "most"), [(1.0, 1000), (0.9, 900), (0.0294, 29), (0.0001, 0)])
def test_max_steps_counts_the_timesteps_up_to_t_max(t_max: float, most: int) -> None:
    assert max_steps(NoiseSchedule(kind="cosine", timesteps=1000), t_max) == most


def version_of(payload: bytes) -> dict[str, object]:
    sha256 = hashlib.sha256(payload).hexdigest()
    return {"artifact": Artifact(format="torchscript", file=f"model-{sha256[:8]}.pt", size=1, sha256=sha256)}


def test_what_is_replaced_is_kept_and_the_last_replaced_comes_first(tmp_path: Path, manifest: Manifest) -> None:
    versions = [manifest.model_copy(update=version_of(payload)) for payload in (b"a", b"b", b"c")]
    for each in versions:
        write_manifest(tmp_path, each)
    assert read_manifest(tmp_path) == versions[2]
    assert read_history(tmp_path) == [versions[1], versions[0]]
    write_manifest(tmp_path, versions[0])
    assert [each for each in read_history(tmp_path) if each != versions[0]] == [versions[2], versions[1]]


def test_a_kept_manifest_is_restored_byte_for_byte_with_its_signature(tmp_path: Path, manifest: Manifest) -> None:
    """Else what was signed by another release of this program would not be what is signed."""
    path, signature = tmp_path / "manifest.json", tmp_path / "manifest.json.minisig"
    first, second = (manifest.model_copy(update=version_of(payload)) for payload in (b"a", b"b"))
    text = first.model_dump_json(exclude_defaults=True).encode()
    path.write_bytes(text)
    signature.write_bytes(b"of the first")
    write_manifest(tmp_path, second)
    assert read_manifest(tmp_path) == second
    assert not signature.exists()  # it was of other bytes
    restore_manifest(tmp_path, first.version)
    assert (path.read_bytes(), signature.read_bytes()) == (text, b"of the first")
    assert second in read_history(tmp_path)


def test_another_manifest_of_the_same_weights_replaces_it(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    write_manifest(tmp_path, manifest.model_copy(update={"created": "2027-01-01"}))
    assert read_history(tmp_path) == []


def test_a_damaged_manifest_is_not_in_the_history(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    (tmp_path / "manifest-00000000.json").write_bytes((tmp_path / "manifest.json").read_bytes())  # of other weights
    (tmp_path / "manifest-11111111.json").write_text("{}")
    assert read_history(tmp_path) == []
    (tmp_path / "manifest.json").write_text("{}")
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_an_unreadable_manifest_is_not_in_the_history(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    os.mkfifo(tmp_path / "manifest-22222222.json")
    (tmp_path / "manifest-33333333.json").symlink_to("nowhere")
    (tmp_path / "manifest-44444444.json").mkdir()
    assert read_history(tmp_path) == []


GOLDEN = {"seed": 7, "class_label": 3, "steps": 20, "solver": "ddim", "picture": base64.b64encode(bytes(784)).decode()}


def test_a_golden_picture_is_of_the_models_shape(fields: dict[str, Any]) -> None:
    golden = Manifest.model_validate_json(json.dumps(fields | {"golden": GOLDEN})).golden
    assert golden is not None
    assert golden.levels == bytes(784)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"picture": base64.b64encode(bytes(783)).decode()}, "783 levels"),
        ({"picture": "?"}, "base64"),
        ({"class_label": 4}, "class_label"),
        ({"seed": 2**32}, "golden.seed"),
        ({"steps": None}, "golden.steps"),
        ({"solver": None}, "golden.solver"),
    ],
)
def test_a_golden_picture_of_something_else_is_refused(
    fields: dict[str, Any], wrong: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate_json(json.dumps(fields | {"golden": GOLDEN | wrong}))
