"""An execution of a search: one population, and the trials of its members in the oracle.

A trial is a member, from birth to replacement. A mutation is a birth, so that a trial's
hyperparameters never change during its life, and summaries tell the truth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_popdescent.callbacks.members import MemberCallbacks
from keras_popdescent.errors import ProjectError, describe
from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord
from keras_popdescent.hyperparameters import Classification
from keras_popdescent.hyperparameters.space import fixed_values, search_space, tunable
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.budget import Budget, per_execution, share_of_deadline
from keras_popdescent.population.checkpointing import Checkpoints
from keras_popdescent.population.executor import Executor, Setup
from keras_popdescent.population.kept import Kept
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.member import Member
from keras_popdescent.population.observer import Observer
from keras_popdescent.population.registry import make_display, make_executor
from keras_popdescent.population.settings import Settings
from keras_popdescent.population.signature import search_signature
from keras_popdescent.strategies.space import SearchSpace, Values
from keras_popdescent.tuners.building import check_size, model_size
from keras_popdescent.tuners.oracle import PopulationOracle, Rank
from keras_popdescent.tuners.resume import BIRTH, INHERITED, PARENT, TrialRecords

if TYPE_CHECKING:
    from keras_popdescent.tuners.base import PopulationTuner
    from keras_popdescent.tuners.own.training import OwnTraining

# First members whose models are larger than `max_model_size` are drawn anew so many times.
MAX_DRAWS = 20


class Execution(Observer):
    """One population of a tuner, and the trials of its members.

    Args:
        tuner: The tuner.
        seed: Seed of this execution.
        verbose: As for `keras.Model.fit`.
        execution: Which of the tuner's `executions_per_trial`, from 0.
        checkpoints: Where it is saved, None for nowhere.
        others: Ids of the trials that belong to the other executions that are saved.
    """

    def __init__(
        self,
        tuner: PopulationTuner,
        seed: np.random.SeedSequence,
        verbose: int | str,
        execution: int = 0,
        checkpoints: Checkpoints | None = None,
        others: Iterable[str] = (),
    ) -> None:
        self.tuner = tuner
        self.oracle: PopulationOracle = tuner.oracle
        self.number = len(tuner._runs)
        self.execution = execution
        # member id -> its trial
        self.trials: dict[int, Trial] = {}
        self._checkpoints = checkpoints
        self._records: TrialRecords | None = None
        self._seed = seed
        if checkpoints is not None:
            self._records = TrialRecords(self.oracle, self.trials, checkpoints, others)
            self._seed = checkpoints.root(seed)
        rng_seed, self.executor_seed = self._seed.spawn(2)
        self._rng = np.random.default_rng(rng_seed)
        self._executor, self._executor_note = make_executor(tuner.executor)
        self._displays = make_display(verbose)
        self.loop: Loop
        self.blueprint: Blueprint

    def use(self, executor: Executor, note: str) -> None:
        """Train with another executor."""
        self._executor, self._executor_note = executor, note

    @property
    def begun(self) -> bool:
        """Whether there are members: the search was not refused before."""
        return hasattr(self, "loop") and bool(self.loop.members)

    def trial_in(self, slot: int) -> Trial:
        """Return the trial of the member that lives in a slot."""
        return self.trials[self.loop.members[slot].member_id]

    def trial_of(self, member: Member) -> Trial:
        """Return a member's trial."""
        return self.trials[member.member_id]

    def trial_id_of(self, member: Member) -> str:
        """Return the id of a member's trial."""
        return str(self.trials[member.member_id].trial_id)

    def stop(self, slot: int) -> None:
        """A callback ended the training of the member in a slot."""
        if self.begun:
            self.loop.members[slot].stopped = True

    def begin_early(self, executor: OwnTraining) -> None:
        """Make the first member's first call: the training may declare hyperparameters."""
        self._births_left()
        space = self.oracle.get_space()
        values: Values = {d.name: d.default for d in tunable(space)}
        for given in self.tuner.initial_hyperparameters[:1]:
            values.update(given)
        trial = self._begin(Member(0, 0, values))
        executor.look_ahead(trial, self.executor_seed)
        self.oracle.update_space(trial.hyperparameters)

    def learn(self, trial: Trial) -> None:
        """Take over hyperparameters that a later call of the user's training has declared.

        Members that have not declared them have their defaults; children inherit and mutate them.

        Args:
            trial: The trial that was called.
        """
        self.oracle.update_space(trial.hyperparameters)
        space = self.oracle.get_space()
        known = {*self.loop.space.names(), *fixed_values(space)}
        late = [dimension for dimension in tunable(space) if dimension.name not in known]
        if not late:
            return
        found = search_space(late, {d.name: Classification("rebuild") for d in late})
        self.loop.space = SearchSpace([*self.loop.space, *found])
        for member in self.loop.members:
            had = self.trial_of(member).hyperparameters.values
            for dimension in late:
                member.values.setdefault(dimension.name, had.get(dimension.name, dimension.default))

    def first_values(self, budget: Budget) -> list[Values]:
        """Make the loop, and return the first members' values."""
        tuner, objective = self.tuner, self.tuner.search_objective()
        blueprint = self.blueprint = tuner._blueprint or tuner._make_blueprint(None)
        settings = self._settings(budget)
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
        if 0 in self.trials and self._checkpoints is None:
            # It was trained before the loop began, see `begin_early`.
            had = self.trials[0].hyperparameters.values
            drawn[0].update({name: had[name] for name in drawn[0] if name in had})
        drawn = [self._small_enough(blueprint, values) for values in drawn]
        return [blueprint.complete(values) for values in drawn]

    def _births_left(self) -> int | None:
        """Return how many trials may be born here, None for any number.

        Raises:
            ProjectError: If it is none.
        """
        total, most = self.oracle.max_trials, self.tuner.max_births
        if total is None or most is None:
            return None
        # The trial of a first call, see `begin_early`, is one of those that may be born here.
        born = len(self.oracle.trials) - len(self.trials)
        if self._records is not None:
            born = len(self._records.others)
        if total <= born:
            raise ProjectError(
                describe(
                    "No more trials may be born in this project.",
                    fix="Pass `overwrite=True`, another `project_name`, or a larger `max_trials`.",
                    max_trials=most,
                    trials=born,
                )
            )
        return min(most, total - born)

    def _settings(self, budget: Budget) -> Settings:
        tuner, limit = self.tuner, self._births_left()
        size = tuner.population_size if limit is None else min(tuner.population_size, limit)
        return Settings(
            population_size=size,
            num_elites=min(tuner.num_elites, size),
            iterations=budget.iterations,
            batches_per_iteration=budget.batches_per_iteration,
            last_batches=budget.last_batches,
            deadline=share_of_deadline(budget, tuner.executions_per_trial - self.execution),
            max_gradient_steps=per_execution(tuner.max_gradient_steps, tuner.executions_per_trial),
            max_births=limit,
            num_kept=tuner.population_size,
            max_failed_builds=getattr(tuner, "max_consecutive_failed_trials", 3),
        )

    def _note_on_births(self) -> list[str]:
        """Return what `max_trials` makes of the search; RandomSearch means another thing by it."""
        limit, size = self.loop.settings.max_births, self.loop.settings.population_size
        if limit is None:
            return []
        if limit > size:
            return [f"max_trials: nobody is replaced after {limit - size} births"]
        alone = "" if self.loop.strategy.focus is None else ", and the best does not train alone"
        return [f"max_trials: nobody is replaced{alone}; leave it out, or make it larger"]

    def _small_enough(self, blueprint: Blueprint, values: Values) -> Values:
        """Return values whose model keeps to `max_model_size`, drawn anew where it does not."""
        limit = self.tuner.max_model_size
        if limit is None:
            return values
        for _ in range(MAX_DRAWS):
            if model_size(blueprint.build_seeded(values, 0)) <= limit:
                return values
            values = blueprint.space.initial(self._rng)
        check_size(blueprint.build_seeded(values, 0), limit)
        return values

    def run(self, setup: Setup, notes: Sequence[str], callbacks: MemberCallbacks | None) -> None:
        """Train."""
        blueprint = setup.blueprint
        self.loop.notes = [note for note in (*notes, self._executor_note) if note]
        self.loop.notes += self._note_on_births()
        implicit = getattr(blueprint, "implicit_names", [])
        if implicit:
            names = ", ".join(name.removeprefix("popdescent/") for name in implicit)
            self.loop.notes.append(
                f"nothing declared is live: the model's own {names} is mutated "
                "(implicit_mutation=False turns it off)"
            )
        slow = [f"`{name}`" for name in getattr(blueprint, "compiled_anew", [])]
        if slow:
            self.loop.notes.append(
                f"rebuild, no live hyperparameter: {', '.join(slow)}; a model is compiled anew for "
                "each new value (a `Choice` of a few values costs less)"
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
        if not self.begun or not self.loop.history.iterations():
            return []
        loop = self.loop
        if loop.strategy.keep_best:
            return list(loop.kept)
        best = loop.best()
        return [best, *[kept for kept in loop.kept if kept.member_id != best.member_id]]

    def table_entry(self) -> tuple[History, dict[int, str]]:
        """Return the history, and the members' trials, as tables are made of."""
        return self.loop.history, {m: trial.trial_id for m, trial in self.trials.items()}

    def rank(self, kept: Kept) -> Rank:
        """Return what kept members are sorted by, as the oracle sorts their trials."""
        return self.oracle.rank(self.trials[kept.member_id], kept.score)

    def search_begin(self, loop: Loop) -> None:
        if self._records is None:
            return
        self._records.begin()
        if loop.iteration:
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
        return {**self._active(member.values), **own}

    def births(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.member_id in self.trials:  # the search was resumed
                continue
            trial = self._begin(member)
            if member.score is not None:
                # It was tried out before its birth.
                told = {self.oracle.objective.name: member.score}
                self.oracle.update_trial(trial.trial_id, told, step=len(self.loop.history))

    def _begin(self, member: Member) -> Trial:
        """Give a newborn member its trial."""
        trial = self.oracle.birth(self._key(member.slot), self._trial_values(member))
        self.trials[member.member_id] = trial
        self.tuner.on_trial_begin(trial)
        return trial

    def _active(self, values: Values) -> Values:
        """Return the values that have a meaning beside the others, the fixed ones included."""
        space = self.oracle.get_space()
        everything = {**fixed_values(space), **values}
        known = {hp.name for hp in space.space}
        # A name may stand for several, in scopes that exclude each other.
        active = {
            hp.name
            for hp in space.space
            if all(condition.is_active(everything) for condition in hp.conditions)
        }
        return {n: value for n, value in everything.items() if n in active or n not in known}

    def deaths(self, members: Sequence[Member]) -> None:
        for member in members:
            self._end(member)

    def iteration_end(self, record: IterationRecord) -> None:
        # Not the iteration's number: a closing round has that of the last iteration.
        step = len(self.loop.history)
        for member in record.members:
            metrics = self._metrics(member)
            if metrics:
                trial = self.trials[member.member_id]
                self.oracle.update_trial(trial.trial_id, metrics, step=step)

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
            trial.message = trial.message or "The member never had a finite score."
        self.tuner.on_trial_end(trial)


def _history_path(folder: str) -> str:
    """Return a file for a history: `history.jsonl`, or a numbered one where that is there."""
    number, path = 0, os.path.join(folder, "history.jsonl")
    while os.path.exists(path):
        number += 1
        path = os.path.join(folder, f"history_{number}.jsonl")
    return path
