import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.engine.transfer import ALIGNMENT, pack, to_device_together, unpack
from tests.service.engine.conftest import CPU

TENSORS = st.lists(
    st.builds(
        lambda shape, dtype: torch.randn(shape).mul(100).to(dtype),
        st.lists(st.integers(0, 4), max_size=3),
        st.sampled_from([torch.float32, torch.int64, torch.uint8]),
    ),
    max_size=6,
)


@given(TENSORS)
def test_what_is_packed_is_unpacked_to_the_bit(tensors: list[Tensor]) -> None:
    packed = pack(tensors, pinned=False)
    found = unpack(packed, tensors)
    assert len(found) == len(tensors)
    for one, other in zip(found, tensors, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
        assert one.is_contiguous()
        assert one.numel() == 0 or (one.data_ptr() - packed.data_ptr()) % ALIGNMENT == 0


def test_strided_tensors_are_packed_too() -> None:
    strided = torch.arange(12.0).reshape(3, 4).t()
    (found,) = unpack(pack([strided], pinned=False), [strided])
    assert torch.equal(found, strided)


def test_on_a_cpu_nothing_is_copied() -> None:
    tensors = [torch.zeros(2), torch.ones(3)]
    assert to_device_together(tensors, CPU) is tensors


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_what_was_packed() -> None:
    tensors = [torch.arange(5), torch.randn(3, 2), torch.zeros(0, 4), torch.tensor([7], dtype=torch.uint8)]
    for one, other in zip(to_device_together(tensors, torch.device("cuda")), tensors, strict=True):
        assert torch.equal(one.cpu(), other)
