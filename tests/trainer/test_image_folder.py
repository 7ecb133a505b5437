from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.__main__ import main
from trainer.data import DataError
from trainer.image_folder import load_image_folder


def write(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(3):
        write(tmp_path / "photos" / "red" / f"{index}.png", (255, 0, 0), (40 + index, 30))
        write(tmp_path / "photos" / "blue" / f"{index}.jpg", (0, 0, 255))
    return tmp_path / "photos"


def test_sub_folders_are_classes(photos: Path) -> None:
    data = load_image_folder(photos, size=32, channels=3)
    assert data.facts.class_names == ("blue", "red")
    assert data.facts.image_shape == (3, 32, 32)
    assert data.images.shape == (6, 3, 32, 32)
    assert data.images.dtype == torch.uint8
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.images[3:, 0] == 255).all()
    assert (data.images[3:, 1:] == 0).all()


def test_one_channel_is_grey(photos: Path) -> None:
    data = load_image_folder(photos, size=28, channels=1)
    assert data.images.shape == (6, 1, 28, 28)
    assert data.images[3].float().mean().item() == pytest.approx(0.299 * 255, abs=1)


def test_the_centre_is_kept(tmp_path: Path) -> None:
    picture = np.zeros((30, 90, 3), dtype=np.uint8)
    picture[:, 30:60] = 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    assert load_image_folder(tmp_path, size=28, channels=1).images.float().mean() > 250


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"{index}.png", (1, 2, 3))
    (tmp_path / "notes.txt").write_text("not a picture")
    data = load_image_folder(tmp_path, size=28, channels=3)
    assert data.facts.class_names == ()
    assert len(data.images) == 2
    assert "left out" not in data.provenance


def test_broken_files_are_left_out_and_named(photos: Path) -> None:
    (photos / "red" / "broken.png").write_bytes(b"\x89PNG\r\n")
    data = load_image_folder(photos, size=28, channels=3)
    assert len(data.images) == 6
    assert "1 left out as unreadable: broken.png" in data.provenance


def test_a_class_of_broken_files_is_refused_by_name(photos: Path) -> None:
    (photos / "green").mkdir()
    (photos / "green" / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no picture of green"):
        load_image_folder(photos, size=28, channels=3)


def test_an_empty_class_is_refused(photos: Path) -> None:
    (photos / "green").mkdir()
    with pytest.raises(DataError, match="green"):
        load_image_folder(photos, size=28, channels=3)


@pytest.mark.parametrize("folder", ["missing", "."])
def test_nothing_to_read_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(DataError):
        load_image_folder(tmp_path / folder, size=28, channels=3)


@pytest.mark.parametrize("family", ["vae", "gan", "ddpm"])
def test_a_model_of_ones_own_pictures_is_trained_and_exported(photos: Path, tmp_path: Path, family: str) -> None:
    run, target = str(tmp_path / "run"), tmp_path / "weights" / "pets"
    size = ["--image-size", "32", "--channels", "3"]
    options = ["--dataset", "folder", "--data-dir", str(photos), *size, "--epochs", "1", "--batch-size", "6"]
    assert main(["train", family, *options, "--device", "cpu", "--out", run]) == 0
    assert main(["export", run, str(target)]) == 0
    assert '"class_names": [\n    "blue",\n    "red"\n  ]' in (target / "manifest.json").read_text()
    assert (target / "samples.png").is_file()


def test_a_folder_must_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "vae", "--dataset", "folder", "--out", str(tmp_path / "run")]) == 1
    assert "--data-dir" in capsys.readouterr().err


def test_fashion_mnist_has_its_own_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "vae", "--image-size", "32", "--out", str(tmp_path / "run")]) == 1
    assert "leave --image-size and --channels out" in capsys.readouterr().err
