"""Many of Keras's own train steps in one call, for each backend."""

import keras

from keras_popdescent.executors.stepping.base import Stepper as Stepper


def make_stepper(model: keras.Model) -> Stepper:
    """Return the stepper of the current backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow" and not model.run_eagerly:
        from keras_popdescent.executors.stepping.tensorflow import TensorFlowStepper

        return TensorFlowStepper(model)
    if backend == "jax" and not model.run_eagerly:
        from keras_popdescent.executors.stepping.jax import JaxStepper

        return JaxStepper(model)
    if backend == "torch" and not model.run_eagerly:
        from keras_popdescent.executors.stepping.torch import TorchStepper

        return TorchStepper(model)
    from keras_popdescent.executors.stepping.generic import GenericStepper

    return GenericStepper(model)
