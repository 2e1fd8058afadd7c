"""Means over seeds, their confidence intervals, and Welch's test between two contestants."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """What one contestant reached over its seeds.

    Attributes:
        count: Number of seeds.
        mean: Mean.
        sd: Standard deviation; NaN for one seed.
        low: Lower end of the mean's confidence interval, by Student's t; NaN for one seed.
        high: Upper end.
    """

    count: int
    mean: float
    sd: float
    low: float
    high: float


def summary(losses: Sequence[float]) -> Summary:
    """Return the mean of (seeds,) losses with its confidence interval."""
    count, mean = len(losses), statistics.fmean(losses)
    if count < 2:
        return Summary(count, mean, math.nan, math.nan, math.nan)
    from scipy import stats

    sd = statistics.stdev(losses)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * sd / math.sqrt(count)
    return Summary(count, mean, sd, mean - half, mean + half)


def welch(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the p-value of Welch's two-sided t-test; NaN where one has fewer than two seeds.

    Two that are equal and do not vary have p = 1.
    """
    if min(len(losses), len(others)) < 2:
        return math.nan
    if max(*losses, *others) == min(*losses, *others):
        return 1.0
    from scipy import stats

    return float(stats.ttest_ind(losses, others, equal_var=False).pvalue)
