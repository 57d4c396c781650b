"""Verdicts on claims."""

import math

import numpy as np
import pytest

from alexnet_jax.report import verdicts
from alexnet_jax.report.verdicts import Expected


def test_an_interval_is_students():
  found = verdicts.interval([1.0, 2.0, 3.0])
  # t with two degrees of freedom is 4.3027 at 97.5% (any table of it).
  half = 4.3027 / math.sqrt(3)
  assert (found.mean, found.low, found.high) == pytest.approx(
    (2.0, 2.0 - half, 2.0 + half), abs=1e-4
  )
  assert verdicts.interval([1.0]) is None
  assert verdicts.interval([]) is None


def test_an_interval_covers_the_mean_95_times_in_100():
  rng = np.random.default_rng(0)
  covered = [
    found.low <= 0.7 <= found.high
    for _ in range(2000)
    for found in [verdicts.interval(rng.normal(0.7, 2.0, 3).tolist())]
  ]
  assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
  ('values', 'expected', 'verdict'),
  [
    # The source says that the error rises by 1.4 points.
    ([1.3, 1.4, 1.5], Expected(1.4, 1.4), 'agrees'),
    ([0.4, 0.5, 0.6], Expected(1.4, 1.4), 'agrees, but smaller'),
    ([3.0, 3.1, 3.2], Expected(1.4, 1.4), 'agrees, but larger'),
    ([-1.3, -1.4, -1.5], Expected(1.4, 1.4), 'differs'),
    ([-0.5, 0.7, 1.9], Expected(1.4, 1.4), 'cannot tell'),
    ([1.4], Expected(1.4, 1.4), 'cannot tell'),
    ([], Expected(1.4, 1.4), 'cannot tell'),
    # It falls by 1.5.
    ([-1.4, -1.5, -1.6], Expected(-1.5, -1.5), 'agrees'),
    ([-0.4, -0.5, -0.6], Expected(-1.5, -1.5), 'agrees, but smaller'),
    ([-3.0, -3.1, -3.2], Expected(-1.5, -1.5), 'agrees, but larger'),
    ([0.4, 0.5, 0.6], Expected(-1.5, -1.5), 'differs'),
    # It rises, by any number, or by more than one point.
    ([4.0, 4.1, 4.2], Expected(0.0, math.inf), 'agrees'),
    ([4.0, 4.1, 4.2], Expected(1.0, math.inf), 'agrees'),
    ([0.4, 0.5, 0.6], Expected(1.0, math.inf), 'agrees, but smaller'),
    # It takes six times as many epochs.
    ([3.2, 3.3, 3.4], Expected(6.0, 6.0, unchanged=1.0), 'agrees, but smaller'),
    ([0.2, 0.3, 0.4], Expected(6.0, 6.0, unchanged=1.0), 'differs'),
    ([0.8, 1.1, 1.4], Expected(6.0, 6.0, unchanged=1.0), 'cannot tell'),
    # Equal seeds have an interval of no width.
    ([0.0, 0.0, 0.0], Expected(1.4, 1.4), 'cannot tell'),
  ],
)
def test_verdicts(values, expected, verdict):
  assert verdicts.verdict(values, expected) == verdict


def test_as_many_seeds_as_it_says_would_tell():
  values = [0.2, 0.6, 1.3]
  assert verdicts.verdict(values, Expected(1.4, 1.4)) == 'cannot tell'
  mean, spread = np.mean(values), np.std(values, ddof=1)
  for number, tells in ((4, False), (5, True)):
    # That many seeds with the same mean and standard deviation.
    seeds = np.linspace(-1, 1, number)
    seeds = mean + spread * seeds / np.std(seeds, ddof=1)
    found = verdicts.interval(seeds.tolist())
    assert (found.low > 0) == tells
  assert verdicts.seeds_to_tell(values) == 'about 5 seeds'
  assert verdicts.seeds_to_tell([0.0, 0.0001, -0.0001]) == (
    'more than 100 seeds'
  )
  assert verdicts.seeds_to_tell([1.0]) == 'at least 3 seeds'
  # A ratio of one is no effect.
  assert verdicts.seeds_to_tell([0.9, 1.0, 1.11], 1.0) == 'more than 100 seeds'
