"""Small pure functions that strategies are made of."""

from keras_popdescent.operators.fitness import cost as cost
from keras_popdescent.operators.fitness import fitness as fitness
from keras_popdescent.operators.mutation import log_normal as log_normal
from keras_popdescent.operators.mutation import reflect as reflect
from keras_popdescent.operators.noise import NO_NOISE as NO_NOISE
from keras_popdescent.operators.noise import NoiseSpec as NoiseSpec
from keras_popdescent.operators.selection import choose_parents as choose_parents
from keras_popdescent.operators.selection import weakest as weakest
