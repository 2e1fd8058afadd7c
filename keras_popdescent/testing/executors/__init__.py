"""A suite that every executor passes: it trains as `fit` does, and copies what it is told to copy.

For an executor of one's own:

    class TestMyExecutor(ExecutorConformance):
        def make_executor(self):
            return MyExecutor()

The models are small: a dense network with an L2 penalty, batch normalization and dropout.
"""

from keras_popdescent.testing.executors.averages import Averages
from keras_popdescent.testing.executors.births import Births
from keras_popdescent.testing.executors.first_members import FirstMembers
from keras_popdescent.testing.executors.hooks import Hooks
from keras_popdescent.testing.executors.states import States
from keras_popdescent.testing.executors.training import Training


class ExecutorConformance(FirstMembers, Training, Births, States, Averages, Hooks):
    """Laws that every executor keeps; override `make_executor`.

    Attributes:
        tolerance: Largest difference, relative or absolute, between weights that count as equal
            where an executor computes what plain Keras computes.
    """
