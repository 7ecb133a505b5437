import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from pydantic import BaseModel, ValidationError

from service.api.request.arrays import Array, Numbers, from_base64, to_base64


class Holder(BaseModel):
    numbers: Numbers


def npy(array: Any, **options: Any) -> str:
    file = io.BytesIO()
    np.save(file, array, **options)
    return base64.b64encode(file.getvalue()).decode()


def read(value: object) -> Array:
    return Holder.model_validate({"numbers": value}).numbers


def headed(shape: tuple[int, ...]) -> str:
    """A file of one number, whose header says ``shape``."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return base64.b64encode(file.getvalue() + bytes(4)).decode()


def test_lists_and_files_are_the_same_numbers() -> None:
    array = np.array([[1.5, -2.0], [0.0, 4.0]], np.float32)
    for value in (array.tolist(), to_base64(array), npy(array)):
        assert read(value).shape == (2, 2)
        assert (read(value).numpy() == array).all()
    assert (from_base64(to_base64(array)) == array).all()
    assert read([[1, 2]]).numpy().dtype == np.float32


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "u1", "<i8"])
def test_any_plain_numbers_are_read(dtype: DTypeLike) -> None:
    assert (read(npy(np.arange(6).astype(dtype).reshape(2, 3))).numpy() == np.arange(6).reshape(2, 3)).all()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "nested list of numbers, or a .npy"),
        ({"a": 1}, "nested list of numbers, or a .npy"),
        (None, "nested list of numbers, or a .npy"),
        ([[1], [1, 2]], "unequal lengths"),
        ([["1"]], "numbers only"),
        ([[True]], "numbers only"),
        ([None], "numbers only"),
        ([10**30], "numbers only"),
        ([101], "outside -100 to 100"),
        ([float("nan")], "outside -100 to 100"),
        (npy(np.array([np.inf])), "outside -100 to 100"),
        ("not base64", "not a .npy file in base64"),
        ("aGVsbG8=", "not a .npy file in base64"),
        (npy(np.array(["a"])), "plain numbers"),
        (headed((1,) * 65), "too many dimensions"),
        (npy(np.array([1 + 1j])), "plain numbers"),
        (npy(np.array([{"a": 1}]), allow_pickle=True), "plain numbers"),
        (npy(np.asfortranarray(np.ones((2, 3)))), "plain numbers"),
        (headed((True,)), "plain numbers"),
        (headed((-1, -1)), "plain numbers"),
        (npy(np.array([1e300])), "outside -100 to 100"),
        ([1e300], "outside -100 to 100"),
    ],
)
def test_invalid_arrays_are_rejected(value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read(value)


def test_a_header_with_a_huge_shape_allocates_nothing() -> None:
    with pytest.raises(ValidationError, match="plain numbers"):
        read(headed((10**15,)))


@given(st.binary(max_size=200))
def test_any_bytes_are_an_array_or_rejected(tail: bytes) -> None:
    for head in (b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        with pytest.raises(ValueError, match=r"not a \.npy file"):
            from_base64(base64.b64encode(head + tail).decode())
