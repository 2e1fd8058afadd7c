"""Conformance suites and doubles: a new strategy is checked by the tests that the others pass."""

from keras_popdescent.testing.bindings import BindingCase as BindingCase
from keras_popdescent.testing.bindings import BindingConformance as BindingConformance
from keras_popdescent.testing.bindings import TraceCount as TraceCount
from keras_popdescent.testing.doubles import FixedStrategy as FixedStrategy
from keras_popdescent.testing.doubles import ScriptedBlueprint as ScriptedBlueprint
from keras_popdescent.testing.doubles import ScriptedExecutor as ScriptedExecutor
from keras_popdescent.testing.doubles import ScriptedGenerator as ScriptedGenerator
from keras_popdescent.testing.doubles import ScriptedModel as ScriptedModel
from keras_popdescent.testing.doubles import scripted_loop as scripted_loop
from keras_popdescent.testing.executors import ExecutorConformance as ExecutorConformance
from keras_popdescent.testing.spaces import ChoiceDimension as ChoiceDimension
from keras_popdescent.testing.spaces import GridDimension as GridDimension
from keras_popdescent.testing.spaces import mixed_space as mixed_space
from keras_popdescent.testing.strategies import StrategyConformance as StrategyConformance
