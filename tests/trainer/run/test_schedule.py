"""Learning rate, average, order, labels, and the length of a run."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from trainer.compute.draws import Draws
from trainer.config import OptimizerConfig
from trainer.run.schedule import Plan, drop_labels, ema_average, epoch_order, learning_rate_factor


def settings(warmup: float, decay: bool) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=1.0, betas=(0.9, 0.99), weight_decay=0.0, warmup=warmup, decay=decay)


@pytest.mark.parametrize(
    ("warmup", "decay", "progress", "factor"),
    [
        (0.2, True, 0.0, 0.0),
        (0.2, True, 0.1, 0.5),
        (0.2, True, 0.2, 1.0),
        (0.2, True, 0.6, 0.505),
        (0.2, True, 1.0, 0.01),
        (0.2, False, 0.1, 0.5),
        (0.0, False, 0.0, 1.0),
        (0.0, False, 1.0, 1.0),
    ],
)
def test_the_learning_rate_rises_and_falls(warmup: float, decay: bool, progress: float, factor: float) -> None:
    assert learning_rate_factor(settings(warmup, decay), progress) == pytest.approx(factor)


def test_the_average_is_the_closed_form_of_its_trajectory() -> None:
    decay, steps = 0.8, 60
    network = nn.BatchNorm1d(3).double()
    buffers = dict(network.named_buffers())
    average = AveragedModel(network, multi_avg_fn=ema_average(decay), use_buffers=True)
    trajectory = torch.randn(steps, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for point in trajectory:
        with torch.no_grad():
            network.weight.copy_(point)
            buffers["running_mean"].copy_(2 * point)
            buffers["num_batches_tracked"].add_(1)
        average.update_parameters(network)

    kept = torch.tensor([0.0] + [min(decay, (1 + seen) / (10 + seen)) for seen in range(1, steps)]).double()
    later = kept.flip(0).cumprod(0).flip(0).roll(-1)  # what all later steps keep of this one's share
    later[-1] = 1.0
    share = (1 - kept) * later
    assert float(share.sum()) == pytest.approx(1.0)
    expected = (share[:, None] * trajectory).sum(dim=0)
    averaged = average.module.state_dict()
    torch.testing.assert_close(averaged["weight"], expected)
    torch.testing.assert_close(averaged["running_mean"], 2 * expected)
    assert averaged["num_batches_tracked"] == steps


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    first = epoch_order(seed=3, epoch=0, count=1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(first, epoch_order(seed=3, epoch=0, count=1000))
    assert not torch.equal(first, epoch_order(seed=3, epoch=1, count=1000))
    assert not torch.equal(first, epoch_order(seed=4, epoch=0, count=1000))


def test_the_given_share_of_labels_is_dropped() -> None:
    draws = Draws(torch.device("cpu"))
    label = torch.arange(10).repeat(10_000)
    dropped = drop_labels(label, 0.1, null_label=10, draws=draws)
    assert dropped.dtype == torch.int64
    assert float((dropped == 10).double().mean()) == pytest.approx(0.1, abs=0.005)
    kept = dropped != 10
    assert torch.equal(dropped[kept], label[kept])
    assert torch.equal(drop_labels(label, 0.0, null_label=10, draws=draws), label)


def test_a_plan_counts_the_epoch_that_is_cut_short() -> None:
    plan = Plan(total=10, per_epoch=4)
    assert [plan.epoch(step) for step in (0, 1, 4, 5, 8, 10)] == [0, 1, 1, 2, 2, 3]
    assert [step for step in range(1, 11) if plan.ends_epoch(step)] == [4, 8, 10]
    assert plan.epochs == 3
