"""The processes that train one model together, as torchrun starts them; alone, everything here does nothing.

Each holds the whole model and all images, works on its rows of every batch, and takes the same step as the others:
the one of the mean gradient.
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
def joined(device: torch.device) -> Iterator[torch.device]:
    """Inside, the processes that torchrun started know each other; yields this one's device."""
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
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0. The first writes the files and speaks to the user."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def first_alone() -> Iterator[None]:
    """Inside, the first is done before the others begin: they find what it downloaded."""
    if rank() > 0:
        dist.barrier()
    try:
        yield
    finally:
        if rank() == 0 and count() > 1:
            dist.barrier()


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, in all of them: they must agree on what is measured."""
    if count() == 1:
        return make()
    made = [make() if rank() == 0 else None]
    dist.broadcast_object_list(made)
    return cast(T, made[0])


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each flag whether it is raised in any process."""
    if count() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient with its mean over the processes."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    means = torch.split(flat.div_(count()), [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))


def batch_mean(value: Tensor) -> Tensor:
    """A mean over this process's rows as the mean over all rows of the batch.

    For losses that are no mean over the rows themselves, but a function of one. The gradient goes to these rows as if
    there were no others: averaged over the processes, that is the gradient by the whole batch.
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
