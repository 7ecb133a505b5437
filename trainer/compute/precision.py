"""Which arithmetic a run trains in: bf16 is up to twice as fast as fp32 where the processor has it in hardware.

Where it is emulated, as on CPUs without AVX-512 bf16, it is eight to ten times slower. What a processor advertises does
not decide that alone (oneDNN can be limited to older instructions), so a few passes of one layer are timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from trainer.config import Precision

#: A convolution as the presets have at half resolution, on a quarter of their batch.
CHANNELS, BATCH, SIZE = 48, 16, 14
ROUNDS = 5


@dataclass(frozen=True)
class Choice:
    """A precision, and why in words for the user."""

    precision: Precision
    reason: str

    def __str__(self) -> str:
        return f"{self.precision}, because {self.reason}; --precision chooses another"


def choose(milliseconds: dict[Precision, float]) -> Choice:
    """The faster of the two; fp32, the more exact one, when they are equal. ``milliseconds`` has a time for each."""
    bf16, fp32 = milliseconds["bf16"], milliseconds["fp32"]
    times = f"a training step of one layer takes {bf16:.1f} ms in bf16 and {fp32:.1f} ms in fp32 on this device"
    return Choice("bf16" if bf16 < fp32 else "fp32", times)


def measured(device: torch.device) -> Choice:
    """The precision for ``device`` by timing both there, in less than a second."""
    with torch.random.fork_rng(devices=[]):
        step = _step(device)
    times: dict[Precision, float] = {"bf16": float("inf"), "fp32": float("inf")}
    for _ in range(ROUNDS):  # in turn, and the least of each: a busy neighbour slows both down, and the first round
        for precision in times:
            times[precision] = min(times[precision], _milliseconds(step, precision))
    return choose(times)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of forward passes in ``precision``; weights and optimizers stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _step(device: torch.device) -> Callable[[Precision], float]:
    """A forward and a backward pass, done when it returns: reading the loss waits for the device."""
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(BATCH, CHANNELS, SIZE, SIZE, device=device).contiguous(memory_format=torch.channels_last)

    def step(precision: Precision) -> float:
        with autocast(device, precision):
            loss = layer(images).float().square().mean()
        loss.backward()
        return float(layer.weight.grad.sum())

    return step


def _milliseconds(step: Callable[[Precision], float], precision: Precision) -> float:
    started = time.perf_counter()
    step(precision)
    return (time.perf_counter() - started) * 1000.0
