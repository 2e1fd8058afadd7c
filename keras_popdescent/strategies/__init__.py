"""Strategies: from scores to decisions, in pure NumPy."""

from keras_popdescent.strategies.base import Offspring as Offspring
from keras_popdescent.strategies.base import PopulationView as PopulationView
from keras_popdescent.strategies.base import Strategy as Strategy
from keras_popdescent.strategies.esgd import ESGD as ESGD
from keras_popdescent.strategies.mutations import LogNormalMutation as LogNormalMutation
from keras_popdescent.strategies.mutations import Mutation as Mutation
from keras_popdescent.strategies.mutations import ReferenceMutation as ReferenceMutation
from keras_popdescent.strategies.mutations import UnitMutation as UnitMutation
from keras_popdescent.strategies.plans import Annealing as Annealing
from keras_popdescent.strategies.plans import Averaging as Averaging
from keras_popdescent.strategies.plans import ClosingPlan as ClosingPlan
from keras_popdescent.strategies.plans import Focus as Focus
from keras_popdescent.strategies.plans import ScoringPlan as ScoringPlan
from keras_popdescent.strategies.plans import TrainingPlan as TrainingPlan
from keras_popdescent.strategies.popdescent import PopDescent as PopDescent
from keras_popdescent.strategies.space import Dimension as Dimension
from keras_popdescent.strategies.space import LinearDimension as LinearDimension
from keras_popdescent.strategies.space import LogDimension as LogDimension
from keras_popdescent.strategies.space import SearchSpace as SearchSpace
from keras_popdescent.strategies.space import Value as Value
from keras_popdescent.strategies.space import Values as Values
