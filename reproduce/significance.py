"""Means over seeds with their confidence intervals, and tests between two sets of losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
# A difference counts below this p.
LEVEL = 0.05


@dataclass(frozen=True)
class Summary:
    """What one method reached over its seeds.

    Attributes:
        count: Number of seeds.
        mean: Mean.
        sd: Standard deviation of a sample (divisor n - 1); NaN for one seed.
        low: Lower end of the mean's confidence interval, by Student's t; NaN for one seed.
        high: Upper end.
    """

    count: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A difference of means, of the first less the second.

    Attributes:
        difference: The difference.
        error: Its standard error; NaN where a side has fewer than two seeds, as all that follow.
        low: Lower end of its confidence interval.
        high: Upper end.
        p: p-value of the two-sided t-test. Where nothing varies it is 1 if all are equal, else 0.
    """

    difference: float
    error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan

    @property
    def counts(self) -> bool:
        """Whether the difference is more than noise, p < 0.05."""
        return self.p < LEVEL


def summary(losses: Sequence[float]) -> Summary:
    """Return the mean of (seeds,) losses with its confidence interval."""
    count, mean = len(losses), statistics.fmean(losses)
    if count < 2:
        return Summary(count, mean, math.nan, math.nan, math.nan)
    from scipy import stats

    sd = statistics.stdev(losses)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * sd / math.sqrt(count)
    return Summary(count, mean, sd, mean - half, mean + half)


def welch(losses: Sequence[float], others: Sequence[float]) -> Comparison:
    """Compare two samples that have nothing to do with each other, by Welch's t-test."""
    difference = statistics.fmean(losses) - statistics.fmean(others)
    if min(len(losses), len(others)) < 2:
        return Comparison(difference)
    if not statistics.pvariance(losses) and not statistics.pvariance(others):
        return _without_spread(difference)
    from scipy import stats

    return _comparison(difference, stats.ttest_ind(losses, others, equal_var=False))


def paired(losses: Sequence[float], others: Sequence[float]) -> Comparison:
    """Compare losses on the same splits, pair by pair, by Student's t-test of the differences.

    Args:
        losses: (splits,) losses.
        others: (splits,) losses in the same order; at least one.
    """
    differences = [one - other for one, other in zip(losses, others, strict=True)]
    difference = statistics.fmean(differences)
    if len(differences) < 2:
        return Comparison(difference)
    if not statistics.pvariance(differences):
        return _without_spread(difference)
    from scipy import stats

    return _comparison(difference, stats.ttest_rel(losses, others))


def _without_spread(difference: float) -> Comparison:
    return Comparison(difference, 0.0, difference, difference, 0.0 if difference else 1.0)


def _comparison(difference: float, test: Any) -> Comparison:
    from scipy import stats

    low, high = test.confidence_interval(CONFIDENCE)
    error = (high - low) / 2 / stats.t.ppf((1 + CONFIDENCE) / 2, test.df)
    return Comparison(difference, float(error), float(low), float(high), float(test.pvalue))


def p_against(losses: Sequence[float], mean: float, sd: float, count: int) -> float:
    """Return the p-value of a difference to a published mean.

    Welch's t-test from the published numbers; with one seed, Student's, as if its spread were the
    published one.

    Args:
        losses: (seeds,) losses, at least one.
        mean: The published mean.
        sd: The published standard deviation (divisor n).
        count: Of how many seeds.
    """
    from scipy import stats

    own = statistics.stdev(losses) if len(losses) > 1 else 0.0
    sample_sd = sd * math.sqrt(count / (count - 1))
    test = stats.ttest_ind_from_stats(
        statistics.fmean(losses), own, len(losses), mean, sample_sd, count,
        equal_var=len(losses) == 1,
    )  # fmt: skip
    return float(test.pvalue)


def said(p: float) -> str:
    """Return a p-value as it is printed; nothing for NaN."""
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"
