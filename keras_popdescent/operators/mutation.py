"""Mutation of a single number."""

from __future__ import annotations

import numpy as np


def log_normal(value: float, sd_octaves: float, rng: np.random.Generator) -> float:
    """Multiply `value` by 2 ** Normal(0, sd_octaves).

    With `sd_octaves = log2(10) * d` the factor has a standard deviation of `d` decades: the
    LogNormal of Algorithm 2 (arXiv 2310.14671), which makes x 0.1 and x 10 equally likely.

    Args:
        value: The number to mutate; its sign is kept.
        sd_octaves: Standard deviation in powers of two, at least 0; 0 is the identity.
        rng: Source of randomness.

    Returns:
        The mutated number, kept within the range of float32's normal numbers.
    """
    exponent = sd_octaves * rng.standard_normal()
    with np.errstate(over="ignore", under="ignore"):
        mutated = value * float(np.exp2(exponent))
    limit = np.finfo(np.float32)
    magnitude = min(max(abs(mutated), float(limit.tiny)), float(limit.max))
    return 0.0 if value == 0.0 else float(np.copysign(magnitude, value))


def reflect(position: float) -> float:
    """Fold a position on the real line back into [0, 1], mirrored at both ends.

    Reflection keeps a symmetric mutation symmetric near a bound, where clipping would pile up
    members on the bound itself.
    """
    folded = position % 2.0
    return 2.0 - folded if folded > 1.0 else folded
