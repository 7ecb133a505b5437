from pydantic import BaseModel

from service.api.order import Uploads, without


def test_files_are_not_kept() -> None:
    class Point(BaseModel):
        image: bytes | None
        seed: int

    class Asked(BaseModel):
        image: bytes | None
        points: list[Point]
        names: list[str]

    points = [Point(image=b"a", seed=1), Point(image=None, seed=2)]
    kept = without(Asked(image=b"b", points=points, names=["c"]), bytes)
    assert kept == Asked(image=None, points=[Point(image=None, seed=1), Point(image=None, seed=2)], names=["c"])


def test_an_upload_that_is_taken_is_held_no_more() -> None:
    uploads = Uploads({"image": b"abc", "mask": b"de"})
    assert uploads.size == 5
    assert uploads.take("image") == b"abc"
    assert uploads.size == 2
    uploads.take("mask")
    assert uploads.size == 0


def test_different_files_or_fields_have_different_digests() -> None:
    files = [{"image": b"a"}, {"image": b"b"}, {"mask": b"a"}, {"image": b"a", "mask": b"a"}, {"image": b"ab"}, {}]
    assert len({Uploads(each).digest() for each in files}) == len(files)
    assert Uploads(files[3]).digest() == Uploads(files[3]).digest()
