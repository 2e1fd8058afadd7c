"""Means, intervals and tests behind the tables, against numbers by hand."""

from __future__ import annotations

import math

import pytest

from reproduce.significance import p_against, paired, said, summary, welch

# Student's t of two degrees of freedom, 97.5 %.
T2 = 4.303


def test_summary():
    found = summary([1.0, 2.0, 3.0])
    assert (found.count, found.mean, found.sd) == (3, 2.0, 1.0)
    assert found.low == pytest.approx(2.0 - T2 / math.sqrt(3), abs=1e-3)
    assert found.high == pytest.approx(2.0 + T2 / math.sqrt(3), abs=1e-3)
    assert math.isnan(summary([1.0]).sd)


def test_welch():
    # t = -sqrt(3 / 2), 4 degrees of freedom.
    found = welch([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (found.difference, found.error) == (-1.0, pytest.approx(math.sqrt(2 / 3)))
    assert found.p == pytest.approx(0.288, abs=1e-3)
    assert found.low == pytest.approx(-1.0 - 2.776 * math.sqrt(2 / 3), abs=1e-3)
    assert not found.counts


def test_pairs():
    """Differences of 1, 1 and 4 on splits that are far apart."""
    found = paired([11.0, 101.0, 1004.0], [10.0, 100.0, 1000.0])
    assert (found.difference, found.error) == (2.0, pytest.approx(1.0))
    # t = 2 with two degrees of freedom.
    assert found.p == pytest.approx(0.1835, abs=1e-4)
    assert (found.low, found.high) == (
        pytest.approx(2.0 - T2, abs=1e-3),
        pytest.approx(2.0 + T2, abs=1e-3),
    )
    assert welch([11.0, 101.0, 1004.0], [10.0, 100.0, 1000.0]).p > 0.9


@pytest.mark.parametrize("compare", [welch, paired])
def test_too_few_or_without_spread(compare):
    alone = compare([1.0], [3.0])
    assert alone.difference == -2.0 and math.isnan(alone.p) and not alone.counts
    assert compare([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert compare([1.0, 1.0], [3.0, 3.0]).counts


def test_against_what_was_published():
    # Like Welch between samples; the published standard deviation has the divisor n.
    own, other = [1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 7.0]
    sd = math.sqrt(sum((value - 4.0) ** 2 for value in other) / 4)
    assert p_against(own, 4.0, sd, 4) == pytest.approx(welch(own, other).p)
    # One seed: t = 1.9 with two degrees of freedom, where 2.7 published deviations sound like much.
    assert p_against([0.361], 0.345, 0.006, 3) == pytest.approx(0.2, abs=1e-3)
    assert said(0.0004) == "< 0.001" and said(0.196) == "0.2" and said(math.nan) == ""
