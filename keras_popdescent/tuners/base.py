"""The KerasTuner face of any population strategy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import keras
import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from keras_popdescent.callbacks.members import MemberCallbacks
from keras_popdescent.callbacks.tensorboard import with_member_folders
from keras_popdescent.data import prepare
from keras_popdescent.errors import ArgumentError, ProjectError, describe
from keras_popdescent.history import History, Schedule
from keras_popdescent.hyperparameters import BATCH_SIZE
from keras_popdescent.hyperparameters.space import fixed_values
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.budget import (
    per_execution,
    plan_budget,
)
from keras_popdescent.population.checks import (
    check_initial_names,
    check_objective,
    default_elites,
    scoring_plan,
)
from keras_popdescent.population.determinism import make_deterministic
from keras_popdescent.population.executor import Executor, Setup
from keras_popdescent.population.kept import Kept
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.space import SearchSpace, Values
from keras_popdescent.tuners import models
from keras_popdescent.tuners._keras_tuner_internals import declare_space
from keras_popdescent.tuners.arguments import (
    check_arguments,
    check_batch_sizes,
    check_initial_values,
    check_keras_tuner,
    warn_of_batch_size,
)
from keras_popdescent.tuners.blueprint import TunerBlueprint, UserBinding, kind_table
from keras_popdescent.tuners.building import (
    build_and_call,
    build_hypermodel,
    refuse_chief,
    refuse_several_replicas,
    warn_of_own_fit,
)
from keras_popdescent.tuners.execution import Execution
from keras_popdescent.tuners.exploration import explore
from keras_popdescent.tuners.fit_arguments import fit_arguments
from keras_popdescent.tuners.heldout import check_heldout, prepare_heldout
from keras_popdescent.tuners.hooks import tuner_hooks
from keras_popdescent.tuners.oracle import PopulationOracle
from keras_popdescent.tuners.own.blueprint import OwnTrainingBlueprint
from keras_popdescent.tuners.own.calls import overridden
from keras_popdescent.tuners.own.search import search_with_own_training
from keras_popdescent.tuners.own.segment import Segment
from keras_popdescent.tuners.result import SearchResult, make_result
from keras_popdescent.tuners.resume import (
    CheckpointChoice,
    alone_in_project,
    checkpoints_of,
    refuse_if_in_use,
    saved_trials,
    tolerant,
)
from keras_popdescent.tuners.retraining import retrain, schedule_of
from keras_popdescent.tuners.tables import Executions, frame, long_rows, result_rows, write_csv


class PopulationTuner(keras_tuner.Tuner):
    """Trains a population instead of independent trials; subclasses choose the strategy.

    Args:
        oracle: A `PopulationOracle`.
        hypermodel: A function `build_model(hp)` or a `HyperModel`; None where a subclass overrides
            `run_trial`.
        strategy: Decides who is replaced by whom.
        population_size: Number of members that train together. Defaults to 5.
        num_elites: Members that stay untouched in each iteration, 0 ... population_size. Defaults
            to three fifths of the population, the paper's 3 of 5.
        batches_per_iteration: Gradient steps of each member between two selections. Defaults to the
            paper's 128, or fewer where the budget would hold fewer than 40 iterations.
        iterations: Number of iterations. Defaults to what `epochs` in `search` holds: each slot
            trains for that many epochs.
        max_gradient_steps: At most so many gradient steps of all members and executions together;
            without `epochs` and `iterations` it is the budget. The closing rounds of
            `PopDescent.reference()` are not counted. Defaults to None: no limit.
        max_time: Seconds after which no iteration begins, for all executions together. Defaults to
            None: no limit. `epochs` (1 by default, as in `fit`) still ends the search.
        executor: What trains the members: `"auto"`, `"sequential"`, `"vectorized"`, or an
            `Executor`. Defaults to `"auto"`: vectorized on JAX with an accelerator, else
            sequential. Overridden training takes its place.
        bindings: Overrules what is found out about a hyperparameter, by name: a kind (`"live"`,
            `"rebuild"`, `"structural"`), the path of a live scalar (`"optimizer.momentum"`; see
            `find_handles`), a `Binding`, or a function that returns one.
        validation_samples: Score members on a random part of the validation data of this size, the
            same for all, drawn anew in each iteration. Defaults to None: as the strategy plans,
            which is all of it for the default.
        implicit_mutation: Where nothing in the search space is live, mutate the learning rate and
            the L2 coefficients that the model has around their own values. Defaults to True.
        initial_hyperparameters: Values for the first members within the search space, a dict for
            each; what one leaves out is drawn. Member 0 otherwise has the defaults.
        checkpoint: Whether the search is saved in the project directory, so that the same call goes
            on in a new process after a crash or a kill, exactly. Defaults to True.
        checkpoint_every: Iterations from one snapshot to the next, at least 1. Defaults to None: as
            often as takes no more than about a twentieth of the time.
        max_disk_mb: Most that the project directory may hold with its snapshots, in megabytes
            (10**6 bytes). Defaults to None: no bound; two snapshots stay, and a third while it is
            written.
        deterministic: Whether the backend is told, when the search begins, to use only operations
            that give the same result twice: for GPUs, where this costs speed; CPUs do so anyway. On
            TensorFlow it holds for the whole process from then on. Defaults to False.
        **kwargs: Arguments of `keras_tuner.Tuner`.

    Raises:
        ArgumentError: For an argument that cannot work.
        ProjectError: If the project holds trials of another tuner, or, with `overwrite=True`, is in
            use by another process.
    """

    def __init__(
        self,
        oracle: PopulationOracle,
        hypermodel: Any = None,
        *,
        strategy: Strategy,
        population_size: int = 5,
        num_elites: int | None = None,
        batches_per_iteration: int | None = None,
        iterations: int | None = None,
        max_gradient_steps: int | None = None,
        max_time: float | None = None,
        executor: str | Executor = "auto",
        bindings: Mapping[str, UserBinding] | None = None,
        validation_samples: int | None = None,
        implicit_mutation: bool = True,
        initial_hyperparameters: Sequence[Values] = (),
        checkpoint: bool = True,
        checkpoint_every: int | None = None,
        max_disk_mb: float | None = None,
        deterministic: bool = False,
        **kwargs: Any,
    ) -> None:
        check_arguments(locals())
        check_keras_tuner(kwargs, type(self))
        refuse_chief()
        if hypermodel is None and type(self).run_trial is PopulationTuner.run_trial:
            raise ArgumentError(
                describe(
                    "There is nothing to search in: received `hypermodel=None`.",
                    "Expected a function `build_model(hp)` or a `HyperModel`, or a subclass that "
                    "overrides `run_trial`.",
                )
            )
        self.checkpoints = CheckpointChoice(checkpoint, checkpoint_every, max_disk_mb)
        if kwargs.get("overwrite"):
            name = kwargs.get("project_name") or "untitled_project"
            refuse_if_in_use(os.path.join(str(kwargs.get("directory") or "."), name))
        self.deterministic = deterministic
        limit = self.max_births = oracle.max_trials
        if limit is not None:
            # Each execution has as many births: RandomSearch trains so many models, too.
            oracle.max_trials = limit * int(kwargs.get("executions_per_trial", 1))
        # More members than may ever be born cannot be.
        self.population_size = population_size if limit is None else min(population_size, limit)
        default = default_elites(self.population_size)
        self.num_elites = default if num_elites is None else min(num_elites, self.population_size)
        self.strategy = strategy
        self.batches_per_iteration = batches_per_iteration
        self.iterations = iterations
        self.max_gradient_steps = max_gradient_steps
        self.max_time = max_time
        self.executor = executor
        self.bindings = dict(bindings or {})
        self.validation_samples = validation_samples
        self.implicit_mutation = implicit_mutation
        self.initial_hyperparameters = list(initial_hyperparameters)
        self._blueprint: TunerBlueprint | OwnTrainingBlueprint | None = None
        self._runs: list[Execution] = []
        # The call of overridden training that is under way, see `own/segment.py`.
        self.segment: Segment | None = None
        # KerasTuner builds the hypermodel here; no global generator is left changed.
        with borrowed_globals(0):
            super().__init__(oracle, hypermodel, **kwargs)

    def reload(self) -> None:
        """Read the trials of the project that is in the directory."""
        self.oracle.reload()
        # KerasTuner would take the space from the project, and a changed one would not be noticed.
        with borrowed_globals(0):
            declare_space(self)

    def save(self) -> None:
        """Write the tuner's files; a disk that is full does not end the search."""
        tolerant(super().save, "the tuner's file")

    @alone_in_project
    def search(self, *fit_args: Any, heldout_data: Any = None, **fit_kwargs: Any) -> SearchResult:
        """Train the population; a search that was cut off, in whatever way, goes on.

        The same call in a new process continues at the newest snapshot and ends (on one machine's
        CPU) as if nothing had happened. The budget counts from the first iteration: a finished
        search returns at once, and goes on under a larger one.

        Args:
            *fit_args: Positional arguments of `keras.Model.fit`.
            **fit_kwargs: Arguments of `keras.Model.fit`. `epochs` is how long each slot trains;
                `verbose=0` is silent; `callbacks` watch every member from birth to replacement.
            heldout_data: Data that chooses nothing, as `validation_data`: the best model is scored
                on it once, at the end.

        Returns:
            The outcome; `print` it, or let a notebook show it.

        Raises:
            PopDescentError: Before any training, for data (`DataError`), objectives, models,
                bindings, strategies or hyperparameters that cannot work.
            ModelError: If `build_model` returns no compiled Keras model, or raises for as many
                members in a row as `max_consecutive_failed_trials` says, also during training; if
                what overridden training builds cannot take over its parent's weights.
            OutOfMemoryError: If the device has no memory left, whenever it is noticed.
            DivergedError: If no member is finite for three iterations in a row, or ever was.
            ProjectError: If another process uses the project directory, or it holds a search that
                differs from this one (the message shows in what) or cannot be read; if no more
                trials may be born.
            TrainingError: If overridden training fails so often in a row that the search ends, or
                in every call.
            ResultError: If overridden training returns what cannot be a score.
        """
        if self.deterministic:
            make_deterministic()
        own = overridden(self, PopulationTuner)
        if own is not None:
            return search_with_own_training(self, own, fit_args, fit_kwargs, heldout_data)
        arguments = fit_arguments(fit_args, fit_kwargs)
        refuse_several_replicas(self.distribution_strategy)
        check_batch_sizes(self.oracle.get_space())
        data = prepare(**self._with_batch_size(arguments.data))
        objective = self.search_objective()
        check_objective(objective, data)
        held = prepare_heldout(heldout_data)
        budget = plan_budget(
            epochs=arguments.epochs,
            steps_per_epoch=data.steps_per_epoch,
            iterations=self.iterations,
            batches_per_iteration=self.batches_per_iteration,
            max_gradient_steps=per_execution(self.max_gradient_steps, self.executions_per_trial),
            steps_per_batch=self.population_size * self.strategy.training.passes,
            max_time=self.max_time,
        )
        self.oracle.verbose = 0
        self._blueprint = self._make_blueprint(data.training.first_batch())
        check_batch_sizes(self.oracle.get_space())
        self.check_initial(self._blueprint.space)
        warn_of_batch_size(self._blueprint.space, data)
        if held is not None:
            check_heldout(self._blueprint, data, held)
        stack, earlier = ExitStack(), list(self._runs)
        if self.checkpoints.checkpoint:
            # What is there is read from the project, as in a new process.
            self._runs.clear()
        self.on_search_begin()
        first = len(self._runs)
        try:
            seeds = np.random.SeedSequence(self.oracle.seed).spawn(self.executions_per_trial)
            # All of them: none may take the trials that belong to the snapshots of another one.
            saved = stack.enter_context(
                checkpoints_of(self.checkpoints, self.project_dir, self.executions_per_trial)
            )
            if saved:
                budget = budget.after(saved[0].seconds_used)
            for execution, seed in enumerate(seeds):
                checkpoints = saved[execution] if saved else None
                others = [trial.trial_id for run in self._runs for trial in run.trials.values()]
                others += [id_ for later in saved[execution + 1 :] for id_ in saved_trials(later)]
                run = Execution(self, seed, arguments.verbose, execution, checkpoints, others)
                self._runs.append(run)
                given = [
                    *with_member_folders(arguments.callbacks, run.trial_id_of),
                    *tuner_hooks(self, run.trial_of),
                ]
                callbacks = MemberCallbacks(given, data.steps_per_epoch, budget)
                setup = Setup(
                    blueprint=self._blueprint,
                    values=run.first_values(budget),
                    data=data,
                    objective=objective,
                    training=self.strategy.training,
                    scoring=scoring_plan(self.strategy, self.validation_samples),
                    seed=run.executor_seed,
                    hooks=callbacks if given else None,
                )
                run.run(setup, [budget.note], callbacks if given else None)
                if run.loop.interrupted:
                    break
        finally:
            with stack:
                # A search that is refused takes nothing from the one before.
                self._runs = [run for run in self._runs if run.begun] or earlier
                models.save_best(self)
                self.on_search_end()
        return make_result(self, self._runs[first:], data, held)

    def _with_batch_size(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data's arguments; an epoch is counted in batches of the default size."""
        declared = {hp.name: hp.default for hp in self.oracle.get_space().space}
        if arguments.get("batch_size") is not None or BATCH_SIZE not in declared:
            return dict(arguments)
        return {**arguments, "batch_size": declared[BATCH_SIZE]}

    def check_initial(self, space: SearchSpace) -> None:
        """Refuse initial values of hyperparameters that are not there, or cannot have them.

        Raises:
            ArgumentError: Naming them.
        """
        declared = self.oracle.get_space()
        known = [*space.names(), *fixed_values(declared)]
        check_initial_names(self.initial_hyperparameters, known)
        check_initial_values(self.initial_hyperparameters, declared)

    def results_dataframe(self) -> Any:
        """Return a row for each member: origin, life, scores, last metrics and hyperparameters.

        Of this session's searches, or, before any, of those whose history is in the project
        directory. The best score comes first.

        Returns:
            A pandas DataFrame, or a list of dicts where pandas is not installed.

        Raises:
            ProjectError: If nothing was searched.
        """
        return frame(result_rows(self._executions()))

    def history_dataframe(self) -> Any:
        """Return a row for each member, iteration and metric (long form).

        Returns:
            A pandas DataFrame, or a list of dicts where pandas is not installed.

        Raises:
            ProjectError: If nothing was searched.
        """
        return frame(long_rows(self._executions()))

    def to_csv(self, path: str | Path, table: Literal["results", "history"] = "results") -> None:
        """Write a table to a CSV file; needs no pandas.

        Args:
            path: The file.
            table: `"results"` (a row a member) or `"history"` (a row a measurement). Defaults to
                `"results"`.

        Raises:
            ArgumentError: If there is no such table.
            ProjectError: If nothing was searched.
        """
        tables = {"results": result_rows, "history": long_rows}
        if table not in tables:
            raise ArgumentError(
                describe("There is no such table.", "Expected 'results' or 'history'.", table=table)
            )
        write_csv(tables[table](self._executions()), path)

    def _executions(self) -> Executions:
        searched = [run for run in self._runs if hasattr(run, "loop")]
        if searched:
            return [run.table_entry() for run in searched]
        files = sorted(
            Path(self.project_dir).glob("history*.jsonl"), key=lambda p: p.stat().st_mtime
        )
        if not files:
            raise self.nothing_searched()
        return [(History.load(path), {}) for path in files]

    def retrain_best(
        self, *fit_args: Any, seed: int | None = None, **fit_kwargs: Any
    ) -> keras.Model:
        """Train a new model from scratch under the winner's schedule, with plain `fit`.

        On all of the data, say, or to see what the schedule is worth without the inherited weights.
        What differs from the search: initial weights, the order of the data, dropout, that nobody
        was selected on the way, and that children's weights get no noise and are of no several
        parents: a schedule holds neither.

        Args:
            *fit_args: Positional arguments of `keras.Model.fit`.
            seed: Seed of the initial weights; None for another one each time.
            **fit_kwargs: Arguments of `keras.Model.fit`. With `epochs` the schedule is stretched to
                them; without, there are as many gradient steps as the winner's line made.

        Returns:
            The trained, plain, compiled model; `model.history` is that of its last `fit`.

        Raises:
            ProjectError: If nothing was searched in this session.
            ArgumentError: For a strategy that scales the loss, which no plain model does, and
                after overridden training, which plain `fit` cannot repeat.
        """
        schedule = self.get_best_schedule()
        arguments = fit_arguments(fit_args, fit_kwargs)
        given = {**arguments.data, "verbose": arguments.verbose, "callbacks": arguments.callbacks}
        blueprint = self._blueprint
        if blueprint is None or overridden(self, PopulationTuner) is not None:
            raise ArgumentError(
                describe(
                    "Training of your own cannot be repeated with plain `fit`.",
                    fix="Read the values off `get_best_schedule()` and use them in your code.",
                )
            )
        first = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
        return retrain(
            schedule,
            lambda values: blueprint.build_seeded(values, first),
            prepare(**arguments.data),
            given,
            arguments.epochs,
        )

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        """Build a model for a trial and fit it once, as KerasTuner does; override it at will.

        A search calls it only where `run_trial`, `_build_and_fit_model` or the hypermodel's `fit`
        is overridden: then once a member and iteration, with models that start with the member's
        weights where they are built with `self.hypermodel.build(hp)`.

        Args:
            trial: The member's trial.
            *args: Positional arguments of `search`.
            **kwargs: Arguments of `search` by name; `epochs` and `initial_epoch` say how far to
                train.

        Returns:
            The objective as a float, a dict of metrics, a `History`, or a list of these.
        """
        hooks = tuner_hooks(self, lambda member: trial)
        callbacks = list(kwargs.pop("callbacks", None) or [])
        kwargs["callbacks"] = [*callbacks, *(hook(None) for hook in hooks)]
        return self._build_and_fit_model(trial, *args, **kwargs)

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> Any:
        model = build_hypermodel(self, hp)
        if self.segment is not None:
            self.segment.take(model)
        return model

    def search_space_summary(self, extended: bool = False) -> None:
        """Print the search space, with the kind of each hyperparameter and what it controls.

        The kinds are found out by building the model a few times. Where weights appear only with
        the first batch, structural ones are told apart once `search` has seen the data.
        """
        super().search_space_summary(extended)
        if self.hypermodel is None:
            return
        blueprint = self._blueprint or self._make_blueprint(None)
        print("Kinds")
        for name, kind, controls in kind_table(blueprint.space, blueprint.kinds):
            print(f"{name}: {kind}{f' ({controls})' if controls else ''}")
        if self._blueprint is None and not self._has_weights(blueprint):
            print(
                "The model has no weights before its first batch: which hyperparameters decide "
                "shapes (structural) is known once `search` has seen the data."
            )

    @staticmethod
    def _has_weights(blueprint: Blueprint) -> bool:
        values = blueprint.complete(blueprint.space.defaults())
        return bool(blueprint.build_seeded(values, 0).built)

    @property
    def history(self) -> History:
        """Every iteration, score and birth of the best execution.

        Raises:
            ProjectError: If nothing was searched.
        """
        return self._best()[0].loop.history

    def get_best_schedule(self) -> Schedule:
        """Return the winner's hyperparameters over gradient steps, through all its ancestors.

        It knows what the values amount to in the model: save it, or retrain with its
        `as_callback()`.

        Raises:
            ProjectError: If nothing was searched in this session.
        """
        run, best = self._best()
        return schedule_of(run.loop.history, best, run.blueprint, self.bindings)

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """Return the best members as plain compiled Keras models, the best first.

        Each has the weights with which its trial scored best. As many are kept as the population
        has members; after `reload` in another session, the best one.

        Args:
            num_models: How many, at most. Defaults to 1.

        Raises:
            ProjectError: If nothing was searched, no member ever had a finite score, or a model of
                an earlier session cannot be built without its data.
            ModelError: If overridden training has left no Keras model.
        """
        return models.best_models(self, num_models, self.loads_models_itself())

    def loads_models_itself(self) -> bool:
        """Return whether `load_model` is overridden: models may then be anything."""
        return type(self).load_model is not PopulationTuner.load_model

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[keras_tuner.HyperParameters]:
        """Return the hyperparameters of the best trials, those that the best members had last.

        The best models trained under other values before: `get_best_schedule` has them all.
        """
        found: list[keras_tuner.HyperParameters] = super().get_best_hyperparameters(num_trials)
        return found

    def load_model(self, trial: Trial) -> keras.Model:
        """Load the model of a trial that is kept: in memory, or in the project directory.

        Override it, beside `save_model`, where your own training makes something else than Keras
        models; `get_best_models` then calls it for the best trials.

        Raises:
            ProjectError: If the trial's weights are not kept.
        """
        return models.load_model(self, trial)

    def _make_blueprint(self, batch: Any) -> TunerBlueprint:
        classes: set[type] = set()

        def build(hp: keras_tuner.HyperParameters) -> Any:
            model = build_and_call(self._build_hypermodel, batch, hp)
            classes.add(type(model))
            return model

        contexts = explore(build, self.oracle)
        if batch is not None:
            warn_of_own_fit(classes)
        return TunerBlueprint(
            self._build_hypermodel,
            self.oracle.get_space(),
            self.strategy,
            self.bindings,
            self.implicit_mutation,
            batch,
            contexts,
        )

    def search_objective(self) -> Objective:
        """Return the objective as the population sees it."""
        objective = self.oracle.objective
        terms = getattr(objective, "name_to_direction", {})
        return Objective(objective.name, objective.direction, tuple(terms.items()))

    def _best(self) -> tuple[Execution, Kept]:
        kept = models.kept_members(self)
        if not kept:
            raise self.nothing_searched()
        return kept[0]

    def nothing_searched(self) -> ProjectError:
        """Return the error for a question that only a search with a result can answer."""
        if any(run.begun for run in self._runs):
            return ProjectError(
                describe(
                    "The search has no result: no member ever had a finite score.",
                    fix="If they diverged, lower the learning rates in the search space, or clip "
                    "gradients.",
                )
            )
        return ProjectError(
            describe(
                "Nothing has been searched in this session.",
                fix="Call `search` first.",
                directory=str(self.project_dir),
            )
        )
