"""A compiled model whose hyperparameters are live, and through which members take turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_popdescent.data.batch import Batch, as_fit_gives_it, length
from keras_popdescent.errors import BindingError, DataError, ModelError, describe
from keras_popdescent.hyperparameters import Binding, HandleBinding
from keras_popdescent.hyperparameters._keras_internals import weight_averages
from keras_popdescent.hyperparameters.handle import Handle
from keras_popdescent.hyperparameters.losses import LossWeightHandle
from keras_popdescent.hyperparameters.optimizer import (
    LearningRateHandle,
    inner_optimizer,
    rate_handle,
)
from keras_popdescent.population.averages import Move, WeightAverages, averaged_indices
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.variables import swap_functions
from keras_popdescent.strategies.space import Values


class LiveModel:
    """One compiled model for all members of one structure.

    Args:
        blueprint: Builds the model.
        values: Hyperparameter values that decide its structure.
        seed: Seed of the initial weights.
        batch: A batch of training data: weights, losses and metrics appear with it.
        full: Whether losses and metrics are needed too, not only the state.
        donated: Whether somebody else's train function may destroy what is in the model (on JAX,
            that of `fit` does): then a state that is put in is copied first.
        ema_momentum: Of moving averages of the weights, beside the model; None for none. Where the
            optimizer averages weights itself (`use_ema`) there are no others.

    Raises:
        ModelError: If the blueprint returns no compiled model, or one with a second optimizer.
        DataError: If the model does not take the data.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        values: Values,
        seed: int,
        batch: Batch,
        full: bool = True,
        donated: bool = False,
        ema_momentum: float | None = None,
    ) -> None:
        self.blueprint = blueprint
        self.model = blueprint.build_seeded(values, seed)
        self._donated = donated
        _refuse_second_optimizer(self.model)
        if full or (batch and not self.model.built):
            check_takes(self.model, batch)
        self.bindings: dict[str, Binding] = blueprint.bindings(values)
        computed = blueprint.computed_paths(values)
        self._computed = HandleBinding("computed", [(path, 1.0) for path in computed])
        try:
            self._make_live(ema_momentum)
        except BaseException:
            # Within `fit` the model is somebody's own.
            self.detach()
            raise

    def _make_live(self, ema_momentum: float | None) -> None:
        for binding in self.bindings.values():
            binding.attach(self.model)
        if self._computed.targets:
            self._computed.attach(self.model)
        self._rate: LearningRateHandle | None = rate_handle(self.model)
        # After the bindings: a live momentum needs its slots even where it starts at 0.
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        # Who has to be told what is put into the variables: on PyTorch some, elsewhere nobody.
        self._followers = [handle for handle in self.handles if handle.as_number]
        self._follow()
        self._compare_by_default_weights()
        self._index_variables()
        self._add_averages(ema_momentum)
        self._read, self._write = swap_functions(
            [*self.weight_variables, *self.optimizer_variables]
        )
        self._index_comparable()
        self._index_averages()

    def _index_variables(self) -> None:
        live = {id(handle.variable) for handle in self.handles if handle.variable is not None}
        weights = [v for v in self.model.weights if id(v) not in live]
        plain = {id(v) for v in weights}
        # `variables` has the state of random seeds, `weights` has not.
        extra = [v for v in self.model.variables if id(v) not in plain]
        slots = [v for v in self.model.optimizer.variables if id(v) not in live]
        tuned = [v for v in self.model.optimizer.variables if id(v) in live]
        self.weight_variables = weights + extra
        self.optimizer_variables = slots + tuned
        # What a child of another structure can take over: weights and slots, in their order.
        self.num_plain = (len(weights), len(slots))
        trainable = {id(v) for v in self.model.trainable_variables}
        self.trainable_indices = [i for i, v in enumerate(weights) if id(v) in trainable]
        self.seed_indices = [
            i
            for i, v in enumerate(self.weight_variables)
            if id(v) not in plain and id(v) not in live
        ]
        self.live_indices = [
            i
            for i, v in enumerate([*self.weight_variables, *self.optimizer_variables])
            if id(v) in live
        ]
        self.step_counter_indices = [
            i
            for i, v in enumerate(slots)
            if v.dtype.startswith("int") and v.shape == () and "iteration" in v.name
        ]

    def _compare_by_default_weights(self) -> None:
        """Have members compared under the loss weights of the default values.

        Those that this model was built with would be others for members of another structure, and
        in a search that goes on in another process.
        """
        space = self.blueprint.space
        for name, binding in self.bindings.items():
            if name in space and any(isinstance(h, LossWeightHandle) for h in binding.handles):
                own = [handle.read() for handle in binding.handles]
                binding.write(float(space[name].default))
                for handle, value in zip(binding.handles, own, strict=True):
                    if isinstance(handle, LossWeightHandle):
                        handle.neutral = handle.read()
                    handle.write(value)
        computed = [h for h in self._computed.handles if isinstance(h, LossWeightHandle)]
        defaults = self.blueprint.computed_values(space.defaults()) if computed else {}
        for handle in computed:
            handle.neutral = defaults.get(handle.path, handle.neutral)

    def _index_comparable(self) -> None:
        """Find what is neutral while members are compared, and the numbers that are neutral."""
        variables, numbers = [], []
        for handle in self.handles:
            if handle.neutral is not None and handle.variable is not None:
                variables.append(handle.variable)
                numbers.append(handle.neutral)
        self._read_comparable, self._write_comparable = swap_functions(variables)
        self._neutral = [
            keras.ops.convert_to_tensor(number, variable.dtype)
            for number, variable in zip(numbers, variables, strict=True)
        ]

    def _add_averages(self, momentum: float | None) -> None:
        """Make averages of the weights, which are the last part of a member's state."""
        self.own_averages: WeightAverages | None = None
        if momentum is None or weight_averages(inner_optimizer(self.model)):
            return
        weights = self.weight_variables[: self.num_plain[0]]
        self._averaged = [weights[index] for index in averaged_indices(weights)]
        self.own_averages = WeightAverages(self._averaged, momentum)
        self.optimizer_variables = [*self.optimizer_variables, *self.own_averages.variables]

    def _index_averages(self) -> None:
        """Find the moving averages of weights, be they the optimizer's (`use_ema`) or ours."""
        pairs = weight_averages(inner_optimizer(self.model))
        if self.own_averages is not None:
            pairs = list(zip(self._averaged, self.own_averages.variables, strict=False))
        weights = {id(v): i for i, v in enumerate(self.weight_variables)}
        slots = {id(v): i for i, v in enumerate(self.optimizer_variables)}
        # Which of `optimizer_variables` is the average of which weight.
        self.averages = {weights[id(weight)]: slots[id(average)] for weight, average in pairs}
        self._read_averaged, self._write_averaged = swap_functions([weight for weight, _ in pairs])
        self._read_averages, _ = swap_functions([average for _, average in pairs])

    @property
    def num_averages(self) -> int:
        """How many averages of ours a member's state has; they are its last tensors but one."""
        return 0 if self.own_averages is None else len(self.own_averages.variables) - 1

    def compile_averages(self, compiled: Callable[[Move], Move]) -> None:
        """Have the moves of our averages compiled, where there are some."""
        if self.own_averages is not None:
            self.own_averages.compile(compiled)

    def update_averages(self) -> None:
        """Move our averages towards the weights, where there are some: once an iteration."""
        if self.own_averages is not None:
            self.own_averages.update()

    def reset_averages(self) -> None:
        """Begin our averages anew, where there are some, from the weights as they are now."""
        if self.own_averages is not None:
            self.own_averages.reset()

    def put_averages(self) -> None:
        """Put the averages of weights into the model, for good; one never moved is of nothing."""
        if self.own_averages is not None and not self.own_averages.count():
            return
        # Weights and averages that shared an array could not both be donated.
        self._write_averaged([keras.ops.copy(average) for average in self._read_averages()])

    @property
    def handles(self) -> list[Handle]:
        """All built-in handles that are live in this model."""
        handles = [handle for binding in self.bindings.values() for handle in binding.handles]
        return handles + list(self._computed.handles)

    @property
    def rate_variable(self) -> keras.Variable | None:
        """The learning rate that `annealed` multiplies; None where it is no plain number."""
        return None if self._rate is None else self._rate.target

    def read_variables(self) -> list[Any]:
        """Return tensors with the values of all variables; they do not change with the model."""
        return self._read()

    def write_variables(self, tensors: Sequence[Any]) -> None:
        """Assign all variables, in the order of `read_variables`."""
        self._write([keras.ops.copy(t) for t in tensors] if self._donated else tensors)
        self._follow()

    def _follow(self) -> None:
        for handle in self._followers:
            handle.follow(self.model)

    def write_values(self, values: Values) -> None:
        """Write hyperparameter values and read them back.

        Raises:
            BindingError: If the train step would use another value.
        """
        for name, binding in self.bindings.items():
            if name in values:
                self._write_one(name, binding, float(values[name]))
        if self._computed.handles:
            computed = self.blueprint.computed_values(values)
            for handle in self._computed.handles:
                handle.write(computed[handle.path])

    @staticmethod
    def _write_one(name: str, binding: Binding, value: float) -> None:
        binding.write(value)
        used = binding.read()
        close = math.isclose(used, value, rel_tol=1e-5, abs_tol=1e-30)
        if not close and math.isfinite(value):
            raise BindingError(
                describe(
                    f"`{name}` was written and did not arrive in the model.",
                    f"Expected the train step to use {value!r}.",
                    used=used,
                )
            )

    def read_values(self, names: Sequence[str]) -> dict[str, float]:
        """Return the values that the train step uses, of those names that are bound."""
        return {name: self.bindings[name].read() for name in names if name in self.bindings}

    @contextmanager
    def neutral(self) -> Iterator[None]:
        """Within the block, members can be compared: what changes the reported loss is neutral.

        A live penalty coefficient or label smoothing is 0, a loss weight or scale its own default:
        else a member would win by having a smaller penalty, not by fitting better. Where weights
        are averaged, by the strategy or the optimizer (`use_ema`), the model has the averages.
        """
        before, weights = self._read_comparable(), self._read_averaged()
        self._write_comparable(self._neutral)
        self._write_averaged(self._read_averages())
        try:
            yield
        finally:
            self._write_comparable(before)
            self._write_averaged(weights)

    @contextmanager
    def annealed(self, factor: float) -> Iterator[None]:
        """Within the block, the learning rate is the member's own times a factor.

        Afterwards it is the member's own again: states, children and exported models know nothing
        of the factor. What somebody writes within the block (a callback) is the rate that is in
        force; the member's own becomes that divided by the factor. An optimizer whose rate is a
        schedule or a function is left alone: its author has decided how the rate falls.

        Args:
            factor: At least 0; 1 changes nothing.
        """
        handle = self._rate
        if handle is None or factor == 1.0:
            yield
            return
        own = handle.read()
        handle.write(own * factor)
        written = handle.read()
        try:
            yield
        finally:
            found = handle.read()
            handle.write(own if found == written or factor == 0.0 else found / factor)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Within the block, the model has plain numbers and its own weights only.

        For what others do with it: it can be saved and evaluated, and looks as its author built it.
        The population's own steps must not run within the block.
        """
        keep_shared_arrays(self.model)
        attached = self.handles
        for handle in attached:
            handle.hide(self.model)
        try:
            yield
        finally:
            for handle in attached:
                handle.show(self.model)

    def detach(self) -> None:
        """Make the model a plain Keras model again, with the current values as plain numbers."""
        for binding in [*self.bindings.values(), self._computed]:
            binding.detach(self.model)


def _refuse_second_optimizer(model: keras.Model) -> None:
    """Refuse a model with an optimizer of its own beside the compiled one.

    Its slots would be shared by all members: nothing says for which variables it is to be built.
    """
    for name, value in vars(model).items():
        if isinstance(value, keras.optimizers.Optimizer) and value is not model.optimizer:
            inner = getattr(model.optimizer, "inner_optimizer", None)
            if value is not inner:
                raise ModelError(
                    describe(
                        "The model has a second optimizer, whose state no member could call its "
                        "own.",
                        "Expected one optimizer, the one that it was compiled with.",
                        attribute=name,
                        optimizer=type(value).__name__,
                    )
                )


def check_takes(model: keras.Model, batch: Batch, what: str = "data", scored: bool = False) -> None:
    """Create weights, losses and metrics from a batch; nothing is trained.

    Args:
        model: A compiled model.
        batch: What it is to take.
        what: What the batch is, in words.
        scored: Whether the model has to be able to score it, also where its own `train_step`
            computes a loss that nothing else knows.

    Raises:
        DataError: If the model does not take it.
    """
    keep_shared_arrays(model)
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    try:
        if keras.backend.backend() == "jax" and len(batch) == 1:
            # `test_on_batch` would make a tuple of it, which `fit` does not.
            model.evaluate(*batch, batch_size=length(batch), verbose=0)
        elif keras.backend.backend() == "jax":
            model.test_on_batch(*batch)
        else:
            # Eager, so that nothing is traced or compiled for it. `test_on_batch` on PyTorch would
            # give the loss the labels as they are, which is not what a step does.
            model.test_step(as_fit_gives_it(tensors))
    except data_errors() as error:
        own = trains_by_itself(model)
        if own and not scored:
            model(tensors[0])
            return
        raise DataError(
            describe(
                f"The model does not take the {what}.",
                fix="Override `test_step`, too: it is what scores members."
                if own
                else "Check the shapes of inputs and labels, and the loss.",
                reason=_reason(error),
                shapes=[getattr(leaf, "shape", None) for leaf in keras.tree.flatten(batch)],
            )
        ) from error
    model.reset_metrics()


def trains_by_itself(model: keras.Model) -> bool:
    """Whether a model's own `train_step` is all that knows its loss."""
    own, stock = type(model), keras.Model
    overridden = own.train_step is not stock.train_step and own.test_step is stock.test_step
    return overridden and model.loss is None


def _reason(error: Exception) -> str:
    """Return the line of an error that says something; Keras begins with where it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return next(iter(telling or lines), repr(error))[:300]


def keep_shared_arrays(model: keras.Model) -> None:
    """Let a model have arrays that are in no member's state.

    On JAX, Keras's `fit`, `evaluate` and `predict` destroy the arrays that they begin with (they
    are donated), and a child may share its parent's.
    """
    if keras.backend.backend() == "jax":
        optimizer = getattr(model, "optimizer", None)
        for variable in [*model.variables, *(optimizer.variables if optimizer else ())]:
            variable.assign(keras.ops.copy(keras.ops.convert_to_tensor(variable)))


def data_errors() -> tuple[type[Exception], ...]:
    """Return what a model raises that does not take its data."""
    errors = (ValueError, TypeError, KeyError, IndexError)
    if keras.backend.backend() == "torch":
        return (*errors, RuntimeError)
    if keras.backend.backend() != "tensorflow":
        return errors
    import tensorflow as tf

    return (*errors, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
