"""The KerasTuner face of any population strategy: an oracle, a tuner, and the trials between them.

A trial is a member, from birth to replacement. A mutation is a birth, so that a trial's
hyperparameters never change during its life, and summaries tell the truth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_popdescent.callbacks.members import MemberCallbacks
from keras_popdescent.data import prepare
from keras_popdescent.errors import ArgumentError, ProjectError, describe
from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord, Schedule
from keras_popdescent.population.budget import Budget, plan_budget
from keras_popdescent.population.checkpointing import Checkpoints
from keras_popdescent.population.executor import Executor, Setup
from keras_popdescent.population.loop import Kept, Loop, Observer, Settings
from keras_popdescent.population.member import Member
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.population import (
    check_objective,
    check_sizes,
    default_elites,
    scoring_plan,
)
from keras_popdescent.population.registry import make_display, make_executor
from keras_popdescent.population.signature import search_signature
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.space import Values
from keras_popdescent.tuners.blueprint import TunerBlueprint, UserBinding, kind_table
from keras_popdescent.tuners.fit_arguments import fit_arguments
from keras_popdescent.tuners.resume import (
    CheckpointChoice,
    TrialRecords,
    alone_in_project,
    checkpoints_of,
    refuse_if_in_use,
    reload_trials,
    tolerant,
)

PARENT = "popdescent/parent_trial"
BIRTH = "popdescent/birth_iteration"
INHERITED = "popdescent/inherited_steps"


class PopulationOracle(keras_tuner.Oracle):
    """Hands out the trials that a population asks for.

    Args:
        objective: As for any KerasTuner oracle; `"val_loss"` where None is given.
        max_trials: At most so many members are ever born; None for no limit.
        seed: Seed of the search; None for another one each time. 0 is a seed.
        **kwargs: Arguments of `keras_tuner.Oracle`.
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            objective="val_loss" if objective is None else objective,
            max_trials=max_trials,
            seed=seed,
            **kwargs,
        )
        # KerasTuner draws a seed for both None and 0.
        self.seed = seed
        self._next_values: Values = {}

    def birth(self, key: str, values: Values) -> Trial:
        """Return a new trial for a member.

        Args:
            key: Any name that no living member has.
            values: The member's hyperparameter values and its origin.
        """
        self._next_values = dict(values)
        return self.create_trial(key)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Give the new trial the values of the member that is being born."""
        return {"status": TrialStatus.RUNNING, "values": self._next_values}

    def reload(self) -> None:
        """Read the trials of the project; the search space is the hypermodel's, not the project's.

        Files that cannot be read are left out, with a warning: a search that goes on tells them
        anew.
        """
        reload_trials(self, os.path.join(str(self._directory), self._project_name))

    def save(self) -> None:
        """Write the oracle's file; a disk that is full does not end the search."""
        tolerant(super().save, "the oracle's file")

    def _save_trial(self, trial: Trial) -> None:
        tolerant(partial(super()._save_trial, trial), "the files of trials")


