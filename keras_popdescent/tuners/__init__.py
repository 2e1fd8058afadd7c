"""Tuners: the KerasTuner face."""

from keras_popdescent.tuners.base import PopulationTuner as PopulationTuner
from keras_popdescent.tuners.oracle import PopulationOracle as PopulationOracle
from keras_popdescent.tuners.popdescent import PopDescentTuner as PopDescentTuner
from keras_popdescent.tuners.result import SearchResult as SearchResult
