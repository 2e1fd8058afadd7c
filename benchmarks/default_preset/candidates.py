"""Variants of the default that were tried, each as switches of the strategy.

They are compared on the small tasks by their validation loss, or on a part that is neither
validation nor test; the held-out parts choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keras_popdescent import Annealing, PopDescent, Strategy
from keras_popdescent.strategies import UnitMutation

CANDIDATES: Mapping[str, Callable[[], Strategy]] = {
    "no annealing": lambda: PopDescent(annealing=None),
    "annealed from the beginning": lambda: PopDescent(annealing=Annealing()),
    "width 0.25": lambda: PopDescent(UnitMutation(0.25)),
    "width 1": lambda: PopDescent(UnitMutation(1.0)),
    "noise 0.01": lambda: PopDescent(noise_scale=0.01),
    "fresh slots": lambda: PopDescent(optimizer_state="fresh_slots"),
}
