"""The measured step: least error in closed form, when it is measured, and its promise of 1 % on real samples with real captions."""

import itertools
import math

import pytest
import torch
from tiny import noise
from torch import nn

from benchmarks.gradient_error import error, gradient_of
from benchmarks.real_samples import lora_unet, real_samples
from smoothlib.regularizer.step_choice import LADDER, choose_rung, nearest_rung
from smoothlib.regularizer.variation import StepwiseVariation


def erring(truncation, order, rounding, size=200):
    """step -> a gradient of length 1 with an error of truncation h^order and a random one of rounding / h."""
    exact, curve = (x / x.norm() for x in (noise(size, seed=1, dtype=torch.float64), noise(size, seed=2, dtype=torch.float64)))

    def gradient_at(h):
        random = noise(size, seed=int(1e6 * h), dtype=torch.float64)
        return exact + truncation * h**order * curve + rounding / h * random / math.sqrt(size)

    return gradient_at, lambda k: error(gradient_at(LADDER[k]), exact)


@pytest.mark.parametrize("start", [1, 4, 8])
@pytest.mark.parametrize(("truncation", "order"), [(1e3, 2), (10.0, 2), (15.0, 1), (0.5, 1)])
@pytest.mark.parametrize("rounding", [3e-4, 3e-6, 1e-7])
def test_the_chosen_step_errs_little_more_than_the_best_and_no_more_than_the_estimate(truncation, order, rounding, start):
    gradient_at, true_error = erring(truncation, order, rounding)
    chosen, estimate = choose_rung(gradient_at, start)
    best = min(true_error(k) for k in range(1, len(LADDER) - 1))
    assert true_error(chosen) <= max(3 * best, 0.01)
    assert true_error(chosen) / 1.5 < estimate < 20 * true_error(chosen)


@pytest.mark.parametrize(("rounding", "further"), [(1e-8, 1), (1e-3, 0)])
def test_of_steps_that_agree_well_the_shortest_is_taken_and_of_others_the_best(rounding, further):
    """A batch may lack the images that are hardest for a long step; but where rounding shows already, it must not grow."""
    gradient_at, _ = erring(0.1, 1, rounding)
    apart = [error(gradient_at(a), gradient_at(b)) for a, b in itertools.pairwise(LADDER)]
    best = min(range(1, len(LADDER) - 1), key=lambda k: apart[k - 1] + apart[k])
    assert choose_rung(gradient_at, best)[0] == best + further


def test_gradients_that_vanish_or_are_no_numbers_choose_no_other_step():
    assert choose_rung(lambda h: torch.zeros(3), 5) == (8, 0.0)  # all agree
    assert choose_rung(lambda h: torch.full((3,), math.nan), 5) == (5, math.inf)


def test_the_nearest_step_is_never_an_end_of_the_ladder():
    assert [LADDER[nearest_rung(h)] for h in (5.0, 0.3, 0.0011, 0.0003, 1e-9)] == [0.1, 0.1, 0.001, 0.0003, 0.00003]


def small_batches(regularizer, count, first=0):
    """Steps in use after each of `count` batches of a small network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
    steps, calls = [], []

    def denoise(eps):
        calls.append(len(eps))
        return (network(eps),) * 2

    for seed in range(first, first + count):
        before = len(calls)
        regularizer(denoise, noise(4, 6, seed=seed), torch.ones(4), torch.zeros(4), noise(4, 6, seed=99), list(network.parameters()))
        steps.append((regularizer.step_choice.step, len(calls) - before > 1))
    return steps


def test_the_step_is_measured_on_the_first_batch_and_every_so_many_and_kept_in_the_state():
    whole, part, rest = (StepwiseVariation(difference_every=3) for _ in range(3))
    found = small_batches(whole, 7)
    assert [measured for _, measured in found] == [True, False, False, True, False, False, True]
    assert all(step in LADDER for step, _ in found)
    small_batches(part, 2)
    rest.take_up(part.state_dict())
    assert rest.step_choice.step == part.step_choice.step and small_batches(rest, 5, first=2) == found[2:]


@pytest.mark.parametrize("options", [dict(difference=0.02), dict(gradient="double_backward"), dict(gradient="forward_mode")])
def test_nothing_is_measured_where_the_step_is_fixed_or_there_is_none(options):
    regularizer = StepwiseVariation(**options)
    small_batches(regularizer, 2)
    assert regularizer.step_choice.rung == -1 and regularizer.step_choice.numbers() == {}


def test_in_evaluation_mode_nothing_is_measured_and_the_default_holds():
    regularizer = StepwiseVariation().eval()
    assert small_batches(regularizer, 1) == [(None, False)]


@pytest.fixture(scope="module")
def samples():
    return real_samples(48)


@pytest.mark.parametrize("state", [dict(rank=8), dict(adapter="smooth")], ids=["fresh", "trained"])
def test_measured_steps_err_by_at_most_one_per_cent_on_real_samples(samples, state):
    """The promise of the documents: relative L2 error of the gradient of L_reg in the LoRA, in float32, over 48 training images."""
    unet = lora_unet(**state)
    r = torch.full((48,), 0.12)  # the target of L_reg: about the mean of r
    wanted = gradient_of(dict(gradient="double_backward"), unet, samples, r)
    for gradient in ("central", "one_sided"):
        found = gradient_of(dict(gradient=gradient), unet, samples, r, batch=8)
        torch.testing.assert_close(found.r, wanted.r, rtol=1e-4, atol=1e-6)
        assert error(found.whole, wanted.whole) <= 0.01, gradient
        assert found.difference in LADDER and found.estimate <= 0.02
