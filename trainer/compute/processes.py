"""Data parallelism over the processes that torchrun starts; in a single process these functions change nothing.

Every process holds the whole model and all images, computes the gradient of its rows of each batch, and takes the step
of the mean gradient, which is the same in all processes. The main process has rank 0.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Inside, the process group of torchrun is initialised; yields the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0. Rank 0, the main process, writes the files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Inside, the other processes wait for the main process, so that they find the files that it downloads."""
    if rank() > 0:
        dist.barrier()
    try:
        yield
    finally:
        if rank() == 0 and count() > 1:
            dist.barrier()


def from_main_process(make: Callable[[], T]) -> T:
    """The result of ``make`` in the main process, sent to all others: a measurement would differ between them."""
    if count() == 1:
        return make()
    made = [make() if rank() == 0 else None]
    dist.broadcast_object_list(made)
    return cast(T, made[0])


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is set in any process."""
    if count() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    means = torch.split(flat.div_(count()), [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))


def batch_mean(value: Tensor) -> Tensor:
    """The mean over all rows of the batch, from ``value``, the mean over the rows of this process.

    For losses that are a nonlinear function of a mean over rows. The gradient is that of this process's mean: averaged
    over the processes it is the gradient for the whole batch.
    """
    if count() == 1:
        return value
    whole = value.detach().clone()
    dist.all_reduce(whole)
    return value + (whole / count() - value.detach())


def mean_of(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the processes."""
    if count() == 1 or not values:
        return values
    together = torch.stack(list(values.values()))
    dist.all_reduce(together)
    return dict(zip(values, (together / count()).unbind(), strict=True))
