"""Population-based hyperparameter tuning for Keras, after Population Descent (arXiv 2310.14671)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import keras_popdescent.executors as _executors  # noqa: F401 - registers the executors
from keras_popdescent.callbacks import PopDescentCallback as PopDescentCallback
from keras_popdescent.errors import PopDescentError as PopDescentError
from keras_popdescent.history import History as History
from keras_popdescent.history import Schedule as Schedule
from keras_popdescent.hyperparameters import Binding as Binding
from keras_popdescent.hyperparameters import find_handles as find_handles
from keras_popdescent.operators import NoiseSpec as NoiseSpec
from keras_popdescent.population import Executor as Executor
from keras_popdescent.population import Objective as Objective
from keras_popdescent.population import Observer as Observer
from keras_popdescent.population import Population as Population
from keras_popdescent.strategies import ESGD as ESGD
from keras_popdescent.strategies import Annealing as Annealing
from keras_popdescent.strategies import Averaging as Averaging
from keras_popdescent.strategies import ClosingPlan as ClosingPlan
from keras_popdescent.strategies import Focus as Focus
from keras_popdescent.strategies import LinearDimension as LinearDimension
from keras_popdescent.strategies import LogDimension as LogDimension
from keras_popdescent.strategies import LogNormalMutation as LogNormalMutation
from keras_popdescent.strategies import Mutation as Mutation
from keras_popdescent.strategies import Offspring as Offspring
from keras_popdescent.strategies import PopDescent as PopDescent
from keras_popdescent.strategies import PopulationView as PopulationView
from keras_popdescent.strategies import ScoringPlan as ScoringPlan
from keras_popdescent.strategies import SearchSpace as SearchSpace
from keras_popdescent.strategies import Strategy as Strategy
from keras_popdescent.strategies import TrainingPlan as TrainingPlan
from keras_popdescent.strategies import UnitMutation as UnitMutation

if TYPE_CHECKING:
    from keras_popdescent.tuners import PopDescentTuner as PopDescentTuner
    from keras_popdescent.tuners import PopulationTuner as PopulationTuner
    from keras_popdescent.tuners import SearchResult as SearchResult

__version__ = "0.1.0"
__all__ = [
    "Annealing",
    "Averaging",
    "Binding",
    "ClosingPlan",
    "ESGD",
    "Executor",
    "Focus",
    "History",
    "LinearDimension",
    "LogDimension",
    "LogNormalMutation",
    "Mutation",
    "NoiseSpec",
    "Objective",
    "Observer",
    "Offspring",
    "PopDescent",
    "PopDescentCallback",
    "PopDescentError",
    "PopDescentTuner",
    "Population",
    "PopulationTuner",
    "PopulationView",
    "Schedule",
    "ScoringPlan",
    "SearchResult",
    "SearchSpace",
    "Strategy",
    "TrainingPlan",
    "UnitMutation",
    "find_handles",
]


# KerasTuner is imported with the tuners only: the other two faces do not need it.
_LATE = ("PopDescentTuner", "PopulationTuner", "SearchResult")


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module("keras_popdescent.tuners"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
