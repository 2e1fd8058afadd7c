"""Variants of the default that were tried, each as switches of the strategy.

They are compared on the small tasks by their validation loss, or on a part that is neither
validation nor test; the held-out parts choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keras_popdescent import Annealing, Averaging, Focus, PopDescent, Strategy
from keras_popdescent.strategies import UnitMutation

CANDIDATES: Mapping[str, Callable[[], Strategy]] = {
    "all members to the end": lambda: PopDescent(focus=None),
    "the best alone to the end": lambda: PopDescent(focus=Focus(0.5, None)),
    "the best alone from three tenths on": lambda: PopDescent(focus=Focus(0.3)),
    "the best alone from seven tenths on": lambda: PopDescent(focus=Focus(0.7)),
    "annealed in the second half": lambda: PopDescent(annealing=Annealing(begin=0.5)),
    "annealed from the beginning": lambda: PopDescent(annealing=Annealing()),
    "no averages, warm restarts: the default before": lambda: PopDescent(
        optimizer_state="restart", averaging=None
    ),
    "no averages": lambda: PopDescent(averaging=None),
    "averages of momentum 0.7": lambda: PopDescent(averaging=Averaging(0.7)),
    "averages of momentum 0.9": lambda: PopDescent(averaging=Averaging(0.9)),
    "warm restarts": lambda: PopDescent(optimizer_state="restart"),
    "optimizer as just built": lambda: PopDescent(optimizer_state="fresh"),
    "no least width": lambda: PopDescent(UnitMutation(0.5)),
    "least width 0.1": lambda: PopDescent(UnitMutation(0.5, least=0.1)),
    "width 1": lambda: PopDescent(UnitMutation(1.0, least=0.2)),
    "noise 0.05": lambda: PopDescent(noise_scale=0.05),
}
