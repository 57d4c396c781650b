"""Verdicts on claims, from 95% intervals over paired seeds."""

import dataclasses
import math
from collections.abc import Sequence

from scipy import stats

from alexnet_jax.report.experiments import mean_and_spread

AGREES, SMALLER, LARGER = 'agrees', 'agrees, but smaller', 'agrees, but larger'
DIFFERS, CANNOT_TELL = 'differs', 'cannot tell'
# More seeds than anybody trains.
_MOST_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class Expected:
  """What a source claims.

  Attributes:
    low: the least change that it claims, in points or as a ratio.
    high: the largest one; infinite if the source sets no limit.
    unchanged: the value without an effect: 0 points, or a ratio of 1.
  """

  low: float
  high: float
  unchanged: float = 0.0


@dataclasses.dataclass(frozen=True)
class Interval:
  """The 95% interval of a mean over seeds (Student's t).

  Attributes:
    mean: the mean.
    low: its least value.
    high: its largest value.
  """

  mean: float
  low: float
  high: float


def interval(values: Sequence[float]) -> Interval | None:
  """Returns the interval of the mean; None for fewer than two values.

  Example:
    >>> found = interval([1.0, 2.0, 3.0])
    >>> round(found.low, 2), found.mean, round(found.high, 2)
    (-0.48, 2.0, 4.48)
  """
  mean, spread = mean_and_spread(values) if values else (0.0, None)
  if spread is None:
    return None
  half = _half_width(spread, len(values))
  return Interval(mean, mean - half, mean + half)


def verdict(values: Sequence[float], expected: Expected) -> str:
  """Returns whether the measured changes agree with the claim.

  It is about the direction: `agrees` if the complete interval is on the claim's
  side of no change, `differs` if it is on the other side, and else `cannot
  tell`. If the interval misses the claimed size, the verdict says that, too.

  Args:
    values: the change of each pair of seeds.
    expected: what the source claims.
  """
  found = interval(values)
  if found is None:
    return CANNOT_TELL
  # Mirrored, so that the claim is an increase.
  sign = 1 if expected.high > expected.unchanged else -1

  def effect(edges: Interval | Expected) -> list[float]:
    return sorted(
      sign * (edge - expected.unchanged) for edge in (edges.low, edges.high)
    )

  (low, high), (least, most) = effect(found), effect(expected)
  if high < 0:
    return DIFFERS
  if low <= 0:
    return CANNOT_TELL
  if high < least:
    return SMALLER
  return LARGER if low > most else AGREES


def seeds_to_tell(values: Sequence[float], unchanged: float = 0.0) -> str:
  """Returns how many seeds would tell, if mean and spread stay the same.

  Example:
    >>> seeds_to_tell([0.2, 0.6, 1.3])
    'about 5 seeds'
    >>> seeds_to_tell([1.0])
    'at least 3 seeds'
  """
  mean, spread = mean_and_spread(values)
  if spread is None:
    return 'at least 3 seeds'
  for number in range(len(values), _MOST_SEEDS + 1):
    if _half_width(spread, number) < abs(mean - unchanged):
      return f'about {number} seeds'
  return f'more than {_MOST_SEEDS} seeds'


def _half_width(spread: float, number: int) -> float:
  return float(stats.t.ppf(0.975, number - 1)) * spread / math.sqrt(number)
