"""The arithmetic of a run is the faster one of the machine."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.compute.precision import autocast, choose

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("bf16", "fp32", "chosen"), [(5.0, 10.0, "bf16"), (80.0, 10.0, "fp32"), (10.0, 10.0, "fp32")])
def test_the_faster_one_is_chosen_and_fp32_when_equal(bf16: float, fp32: float, chosen: str) -> None:
    choice = choose({"bf16": bf16, "fp32": fp32})
    assert choice.precision == chosen
    assert f"{bf16:.1f} ms in bf16 and {fp32:.1f} ms in fp32" in str(choice)
    assert "--precision" in str(choice)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions of other processors are not limited so")
def test_where_bf16_is_emulated_fp32_is_chosen() -> None:
    """Eight times slower: no noise of a busy machine hides that, and the least of several rounds counts."""
    code = "import torch; from trainer.compute import precision as p; print(p.fastest(torch.device('cpu')).precision)"
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=os.environ | limited,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert result.stdout == "fp32\n"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_forward_passes_compute_in_it(precision: str, dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), "bf16" if precision == "bf16" else "fp32"):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype
