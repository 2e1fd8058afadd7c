"""Callbacks: the `model.fit` face, the user's callbacks in a population, the progress display."""

from keras_popdescent.callbacks.members import MemberCallbacks as MemberCallbacks
from keras_popdescent.callbacks.popdescent import PopDescentCallback as PopDescentCallback
from keras_popdescent.callbacks.progress import make_progress as make_progress
from keras_popdescent.callbacks.schedule import ScheduleCallback as ScheduleCallback
