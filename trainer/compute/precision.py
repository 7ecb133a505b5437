"""The choice between bf16 and fp32: bf16 is up to twice as fast where the processor supports it in hardware.

Where it is emulated, as on CPUs without AVX-512 bf16, it is eight to ten times slower. The CPU's flags do not decide
this alone, because oneDNN can be limited to older instructions: a few passes of one layer are timed instead.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from trainer.config import Precision

#: The presets' convolution at half resolution, on a quarter of their batch.
CHANNELS, BATCH, SIZE = 48, 16, 14
ROUNDS = 5


@dataclass(frozen=True)
class Choice:
    """A precision, and the reason as text for the user."""

    precision: Precision
    reason: str

    def __str__(self) -> str:
        return f"{self.precision}, because {self.reason}; override it with --precision"


def choose(milliseconds: dict[Precision, float]) -> Choice:
    """The faster precision by ``milliseconds``, a time for each; fp32, which is more exact, when they are equal."""
    bf16, fp32 = milliseconds["bf16"], milliseconds["fp32"]
    times = f"a training step of one layer takes {bf16:.1f} ms in bf16 and {fp32:.1f} ms in fp32 on this device"
    return Choice("bf16" if bf16 < fp32 else "fp32", times)


def fastest(device: torch.device) -> Choice:
    """The faster precision on ``device``, measured in less than a second."""
    with torch.random.fork_rng(devices=[]):
        step = _step(device)
    times: dict[Precision, float] = {"bf16": float("inf"), "fp32": float("inf")}
    for _ in range(ROUNDS):  # alternating, and the minimum of each: the first round and a busy machine are slow
        for precision in times:
            times[precision] = min(times[precision], _milliseconds(step, precision))
    return choose(times)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of forward passes in ``precision``; weights and optimizers stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _step(device: torch.device) -> Callable[[Precision], float]:
    """A forward and a backward pass that waits for the device by reading a result."""
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
