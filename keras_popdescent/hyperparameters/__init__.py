"""Hyperparameters of a live model: what can change while it trains, and how it is tied to names."""

from keras_popdescent.hyperparameters.binding import Binding as Binding
from keras_popdescent.hyperparameters.binding import HandleBinding as HandleBinding
from keras_popdescent.hyperparameters.binding import LossScaleBinding as LossScaleBinding
from keras_popdescent.hyperparameters.binding import PenaltyScaleBinding as PenaltyScaleBinding
from keras_popdescent.hyperparameters.binding import find_handles as find_handles
from keras_popdescent.hyperparameters.classify import BATCH_SIZE as BATCH_SIZE
from keras_popdescent.hyperparameters.classify import Classification as Classification
from keras_popdescent.hyperparameters.classify import classify as classify
from keras_popdescent.hyperparameters.handle import Handle as Handle
from keras_popdescent.hyperparameters.live_scalar import LiveScalar as LiveScalar
