from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from medkd.errors import UserError
from medkd.metrics import holm, one_way_anova, paired_difference, smallest_p

# Dice of 3 seeds on 6 volumes, and of the control.
FIGURES = np.array(
    [
        [0.71, 0.64, 0.80, 0.55, 0.69, 0.77],
        [0.69, 0.70, 0.78, 0.49, 0.74, 0.79],
        [0.75, 0.66, 0.83, 0.58, 0.66, 0.72],
    ]
)
CONTROL = np.array(
    [
        [0.68, 0.66, 0.75, 0.47, 0.60, 0.74],
        [0.70, 0.61, 0.76, 0.52, 0.63, 0.75],
        [0.66, 0.69, 0.71, 0.50, 0.65, 0.70],
    ]
)


def test_mean_interval_and_spread_by_hand() -> None:
    # Differences 0.1 with one seed and 0.2 with the other on both volumes: a resample has the first seed twice, both or
    # the second twice, so its mean is 0.1, 0.15 or 0.2, and the outer ones each come once in four.
    found = paired_difference(np.array([[0.6, 0.8], [0.8, 0.8]]), np.array([[0.5, 0.7], [0.6, 0.6]]))
    assert (found.mean, found.low, found.high) == pytest.approx((0.15, 0.1, 0.2))
    assert found.seed_deviation == pytest.approx(0.1 / 2**0.5)
    assert (found.seeds, found.volumes) == (2, 2)


def test_the_interval_is_that_of_a_slow_double_loop() -> None:
    found = paired_difference(FIGURES, CONTROL)
    generator = random.Random(1)
    differences = (FIGURES - CONTROL).tolist()
    means = []
    for _ in range(20_000):
        seeds = generator.choices(range(3), k=3)
        volumes = generator.choices(range(6), k=6)
        means.append(sum(differences[seed][volume] for seed in seeds for volume in volumes) / 18)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.0015)


def test_with_one_seed_the_interval_is_that_of_scipy() -> None:
    found = paired_difference(FIGURES[:1], CONTROL[:1])
    differences = (FIGURES - CONTROL)[0]
    expected = stats.bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    interval = expected.confidence_interval
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high], abs=0.0015)
    assert found.seed_deviation is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_p_is_that_of_all_ways_to_sign_the_means_of_the_volumes(seeds: int) -> None:
    differences = (FIGURES - CONTROL)[:seeds].mean(axis=0)
    ranks = stats.rankdata(np.abs(differences).round(10))
    observed = abs(np.sum(ranks * np.sign(differences)))
    sums = [abs(np.dot(ranks, signs)) for signs in itertools.product([-1, 1], repeat=6)]
    expected = np.mean(np.array(sums) >= observed - 1e-9)
    assert paired_difference(FIGURES[:seeds], CONTROL[:seeds]).p_value == pytest.approx(expected)


def test_differences_that_rounding_alone_tells_apart_are_ties() -> None:
    # 0.4 - 0.3, 0.2 - 0.1 and 0.3 - 0.2 differ in their last bits; without ties the sign of one could decide.
    figures, control = np.array([[0.4, 0.1, 0.3]]), np.array([[0.3, 0.2, 0.2]])
    assert len(set(np.abs(figures - control)[0])) > 1
    # Ranks 2, 2, 2 with signs + - +: of 8 ways to sign them, all have a sum as far from 0 or farther.
    assert paired_difference(figures, control).p_value == 1


def test_equal_models_are_equal() -> None:
    found = paired_difference(FIGURES, FIGURES)
    assert (found.mean, found.low, found.high, found.p_value, found.seed_deviation) == (0, 0, 0, 1, 0)


def test_the_same_figures_give_the_same_interval() -> None:
    assert paired_difference(FIGURES, CONTROL) == paired_difference(FIGURES.copy(), CONTROL.copy())
    assert paired_difference(FIGURES, CONTROL, seed=1).low != paired_difference(FIGURES, CONTROL).low


def test_seeds_that_disagree_widen_the_interval() -> None:
    # On all volumes +0.1 with one seed and -0.06 with the other: the volumes alone would say exactly +0.02.
    control = np.full((2, 6), 0.5)
    found = paired_difference(control + np.array([[0.1], [-0.06]]), control)
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, -0.06, 0.1))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    control = np.zeros((10, 20))
    held = 0
    for _ in range(300):
        seeds, volumes, rest = (generator.normal(size=size) for size in ((10, 1), (1, 20), (10, 20)))
        found = paired_difference(seeds + volumes + rest, control, resamples=400)
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 300 <= 0.98


@pytest.mark.parametrize(
    ("figures", "control", "words"),
    [
        (np.ones((2, 3)), np.ones((1, 3)), "keep the seeds and volumes"),
        (np.ones(3), np.ones(3), "keep the seeds and volumes"),
        (np.ones((2, 1)), np.ones((2, 1)), "two volumes"),
        (np.ones((0, 4)), np.ones((0, 4)), "a seed"),
        (np.array([[1.0, np.nan]]), np.ones((1, 2)), "not a finite number"),
        (np.ones((1, 2)), np.array([[1.0, np.inf]]), "not a finite number"),
    ],
)
def test_what_cannot_be_compared_is_refused(figures: Any, control: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        paired_difference(figures, control)


@pytest.mark.parametrize("volumes", [2, 3, 6, 12])
def test_no_p_is_smaller_than_that_of_volumes_that_all_agree(volumes: int) -> None:
    gains = np.linspace(0.1, 0.2, volumes)[None]
    assert paired_difference(gains, np.zeros_like(gains)).p_value == pytest.approx(smallest_p(volumes))


def test_smallest_p_by_hand() -> None:
    assert [smallest_p(1), smallest_p(2), smallest_p(6)] == [1.0, 0.5, 2 / 64]


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # 3 x 0.01, 2 x 0.03, and 0.04, which may not be below the 0.06 of a smaller one.
        ([0.03, 0.01, 0.04], [0.06, 0.03, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.031], [0.031]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_holm_is_that_of_statsmodels(count: int) -> None:
    p_values = np.random.default_rng(count).uniform(size=count) ** 3
    # Wilcoxon's p on few volumes are often equal.
    p_values[: count // 2] = p_values[0]
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_anova_by_hand() -> None:
    # Means 2 and 3 around 2.5: 1.5 between the groups with one degree of freedom, 4 within with four.
    statistic, p_value = one_way_anova([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]) or (0, 0)
    assert statistic == pytest.approx(1.5)
    # With two groups it is the t test, whose p with four degrees of freedom has this closed form.
    t = 1.5**0.5
    below = 0.5 + 3 / 8 * (t / (1 + t**2 / 4) ** 0.5) * (1 - t**2 / (1 + t**2 / 4) / 12)
    assert p_value == pytest.approx(2 * (1 - below))


@pytest.mark.parametrize("groups", [[], [[1.0, 2.0]], [[1.0], [1.0, 2.0]], [[], [1.0, 2.0]], [[1.0, 1.0], [2.0, 2.0]]])
def test_anova_needs_two_groups_that_vary(groups: list[list[float]]) -> None:
    assert one_way_anova(groups) is None
