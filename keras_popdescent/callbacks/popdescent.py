"""PopDescentCallback: Population Descent within a plain `model.fit`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_popdescent.arguments import check_seed, check_whole
from keras_popdescent.callbacks.fit_executor import FitExecutor
from keras_popdescent.callbacks.schedule import check_single_steps
from keras_popdescent.data import SearchData, prepare_validation
from keras_popdescent.data.arrays import ArrayBatches
from keras_popdescent.errors import ArgumentError, PopDescentError, describe
from keras_popdescent.history import History
from keras_popdescent.hyperparameters._keras_internals import sync_from_fit
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.population.budget import MIN_ITERATIONS, PAPER_BATCHES
from keras_popdescent.population.checks import (
    check_mutate,
    check_sizes,
    check_strategy,
    default_elites,
    scoring_plan,
)
from keras_popdescent.population.executor import Report, Setup
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.objective import Objective, objective_of
from keras_popdescent.population.registry import make_display
from keras_popdescent.population.settings import ENDLESS, Settings
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.popdescent import PopDescent
from keras_popdescent.strategies.space import Values

# Where a model keeps the callback that has yet to finish: whoever fits the model again may have
# another one, and the first one's variable may be gone.
_UNFINISHED = "_popdescent_unfinished"


class PopDescentCallback(keras.callbacks.Callback):
    """Makes one `model.fit` train a population; afterwards the model holds its best member.

    The model's batches are dealt out: the first `batches_per_iteration` train member 0, the next
    ones member 1, and so on; when all had their turn, members are compared, and the weakest become
    mutated copies of stronger ones (Population Descent, arXiv 2310.14671, Algorithm 1). So each
    member sees a share of `1 / population_size` of `epochs`. All members start with the model's
    weights and values. It works with a custom `train_step`, since `fit` does the training.

    The metrics that `fit` shows are those of the member that is training. Callbacks that watch a
    validation metric of `fit` watch whichever member is in the model.

    Save the model after `fit`, not within it: where more than the learning rate is mutated it has
    live scalars until then, so that `model.save` raises an error, and saved weights do not fit a
    plain model. So `ModelCheckpoint` and `BackupAndRestore` cannot be used beside it (which it
    cannot see: a callback is not told of the others).

    The model holds members as they were scored: what one has trained since, when `fit` ends within
    an iteration, is left out (but where not one iteration is complete).

    Before the first batch two steps are tried on validation samples under two values of each
    hyperparameter that is mutated; one that changes nothing is a `BindingError`. Without
    `validation_data` nobody sees it: a callback is shown no training data. A custom `train_step` or
    `compute_loss` that leaves out the penalties then makes mutations of `"l2"` void.

    Args:
        population_size: Number of members, at least 1. Defaults to 5.
        num_elites: Members that stay untouched in each iteration, 0 ... population_size. Defaults
            to three fifths of the population, the paper's 3 of 5.
        batches_per_iteration: Batches of a member's turn. Defaults to the paper's 128, or fewer
            where `fit` would otherwise hold fewer than about 20 iterations.
        mutate: Which of the model's own values are mutated around where they are: from
            `"learning_rate"` (or a multiplier on its schedule), `"l2"` (all L1 and L2
            coefficients), and paths of other live scalars, as `find_handles` lists them. Defaults
            to those two, or to none where the strategy does not mutate a model's own values.
        validation_data: (x, y), (x, y, sample_weight) or a data set that scores the members. What
            `fit` itself gets as `validation_data` cannot be seen from a callback.
        validation_batch_size: Samples a batch of validation arrays. Defaults to 64.
        validation_samples: Size of a random part of it, the same for all members, drawn anew in
            each iteration; None for the strategy's own plan.
        objective: What scores a member, or (name, direction). Defaults to `"val_loss"`, or, without
            validation data, to `"loss"`: the mean over a member's turn.
        strategy: Decides who is replaced. Defaults to `PopDescent()`. Its plan of training batches
            has no effect: the batches are those of `fit`. One with closing training is refused, and
            so is one that scales the loss (`PopDescent.reference()`).
        seed: Seed of selection, mutation and dropout; None for another one each time.
        verbose: 0 for silence, 1 or `"auto"` for a progress display (use `fit(verbose=0)` with it).

    Raises:
        ArgumentError: For an argument that cannot work; in `fit`, for a model compiled with
            `steps_per_execution`.
        BindingError: In `fit`, for a hyperparameter that has no effect on the train step.

    Example:
        >>> import keras, numpy as np
        >>> from keras_popdescent import PopDescentCallback
        >>> model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="adam", loss="mse")
        >>> x = np.random.default_rng(0).normal(size=(320, 4)).astype("float32")
        >>> y = x.sum(axis=1, keepdims=True)
        >>> popdescent = PopDescentCallback(
        ...     population_size=3, num_elites=2, batches_per_iteration=4,
        ...     validation_data=(x[256:], y[256:]), seed=0,
        ... )
        >>> _ = model.fit(x[:256], y[:256], epochs=6, verbose=0, callbacks=[popdescent])
        >>> len(popdescent.history)
        4
    """

    def __init__(
        self,
        population_size: int = 5,
        num_elites: int | None = None,
        batches_per_iteration: int | None = None,
        mutate: Sequence[str] | None = None,
        *,
        validation_data: Any = None,
        validation_batch_size: int = 64,
        validation_samples: int | None = None,
        objective: str | tuple[str, Direction] | Objective | None = None,
        strategy: Strategy | None = None,
        seed: int | None = None,
        verbose: int | str = 0,
    ) -> None:
        super().__init__()
        check_sizes(population_size, num_elites)
        check_whole("batches_per_iteration", batches_per_iteration)
        check_whole("validation_batch_size", validation_batch_size, none=False)
        check_strategy(strategy)
        check_seed(seed)
        self.population_size = int(population_size)
        default = default_elites(self.population_size)
        self.num_elites = default if num_elites is None else int(num_elites)
        self.batches_per_iteration = batches_per_iteration
        self.strategy = PopDescent() if strategy is None else strategy
        self.mutate = check_mutate(mutate, self.strategy)
        _check_fits(self.strategy)
        self._validation = prepare_validation(validation_data)
        if objective is None:
            objective = "loss" if validation_data is None else "val_loss"
        self.objective = objective_of(objective)
        if self.objective.needs_validation and self._validation is None:
            raise ArgumentError(
                describe(
                    f"The objective `{self.objective.name}` needs validation data.",
                    fix="Pass `validation_data` to the callback, not only to `fit`.",
                )
            )
        self._validation_batch_size = validation_batch_size
        self._scoring = scoring_plan(self.strategy, validation_samples)
        self._seed = np.random.SeedSequence(seed)
        self._verbose = verbose
        self._loop: Loop | None = None
        self._finished = False

    @property
    def history(self) -> History:
        """Every iteration, score and birth.

        Raises:
            PopDescentError: Before `fit`.
        """
        return self._running().history

    def best_values(self) -> Values:
        """Return the values that the best member had.

        Raises:
            PopDescentError: Before `fit`.
        """
        return dict(self._running().best().values)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Finish an earlier `fit` of the model that was interrupted, and forget it."""
        check_single_steps(self.model)
        self.finish()
        unfinished = getattr(self.model, _UNFINISHED, None)
        if unfinished is not None:
            unfinished.finish()
        self._loop, self._finished = None, False
        self._first_epoch: int | None = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Before the first epoch, make the model live, and give every member its state."""
        if self._first_epoch is not None:
            return
        # Not known sooner: `fit(initial_epoch=...)` leaves out those before.
        self._first_epoch = epoch
        if self.model.built or self._validation is not None:
            self._start()

    def _start(self) -> None:
        rng_seed, executor_seed = self._seed.spawn(2)
        self._turn, iterations = self._plan()
        self._executor = FitExecutor(
            self.model,
            self.mutate,
            self.population_size,
            self._validation,
            self._validation_batch_size,
            self._scoring,
            executor_seed,
        )
        loop = Loop(
            self._executor,
            self.strategy,
            self._executor.blueprint.space,
            self.objective,
            Settings(
                self.population_size,
                self.num_elites,
                iterations,
                self._turn,
            ),
            np.random.default_rng(rng_seed),
            History(self.objective.name, self.objective.direction),
            make_display(self._verbose),
        )
        try:
            self._begin(loop, executor_seed)
        except BaseException:
            # It takes seconds, so that Ctrl-C may well come here.
            self._loop = None
            self._executor.undo()
            _retrace(self.model)
            loop.end()
            raise

    def _begin(self, loop: Loop, executor_seed: np.random.SeedSequence) -> None:
        """Make the model live, and put the first member into it."""
        nothing = SearchData(ArrayBatches((np.zeros((1, 1)),), 1, False), None, 1, None)
        loop.start(
            Setup(
                blueprint=self._executor.blueprint,
                values=loop.first_values(),
                data=nothing,
                objective=self.objective,
                training=self.strategy.training,
                scoring=self._scoring,
                seed=executor_seed,
            )
        )
        # A step that was traced before has the plain numbers in it.
        _retrace(self.model)
        self._slot, self._batches = 0, 0
        self._reports: list[Report] = []
        self._loop = loop
        self._begin_iteration()
        self._take_turn()
        setattr(self._executor.live.model, _UNFINISHED, self)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count the turn's batches; at its end, score the member and put the next one in."""
        if self._loop is None:
            # The model's weights have just appeared: its first batch was everybody's.
            sync_from_fit(self.model)
            self._start()
            return
        self._batches += 1
        if self._batches < self._turn:
            return
        sync_from_fit(self.model)
        self._end_turn(dict(logs or {}))
        self._slot += 1
        if self._slot == self.population_size:
            self._running().absorb(self._reports)
            self._reports, self._slot = [], 0
            self._begin_iteration()
        self._take_turn()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Leave the best member in the model, and the model a plain Keras model."""
        self.finish()

    def finish(self) -> None:
        """Do what the end of `fit` does; call it after a `fit` that was interrupted.

        Keras calls no callback when Ctrl-C or an error ends `fit`: the model then still holds
        whoever was in training, and live scalars, with which it cannot be saved. The next `fit`
        with a `PopDescentCallback` does it too, and begins with the best member.
        """
        if self._loop is None or self._finished:
            return
        self._finished = True
        loop = self._loop
        # The callback itself may be in the `fit` of another one by now.
        model = self._executor.live.model
        sync_from_fit(model)
        if loop.iteration:
            self._executor.put_back()
        else:
            self._executor.swap_out(self._slot)
        best = loop.best()
        self._executor.export(best.values, best.state)
        self._executor.live.detach()
        _retrace(model)
        delattr(model, _UNFINISHED)
        loop.end()

    def _begin_iteration(self) -> None:
        self._executor.next_iteration()
        self._rate_factor = self._running().begin_iteration()

    def _take_turn(self) -> None:
        self._executor.swap_in(
            self._slot, self.strategy.training.fresh_optimizer, self._rate_factor
        )
        self._batches = 0
        # The reported training loss is then that of the turn.
        self.model.reset_metrics()

    def _end_turn(self, logs: dict[str, Any]) -> None:
        reported = {name: float(value) for name, value in logs.items()}
        if self._validation is not None:
            self._executor.live.update_averages()
            reported.update(self._executor.score(self._slot))
        self._executor.swap_out(self._slot)
        score = self.objective.score(reported)
        self._reports.append(Report(self._slot, score, reported, self._batches))

    def _plan(self) -> tuple[int, int]:
        """Return the batches of a turn and the number of iterations."""
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if not epochs or not steps:
            return self.batches_per_iteration or PAPER_BATCHES, ENDLESS
        # Each member's share of the batches that `fit` has.
        epochs_left = int(epochs) - (self._first_epoch or 0)
        batches = epochs_left * int(steps)
        share = batches // self.population_size
        few = min(PAPER_BATCHES, max(share // MIN_ITERATIONS, 1))
        turn = self.batches_per_iteration or few
        if share < turn:
            warnings.warn(
                f"`fit` has {batches} batches: not one turn of {turn} for "
                f"each of {self.population_size} members. Nobody will be replaced.",
                stacklevel=2,
            )
        return turn, max(share // turn, 1)

    def _running(self) -> Loop:
        if self._loop is None:
            raise PopDescentError(
                describe("The callback has not been used yet.", fix="Pass it to `model.fit`.")
            )
        return self._loop


def _retrace(model: keras.Model) -> None:
    model.make_train_function(force=True)
    if model.test_function is not None:
        model.make_test_function(force=True)


def _check_fits(strategy: Strategy) -> None:
    """Refuse a strategy that asks for what cannot be done within `fit`."""
    fix = "Use `Population.from_model` for it."
    if strategy.multipliers:
        what = "The strategy scales the loss, which a callback cannot do."
        raise ArgumentError(describe(what, fix=fix, strategy=strategy.get_config()))
    if strategy.closing.rounds:
        what = "The strategy trains on after the last iteration, when `fit` is over."
        raise ArgumentError(describe(what, "Expected no rounds.", fix, closing=strategy.closing))
