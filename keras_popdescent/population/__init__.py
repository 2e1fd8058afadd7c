"""The population: members, their states, and the loop that trains, scores and replaces them."""

from keras_popdescent.population.executor import Executor as Executor
from keras_popdescent.population.executor import Report as Report
from keras_popdescent.population.executor import Setup as Setup
from keras_popdescent.population.loop import Loop as Loop
from keras_popdescent.population.member import Member as Member
from keras_popdescent.population.objective import Objective as Objective
from keras_popdescent.population.observer import Observer as Observer
from keras_popdescent.population.population import Population as Population
