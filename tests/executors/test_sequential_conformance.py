import pytest
from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.testing.executors import ExecutorConformance


@pytest.mark.backend
class TestSequential(ExecutorConformance):
    def make_executor(self):
        return SequentialExecutor()
