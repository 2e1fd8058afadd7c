"""Executors: train, score and rewrite members."""

from keras_popdescent.executors.sequential import SequentialExecutor as SequentialExecutor
from keras_popdescent.population.registry import EXECUTORS

EXECUTORS.setdefault("sequential", SequentialExecutor)
