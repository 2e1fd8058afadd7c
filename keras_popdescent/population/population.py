"""The library face: a population of one's own Keras model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_popdescent.arguments import (
    check_flag,
    check_one_of,
    check_path,
    check_seed,
)
from keras_popdescent.data import SearchData, prepare
from keras_popdescent.errors import ArgumentError, PopDescentError, describe
from keras_popdescent.history import History
from keras_popdescent.operators.fitness import Direction
from keras_popdescent.population.blueprint import Blueprint, ModelBlueprint
from keras_popdescent.population.budget import Budget, plan_budget
from keras_popdescent.population.checkpointing import CheckpointPlan, Checkpoints
from keras_popdescent.population.checks import (
    check_initial,
    check_initial_names,
    check_mutate,
    check_objective,
    check_observers,
    check_sizes,
    check_strategy,
    default_elites,
    scoring_plan,
    weights_of,
)
from keras_popdescent.population.determinism import make_deterministic
from keras_popdescent.population.executor import Executor, Setup
from keras_popdescent.population.export import make_all
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.objective import Objective, objective_of
from keras_popdescent.population.observer import Observer
from keras_popdescent.population.registry import make_display, make_executor
from keras_popdescent.population.settings import Settings
from keras_popdescent.population.signature import search_signature
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.plans import ScoringPlan
from keras_popdescent.strategies.popdescent import PopDescent
from keras_popdescent.strategies.space import Values


class Population:
    """A population of Keras models that trains, selects and mutates in place.

    Use it for a loop of your own, or where there is no KerasTuner search space. Most users make one
    with `Population.from_model`; the constructor takes any blueprint.

    Args:
        blueprint: Builds the members' models.
        size: Number of members, at least 1. Defaults to 5, the paper's.
        num_elites: Members that stay untouched in each iteration, 0 ... size; the paper's m.
            Defaults to three fifths of the population, the paper's 3 of 5.
        strategy: Decides who is replaced. Defaults to `PopDescent()`.
        objective: What scores a member: a name that the model reports, `"val_"` in front for the
            validation data; or (name, direction). Defaults to `"val_loss"`.
        executor: What trains the members: `"auto"`, `"sequential"`, `"vectorized"`, or an
            `Executor`. Defaults to `"auto"`: vectorized on JAX with an accelerator, else
            sequential.
        seed: Seed of everything; None for another one each time. 0 is a seed.
        initial_weights: Weights that all first members start with; None for weights of their own.
        deterministic: Whether the backend is told, at the first `fit`, to use only operations that
            give the same result twice: for GPUs, where this costs speed; CPUs do so anyway. On
            TensorFlow it holds for the whole process from then on. Defaults to False.

    Raises:
        ArgumentError: For an argument that cannot work.

    Example:
        >>> import keras, numpy as np
        >>> from keras_popdescent import Population
        >>> model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile(optimizer="adam", loss="mse")
        >>> x = np.random.default_rng(0).normal(size=(256, 4)).astype("float32")
        >>> y = x.sum(axis=1, keepdims=True)
        >>> population = Population.from_model(model, size=3, num_elites=2, seed=0)
        >>> history = population.fit(
        ...     x, y, validation_split=0.25, iterations=3, batches_per_iteration=4, verbose=0
        ... )
        >>> len(history), len(population.models())
        (3, 3)
    """

    def __init__(
        self,
        blueprint: Blueprint,
        size: int = 5,
        num_elites: int | None = None,
        *,
        strategy: Strategy | None = None,
        objective: str | tuple[str, Direction] | Objective = "val_loss",
        executor: str | Executor = "auto",
        seed: int | None = None,
        initial_weights: Sequence[Any] | None = None,
        deterministic: bool = False,
    ) -> None:
        check_sizes(size, num_elites, "size")
        check_strategy(strategy)
        check_seed(seed)
        if not isinstance(blueprint, Blueprint):
            raise ArgumentError(
                describe(
                    "`Population` is made from a blueprint.",
                    fix="For a model, or a function that builds one, call `Population.from_model`.",
                    blueprint=blueprint,
                )
            )
        self.blueprint = blueprint
        self.size = int(size)
        self.num_elites = default_elites(self.size) if num_elites is None else int(num_elites)
        self.strategy = PopDescent() if strategy is None else strategy
        self.objective = objective_of(objective)
        self.executor, self.executor_note = make_executor(executor)
        check_flag("deterministic", deterministic)
        self.seed = seed
        self.deterministic = deterministic
        self._seeds = np.random.SeedSequence(seed)
        self._initial_weights = initial_weights
        self._history = History(self.objective.name, self.objective.direction)
        self._loop: Loop | None = None
        # Where the search is saved, and what scores its members, from the first `fit` on.
        self._directory: Path | None = None
        self._scoring: ScoringPlan | None = None

    @classmethod
    def from_model(
        cls,
        model: keras.Model | Callable[[], keras.Model],
        size: int = 5,
        num_elites: int | None = None,
        *,
        strategy: Strategy | None = None,
        mutate: Sequence[str] | None = None,
        initial_weights: Literal["copied", "fresh"] | None = None,
        objective: str | tuple[str, Direction] | Objective = "val_loss",
        executor: str | Executor = "auto",
        seed: int | None = None,
        deterministic: bool = False,
    ) -> Population:
        """Make a population from a compiled Keras model, or from a function that builds one.

        Args:
            model: A compiled model, which is cloned and itself stays as it is; or a function
                without arguments that returns a compiled model (for models that cannot be cloned
                from their configuration).
            size: See the class.
            num_elites: See the class.
            strategy: See the class.
            mutate: Which of the model's own values are mutated around where they are:
                `"learning_rate"` (or a multiplier on its schedule), `"l2"` (all L1 and L2
                coefficients), and paths of other live scalars, as `find_handles` lists them.
                Defaults to those two, or to none where the strategy does not mutate a model's own
                values (`PopDescent.reference()`, `ESGD`).
            initial_weights: `"copied"`: every first member starts with the model's weights;
                `"fresh"`: with weights of its own. Defaults to `"copied"` for a model that has
                weights (it may be trained already) and `"fresh"` for another or a function, which
                have none to copy.
            objective: See the class.
            executor: See the class.
            seed: See the class.
            deterministic: See the class.

        Raises:
            ModelError: If the model is not compiled, or cannot be cloned.
            ArgumentError: If `mutate` names what the model has not, or the strategy does not heed;
                or there are no weights to copy.
        """
        check_sizes(size, num_elites, "size")
        check_strategy(strategy)
        check_seed(seed)
        if initial_weights is not None:
            check_one_of("initial_weights", initial_weights, ("copied", "fresh"))
        chosen = PopDescent() if strategy is None else strategy
        blueprint = ModelBlueprint(
            model,
            check_mutate(mutate, chosen),
            chosen.multipliers,
            chosen.regularization,
        )
        weights = None if initial_weights == "fresh" else weights_of(model)
        if weights is None and initial_weights == "copied":
            raise ArgumentError(
                describe(
                    "There are no weights to copy.",
                    'Expected `initial_weights="copied"` beside a model that is built.',
                    "Call the model on a batch first, or let the function return weights of its "
                    "own.",
                    model=model,
                    initial_weights=initial_weights,
                )
            )
        return cls(
            blueprint,
            size,
            num_elites,
            strategy=chosen,
            objective=objective,
            executor=executor,
            seed=seed,
            initial_weights=weights,
            deterministic=deterministic,
        )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        validation_data: Any = None,
        validation_split: float = 0.0,
        iterations: int | None = None,
        batches_per_iteration: int | None = None,
        epochs: int | None = None,
        max_gradient_steps: int | None = None,
        max_time: float | None = None,
        batch_size: int | None = 64,
        validation_batch_size: int | None = None,
        validation_steps: int | None = None,
        validation_samples: int | None = None,
        steps_per_epoch: int | None = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        shuffle: bool = True,
        initial_hyperparameters: Sequence[Values] = (),
        observers: Sequence[Observer] = (),
        verbose: int | str = "auto",
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        max_disk_mb: float | None = None,
    ) -> History:
        """Train the population; called again, it goes on where it stopped.

        Called again, it may have other data and another budget; members, the part of the validation
        data that scores them (`validation_samples`), and whether their weights are averaged and how
        (`Averaging`) stay as the first call made them.

        With a `checkpoint_dir` it goes on in a new process too: the same call, after a crash or
        `kill -9`, continues at the newest snapshot, and ends (on one machine's CPU) with the very
        weights and lineage of a search that was not interrupted. The budget then counts from the
        first iteration: what is finished returns at once, and goes on under a larger budget. A
        population keeps to its directory: all of its calls have the same one, or none.

        Args:
            x: Training data in any form that `keras.Model.fit` takes: arrays or nested structures
                of arrays (samples, ...), a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
                generator of batches.
            y: Labels (samples, ...), if `x` does not bring them. Defaults to None: it does.
            validation_data: (x, y), (x, y, sample_weight), or a data set; scores the members.
                Defaults to None: `validation_split` is, or there is none.
            validation_split: Fraction of the arrays' last samples to use for validation. Defaults
                to 0: none.
            iterations: Number of iterations. Defaults to 20, or to what `epochs` holds.
            batches_per_iteration: Batches a member trains on in each. Defaults to the paper's 128,
                or fewer where `epochs` would hold fewer than 40 iterations.
            epochs: How many times each slot passes over the data; an alternative to `iterations`.
                Defaults to None: `iterations` says how long.
            max_gradient_steps: At most so many gradient steps of all members together; alone, it
                takes the place of `epochs`. Defaults to None: no limit.
            max_time: Seconds after which no iteration begins. Defaults to None: no limit.
            batch_size: Samples a batch of arrays. Defaults to 64, the paper's.
            validation_batch_size: Samples a validation batch. Defaults to `batch_size`.
            validation_steps: Batches to take of the validation data. Defaults to None: all. A
                generator that does not end needs it, for it would be read for ever.
            validation_samples: Size of the random part of the validation data that scores members.
                Defaults to None: the strategy's own plan, which by default is all of it; in a
                further call, what the first had.
            steps_per_epoch: Batches an epoch, where the data set does not know. Defaults to None:
                it knows.
            sample_weight: Weights (samples,). Defaults to None: all weigh the same.
            class_weight: Weight by class. Defaults to None: all weigh the same.
            shuffle: Whether each epoch has an order of its own. Defaults to True.
            initial_hyperparameters: Values for the first members, a dict each; what they leave out
                is the strategy's. Defaults to none. A further call without `checkpoint_dir` has no
                first members.
            observers: Told what happens. Defaults to none.
            verbose: 0 for silence, `"auto"` (the default) or 1 for a progress display.
            checkpoint_dir: Directory of this one search's snapshots and history; made if it is not
                there. Defaults to None: nothing is saved.
            checkpoint_every: Iterations from one snapshot to the next, at least 1. Defaults to
                None: as often as takes no more than about a twentieth of the time. The end is
                saved in any case.
            max_disk_mb: Most that the directory's files may hold at any moment, in megabytes (10**6
                bytes). Defaults to None: no bound; two snapshots stay, and a third while it is
                written. A full disk ends the saving with a warning, not the search.

        Returns:
            The history, which is also `population.history`.

        Raises:
            PopDescentError: Before any training, for data, objectives, models or arguments that
                cannot work.
            ModelError: If models of new members cannot be built, several times in a row.
            OutOfMemoryError: If the population does not fit into the device's memory.
            DivergedError: If no member is finite for three iterations in a row.
            ProjectError: If the directory is in use, holds another search (the message shows what
                differs), or cannot be read.
        """
        if self.deterministic:
            make_deterministic()
        plan = None
        check_initial(initial_hyperparameters)
        scoring = scoring_plan(self.strategy, validation_samples)
        check_observers(observers)
        if checkpoint_dir is not None:
            check_path("checkpoint_dir", checkpoint_dir)
            plan = CheckpointPlan(checkpoint_dir, checkpoint_every, max_disk_mb)
        self._check_directory(plan)
        if self._loop is not None and plan is None:
            given = None if validation_samples is None else scoring
            self._check_further(initial_hyperparameters, given)
        data = prepare(
            x, y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            batch_size=batch_size,
            validation_data=validation_data,
            validation_split=validation_split,
            validation_batch_size=validation_batch_size,
            validation_steps=validation_steps,
            steps_per_epoch=steps_per_epoch,
            shuffle=shuffle,
        )  # fmt: skip
        check_objective(self.objective, data)
        if iterations is None and epochs is None and max_gradient_steps is None:
            iterations = 20
        budget = plan_budget(
            epochs=epochs,
            steps_per_epoch=data.steps_per_epoch,
            iterations=iterations,
            batches_per_iteration=batches_per_iteration,
            max_gradient_steps=max_gradient_steps,
            steps_per_batch=self.size * self.strategy.training.passes,
            max_time=max_time,
        )
        watching = [*make_display(verbose), *observers]
        if plan is not None:
            with Checkpoints(plan) as checkpoints:
                budget = budget.after(checkpoints.seconds_used)
                self._start(data, budget, scoring, initial_hyperparameters, watching, checkpoints)
                self._started().run()
            return self._history
        if self._loop is None:
            self._start(data, budget, scoring, initial_hyperparameters, watching)
        else:
            self._loop.go_on(data, budget, watching, self._notes(budget))
        self._started().run()
        return self._history

    def _start(
        self,
        data: SearchData,
        budget: Budget,
        scoring: ScoringPlan,
        initial: Sequence[Values],
        observers: Sequence[Observer],
        checkpoints: Checkpoints | None = None,
    ) -> None:
        space = self.blueprint.space
        own = [f"popdescent/{name}" for name in self.strategy.multipliers]
        check_initial_names(initial, [*space.names(), *own])
        seeds = self._seeds if checkpoints is None else checkpoints.root(self._seeds)
        rng_seed, executor_seed = seeds.spawn(2)
        settings = Settings(
            self.size,
            self.num_elites,
            budget.iterations,
            budget.batches_per_iteration,
            last_batches=budget.last_batches,
            deadline=budget.deadline,
        )
        if checkpoints is not None:
            settings = checkpoints.settings(settings, budget)
        loop = Loop(
            self.executor,
            self.strategy,
            space,
            self.objective,
            settings,
            np.random.default_rng(rng_seed),
            self._history,
            observers,
        )
        loop.notes = self._notes(budget)
        setup = Setup(
            blueprint=self.blueprint,
            values=loop.first_values(initial),
            data=data,
            objective=self.objective,
            training=self.strategy.training,
            scoring=scoring,
            seed=executor_seed,
            initial_weights=self._initial_weights,
        )
        restore = None
        if checkpoints is not None:
            restore = checkpoints.attach(loop, search_signature(loop, setup, self.seed), seeds)
        self._loop = None
        try:
            loop.start(setup, restore)
        except BaseException:
            # The executor has begun anew: what was trained before is in the snapshots only.
            self._history.records.clear()
            raise
        self._directory = None if checkpoints is None else Path(checkpoints.plan.directory)
        self._scoring = scoring
        self._loop = loop

    def _notes(self, budget: Budget) -> list[str]:
        return [note for note in (budget.note, self.executor_note) if note]

    def _check_directory(self, plan: CheckpointPlan | None) -> None:
        """Refuse another directory than before: what was trained since would be lost.

        Raises:
            ArgumentError: Saying which one it was.
        """
        given, before = None if plan is None else Path(plan.directory), self._directory
        if self._loop is None or given == before:
            return
        if before is None:
            what = "The population was trained without checkpoints before."
            expected = "Expected `checkpoint_dir` from the first `fit` on."
        else:
            what = "The population was trained with checkpoints in another directory before."
            expected = f"Expected `checkpoint_dir={str(before)!r}` to go on."
        raise ArgumentError(
            describe(
                what,
                expected,
                "Make a new population to begin anew.",
                checkpoint_dir=None if given is None else str(given),
            )
        )

    def _check_further(self, initial: Sequence[Values], scoring: ScoringPlan | None) -> None:
        """Refuse what only the first call can heed; with a directory its search is compared.

        Raises:
            ArgumentError: Naming the argument.
        """
        if initial:
            raise ArgumentError(
                describe(
                    "The population has its first members already.",
                    "Expected `initial_hyperparameters` in the first `fit` only.",
                    initial_hyperparameters=list(initial),
                )
            )
        if scoring is not None and scoring != self._scoring:
            raise ArgumentError(
                describe(
                    "`validation_samples` stays as it was: scores are compared with earlier ones.",
                    "Expected what the first `fit` had, or None.",
                    validation_samples=scoring.num_samples,
                )
            )

    @property
    def history(self) -> History:
        """Every iteration, score and birth so far."""
        return self._history

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt (Ctrl-C) ended the last `fit`, which then returned early."""
        return self._loop is not None and self._loop.interrupted

    def best_model(self) -> keras.Model:
        """Return the best member as an independent, plain, compiled Keras model.

        Which one: the best ever seen on validation, or the fittest at the end, as the strategy
        says.

        Raises:
            PopDescentError: If nothing was trained yet.
        """
        best = self._started().best()
        return self.executor.export(best.values, best.state)

    def models(self) -> list[keras.Model]:
        """Return all living members as independent, plain, compiled Keras models, best first.

        Each has its member's optimizer state, hyperparameter values, and weights: the average of
        them that the member is scored by, where there is one (`Averaging`, as `PopDescent()` has),
        or the weights as training left them.

        Raises:
            PopDescentError: If nothing was trained yet.
        """
        ranking = self._started().ranking()
        # All are captured first: an export may write into layers that models share.
        states = [self.executor.capture(member.slot) for member in ranking]
        return make_all(
            [
                partial(self.executor.export, member.values, state)
                for member, state in zip(ranking, states, strict=True)
            ]
        )

    def best_values(self) -> Values:
        """Return the best member's hyperparameter values.

        Raises:
            PopDescentError: If nothing was trained yet.
        """
        return dict(self._started().best().values)

    def best_score(self) -> float:
        """Return the best member's score.

        Raises:
            PopDescentError: If nothing was trained yet.
        """
        return self._started().best().score

    def _started(self) -> Loop:
        if self._loop is None:
            raise PopDescentError(
                describe("The population has not been trained yet.", fix="Call `fit` first.")
            )
        return self._loop