class PopulationTuner(keras_tuner.Tuner):
    """Trains a population instead of independent trials; subclasses choose the strategy.

    Args:
        oracle: A `PopulationOracle`.
        hypermodel: See `keras_tuner.Tuner`.
        strategy: Decides who is replaced.
        population_size: Number of members.
        num_elites: Members that stay untouched in each iteration.
        batches_per_iteration: Batches a member trains on in each iteration.
        iterations: Number of iterations.
        executor: What trains the members.
        bindings: The user's own bindings by hyperparameter.
        validation_samples: Size of the random part of the validation data that scores members.
        implicit_mutation: Whether the model's own learning rate and L2 are mutated where nothing in
            the search space is live.
        initial_hyperparameters: Values for the first members.
        checkpoint: Whether a search is saved, so that it goes on in a new process.
        checkpoint_every: Iterations from one snapshot to the next; None for as often as takes no
            more than about a twentieth of the time.
        max_disk_mb: Most that the project directory may hold with its snapshots, in megabytes.
        **kwargs: Arguments of `keras_tuner.Tuner`.
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
        executor: str | Executor = "auto",
        bindings: Mapping[str, UserBinding] | None = None,
        validation_samples: int | None = None,
        implicit_mutation: bool = True,
        initial_hyperparameters: Sequence[Values] = (),
        checkpoint: bool = True,
        checkpoint_every: int | None = None,
        max_disk_mb: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(population_size, num_elites)
        self.checkpoints = CheckpointChoice(checkpoint, checkpoint_every, max_disk_mb)
        if kwargs.get("overwrite"):
            name = kwargs.get("project_name") or "untitled_project"
            refuse_if_in_use(os.path.join(str(kwargs.get("directory") or "."), name))
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
        self.executor = executor
        self.bindings = dict(bindings or {})
        self.validation_samples = validation_samples
        self.implicit_mutation = implicit_mutation
        self.initial_hyperparameters = list(initial_hyperparameters)
        self._blueprint: TunerBlueprint | None = None
        self._runs: list[_Run] = []
        super().__init__(oracle, hypermodel, **kwargs)

    def reload(self) -> None:
        """Read the trials of the project that is in the directory."""
        self.oracle.reload()
        # KerasTuner would take the space from the project, and a changed one would not be noticed.
        self._populate_initial_space()

    def save(self) -> None:
        """Write the tuner's files; a disk that is full does not end the search."""
        tolerant(super().save, "the tuner's file")

    @alone_in_project
    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Train the population; a search that was cut off, in whatever way, goes on.

        The same call in a new process continues at the newest snapshot and ends (on one machine's
        CPU) as if nothing had happened. The budget counts from the first iteration: a finished
        search returns at once, and goes on under a larger one.

        Args:
            *fit_args: Positional arguments of `keras.Model.fit`.
            **fit_kwargs: Arguments of `keras.Model.fit`. `epochs` is how long each slot trains;
                `verbose=0` is silent; `callbacks` watch every member from birth to replacement.

        Raises:
            PopDescentError: Before any training, for data, objectives, models or hyperparameters
                that cannot work.
            DivergedError: If no member is finite for three iterations in a row.
            ProjectError: If another process uses the project directory, or it holds a search that
                differs from this one (the message shows in what) or cannot be read.
        """
        self._refuse_overridden_training()
        arguments = fit_arguments(fit_args, fit_kwargs)
        data = prepare(**arguments.data)
        objective = self._objective()
        check_objective(objective, data)
        budget = plan_budget(
            epochs=arguments.epochs,
            steps_per_epoch=data.steps_per_epoch,
            iterations=self.iterations,
            batches_per_iteration=self.batches_per_iteration,
        )
        self.oracle.verbose = 0
        self._blueprint = self._make_blueprint(data.training.first_batch())
        stack = ExitStack()
        if self.checkpoints.checkpoint:
            # What is there is read from the project, as in a new process.
            self._runs.clear()
        self.on_search_begin()
        try:
            seeds = np.random.SeedSequence(self.oracle.seed).spawn(self.executions_per_trial)
            for execution, seed in enumerate(seeds):
                saving = checkpoints_of(self.checkpoints, self.project_dir, execution)
                checkpoints = stack.enter_context(saving)
                run = _Run(self, seed, arguments.verbose, checkpoints)
                self._runs.append(run)
                callbacks = MemberCallbacks(arguments.callbacks, data.steps_per_epoch, budget)
                setup = Setup(
                    blueprint=self._blueprint,
                    values=run.first_values(budget),
                    data=data,
                    objective=objective,
                    training=self.strategy.training,
                    scoring=scoring_plan(self.strategy, self.validation_samples),
                    seed=run.executor_seed,
                    hooks=callbacks if arguments.callbacks else None,
                )
                run.run(setup, [budget.note], callbacks if arguments.callbacks else None)
        finally:
            with stack:
                self._save_best()
                self.on_search_end()

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
        for name, kind, controls in kind_table(blueprint):
            print(f"{name}: {kind}{f' ({controls})' if controls else ''}")

    @property
    def history(self) -> History:
        """Every iteration, score and birth of the best execution.

        Raises:
            ProjectError: If nothing was searched.
        """
        return self._best_run().loop.history

    def get_best_schedule(self) -> Schedule:
        """Return the winner's hyperparameters over gradient steps, through all its ancestors.

        Raises:
            ProjectError: If nothing was searched in this session.
        """
        run = self._best_run()
        best = run.loop.best()
        return run.loop.history.schedule(best.member_id, until=best.gradient_steps)

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """Return the best members as plain compiled Keras models, the best first.

        Each has the weights with which its trial scored best. As many are kept as the population
        has members; after `reload` in another session, the best one.

        Args:
            num_models: How many, at most.
        """
        # Those of this session, and those that an earlier one left in the project directory.
        found: dict[str, tuple[float, Callable[[], keras.Model]]] = {}
        for trial in self._saved_trials():
            found[trial.trial_id] = (trial.score, partial(self.load_model, trial))
        for run, kept in self._kept():
            export = partial(run.loop.executor.export, kept.values, kept.state)
            found[run.trials[kept.member_id].trial_id] = (kept.score, export)
        sign = 1.0 if self._objective().direction == "min" else -1.0
        ranked = sorted(found.values(), key=lambda entry: sign * entry[0])
        return [make() for _, make in ranked[:num_models]]

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[keras_tuner.HyperParameters]:
        """Return the hyperparameters of the best trials, those that the best members had last.

        The best models trained under other values before: `get_best_schedule` has them all.
        """
        found: list[keras_tuner.HyperParameters] = super().get_best_hyperparameters(num_trials)
        return found

    def load_model(self, trial: Trial) -> keras.Model:
        """Load the model of a trial whose weights are in the project directory.

        Raises:
            ProjectError: If there are none.
        """
        path = self._weights_path(trial.trial_id)
        if not os.path.exists(path):
            raise ProjectError(
                describe(
                    f"The weights of trial {trial.trial_id} are not in the project directory.",
                    "Only the best member's are kept there.",
                    directory=str(self.project_dir),
                )
            )
        values = dict(trial.hyperparameters.values)
        blueprint = self._blueprint or self._make_blueprint(None)
        model = blueprint.build(values)
        if not model.built:
            raise ProjectError(
                describe(
                    "The model's weights appear with the first batch only.",
                    fix="Build it on an input shape, or take the model right after `search`.",
                    model=model.name,
                )
            )
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
        return model

    def _make_blueprint(self, batch: Any) -> TunerBlueprint:
        return TunerBlueprint(
            self._build_hypermodel,
            self.oracle.get_space(),
            self.strategy,
            self.bindings,
            self.implicit_mutation,
            batch,
        )

    def _objective(self) -> Objective:
        objective = self.oracle.objective
        terms = getattr(objective, "name_to_direction", {})
        return Objective(objective.name, objective.direction, tuple(terms.items()))

    def _refuse_overridden_training(self) -> None:
        own_run = type(self).run_trial is not keras_tuner.Tuner.run_trial
        own_fit = self.hypermodel is not None and (
            type(self.hypermodel).fit is not keras_tuner.HyperModel.fit
        )
        if own_run or own_fit:
            raise ArgumentError(
                describe(
                    "The training is overridden, and a population trains its members itself.",
                    "Expected neither `Tuner.run_trial` nor `HyperModel.fit` to be overridden.",
                    "Put what differs into the model's `train_step` or into callbacks.",
                    overridden="run_trial" if own_run else "HyperModel.fit",
                )
            )

    def _kept(self) -> list[tuple[_Run, Kept]]:
        """Return the best members of all executions, one entry a trial, the best first."""
        pairs = [(run, kept) for run in self._runs for kept in run.results()]
        sign = 1.0 if self._objective().direction == "min" else -1.0
        return sorted(pairs, key=lambda pair: sign * pair[1].score)

    def _best_run(self) -> _Run:
        kept = self._kept()
        if not kept:
            raise ProjectError(
                describe(
                    "Nothing has been searched in this session.",
                    fix="Call `search` first.",
                    directory=str(self.project_dir),
                )
            )
        return kept[0][0]

    def _saved_trials(self) -> list[Trial]:
        return [
            trial
            for trial in self.oracle.get_best_trials(len(self.oracle.trials))
            if trial.score is not None and os.path.exists(self._weights_path(trial.trial_id))
        ]

    def _weights_path(self, trial_id: str) -> str:
        return os.path.join(self.get_trial_dir(trial_id), "checkpoint.weights.h5")

    def _save_best(self) -> None:
        for run, kept in self._kept()[:1]:
            model = run.loop.executor.export(kept.values, kept.state)
            model.save_weights(self._weights_path(run.trials[kept.member_id].trial_id))
        self.save()


class _Run(Observer):
    """One population of a tuner (an execution), and the trials of its members."""

    def __init__(
        self,
        tuner: PopulationTuner,
        seed: np.random.SeedSequence,
        verbose: int | str,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.tuner = tuner
        self.oracle: PopulationOracle = tuner.oracle
        self.number = len(tuner._runs)
        # member id -> its trial
        self.trials: dict[int, Trial] = {}
        self._checkpoints = checkpoints
        self._records: TrialRecords | None = None
        self._seed = seed
        if checkpoints is not None:
            self._records = TrialRecords(self.oracle, self.trials, checkpoints)
            self._seed = checkpoints.root(seed)
        rng_seed, self.executor_seed = self._seed.spawn(2)
        self._rng = np.random.default_rng(rng_seed)
        self._executor, self._executor_note = make_executor(tuner.executor)
        self._displays = make_display(verbose)
        self.loop: Loop

    def first_values(self, budget: Budget) -> list[Values]:
        """Make the loop, and return the first members' values."""
        tuner, objective = self.tuner, self.tuner._objective()
        blueprint = tuner._blueprint or tuner._make_blueprint(None)
        total, born = self.oracle.max_trials, len(self.oracle.trials)
        limit = None
        if total is not None and tuner.max_births is not None:
            limit = min(tuner.max_births, total - born)
            if limit < 1:
                raise ProjectError(
                    describe(
                        "No more trials may be born in this project.",
                        fix="Pass `overwrite=True`, another `project_name`, or a larger "
                        "`max_trials`.",
                        max_trials=tuner.max_births,
                        trials=born,
                    )
                )
        size = tuner.population_size if limit is None else min(tuner.population_size, limit)
        settings = Settings(
            population_size=size,
            num_elites=min(tuner.num_elites, size),
            iterations=budget.iterations,
            batches_per_iteration=budget.batches_per_iteration,
            last_batches=budget.last_batches,
            max_births=limit,
            num_kept=tuner.population_size,
            max_failed_builds=getattr(tuner, "max_consecutive_failed_trials", 3),
        )
        path = None
        if self._checkpoints is None:
            path = _history_path(tuner.project_dir)
        else:
            settings = self._checkpoints.settings(settings, budget)
        self.loop = Loop(
            self._executor,
            tuner.strategy,
            blueprint.space,
            objective,
            settings,
            self._rng,
            History(objective.name, objective.direction, path),
        )
        drawn = self.loop.first_values(tuner.initial_hyperparameters)
        return [blueprint.complete(values) for values in drawn]

    def run(self, setup: Setup, notes: Sequence[str], callbacks: MemberCallbacks | None) -> None:
        """Train."""
        blueprint = setup.blueprint
        self.loop.notes = [note for note in (*notes, self._executor_note) if note]
        implicit = getattr(blueprint, "implicit_names", [])
        if implicit:
            names = ", ".join(name.removeprefix("popdescent/") for name in implicit)
            self.loop.notes.append(
                f"nothing declared is live: the model's own {names} is mutated "
                "(implicit_mutation=False turns it off)"
            )
        # Trials first: a callback's or a display's member has a trial already.
        self.loop.observers = [self, *([callbacks] if callbacks else []), *self._displays]
        restore = None
        if self._checkpoints is not None:
            signature = search_signature(self.loop, setup, self.oracle.seed)
            restore = self._checkpoints.attach(self.loop, signature, self._seed)
            if callbacks is not None:
                callbacks.resume(self._checkpoints.extra("callbacks"))
                self._checkpoints.extras["callbacks"] = callbacks.get_state
        self.loop.start(setup, restore)
        self.loop.run()

    def results(self) -> list[Kept]:
        """Return the members that this execution has to offer, the best first."""
        loop = getattr(self, "loop", None)
        if loop is None or not loop.members or not loop.history.iterations():
            return []
        if loop.strategy.keep_best:
            return list(loop.kept)
        best = loop.best()
        return [best, *[kept for kept in loop.kept if kept.member_id != best.member_id]]

    def search_begin(self, loop: Loop) -> None:
        if self._records is not None and loop.iteration:
            keys = {member.member_id: self._key(member.slot) for member in loop.members}
            for trial in self._records.readmit(loop.history, self._lost, self._metrics, keys):
                self._end_trial(trial)

    def _key(self, slot: int) -> str:
        return f"{self.tuner.tuner_id}-{self.number}-slot{slot}"

    def _lost(self, birth: BirthRecord, iteration: int, trial_id: str) -> Trial:
        """Return a new trial for a member whose own is not in the project any more."""
        member = Member(birth.member_id, birth.slot, dict(birth.values), birth.parents, iteration)
        member.inherited_steps = birth.inherited_steps
        hyperparameters = self.oracle.get_space()
        hyperparameters.values = self._trial_values(member)
        return Trial(hyperparameters, trial_id)

    def _trial_values(self, member: Member) -> Values:
        parent = self.trials[member.parents[0]].trial_id if member.parents else ""
        own = {PARENT: parent, BIRTH: member.born, INHERITED: member.inherited_steps}
        return {**member.values, **own}

    def births(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.member_id in self.trials:
                # The search was resumed.
                continue
            trial = self.oracle.birth(self._key(member.slot), self._trial_values(member))
            self.trials[member.member_id] = trial
            self.tuner.on_trial_begin(trial)

    def deaths(self, members: Sequence[Member]) -> None:
        for member in members:
            self._end(member)

    def iteration_end(self, record: IterationRecord) -> None:
        for member in record.members:
            metrics = self._metrics(member)
            if metrics:
                trial = self.trials[member.member_id]
                self.oracle.update_trial(trial.trial_id, metrics, step=record.iteration)

    def _metrics(self, member: MemberRecord) -> dict[str, float]:
        """Return what a member reports to its trial, nothing where it diverged."""
        if not math.isfinite(member.score) or not member.logs:
            return {}
        metrics = {k: v for k, v in member.logs.items() if math.isfinite(v)}
        metrics.setdefault(self.oracle.objective.name, member.score)
        return metrics

    def search_end(self, loop: Loop) -> None:
        for member in loop.members:
            self._end(member)

    def _end(self, member: Member) -> None:
        self._end_trial(self.oracle.get_trial(self.trials[member.member_id].trial_id))

    def _end_trial(self, trial: Trial) -> None:
        if trial.metrics.exists(self.oracle.objective.name):
            trial.status = TrialStatus.COMPLETED
        else:
            # Never NaN to the oracle: three such trials in a row would end the search.
            trial.status = TrialStatus.FAILED
            trial.message = "The member never had a finite score."
        self.tuner.on_trial_end(trial)


def _history_path(folder: str) -> str:
    """Return a file for a history: `history.jsonl`, or a numbered one where that is there."""
    number, path = 0, os.path.join(folder, "history.jsonl")
    while os.path.exists(path):
        number += 1
        path = os.path.join(folder, f"history_{number}.jsonl")
    return path
