"""The loop: train -> score -> record -> evolve -> apply. No algorithm is inside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from keras_popdescent.data import SearchData
from keras_popdescent.errors import DivergedError, ObjectiveError, describe
from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord
from keras_popdescent.operators.fitness import cost
from keras_popdescent.population.birth import Parent, newborn
from keras_popdescent.population.budget import Budget
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.faults import BuildWatch, is_out_of_memory, out_of_memory
from keras_popdescent.population.focus import FocusPhase
from keras_popdescent.population.interrupts import deferred_interrupt
from keras_popdescent.population.kept import Kept, with_member
from keras_popdescent.population.member import Member
from keras_popdescent.population.objective import Objective
from keras_popdescent.population.observer import Observer
from keras_popdescent.population.settings import Settings
from keras_popdescent.population.state import from_arrays, to_arrays
from keras_popdescent.strategies.base import Offspring, OptimizerState, PopulationView, Strategy
from keras_popdescent.strategies.space import SearchSpace, Values

# A search ends with an error after so many iterations without any finite score.
MAX_DIVERGED_ITERATIONS = 3


class Loop:
    """Runs one population.

    Args:
        executor: Trains, scores and rewrites members.
        strategy: Decides who is replaced.
        space: The search space.
        objective: What scores a member.
        settings: How long and how.
        rng: The strategy's randomness.
        history: Where records go.
        observers: Told what happens.
    """

    def __init__(
        self,
        executor: Executor,
        strategy: Strategy,
        space: SearchSpace,
        objective: Objective,
        settings: Settings,
        rng: np.random.Generator,
        history: History,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.executor = executor
        self.strategy = strategy
        self.space = space
        self.objective = objective
        self.settings = settings
        self.history = history
        self.observers = list(observers)
        self.members: list[Member] = []
        self.kept: list[Kept] = []
        self.iteration = 0
        self.interrupted = False
        # Sentences for the user: which executor, how the budget came about.
        self.notes: list[str] = []
        # Called whenever the state is complete (True: for the last time), to save it.
        self.checkpoint: Callable[[bool], None] | None = None
        # Batches that a slot has been trained on in iterations, before repeated passes.
        self.batches_done = 0
        # Rounds of closing training that are done.
        self.rounds_closed = 0
        # Where the present budget begins: its iterations are those that are annealed over.
        self._first_iteration = 0
        self._budget_began = 0.0
        # The factor on the learning rates in the iteration that is under way.
        self._rate_factor = 1.0
        # Of the averages of weights that members are scored by; None for none.
        self._ema_momentum: float | None = None
        self._rng = rng
        self._num_born = 0
        self._steps = 0
        self._began = 0.0
        self._diverged_iterations = 0
        # Who trains alone, in the phase that the strategy's focus is.
        self._phase = FocusPhase()
        self._builds = BuildWatch(settings.max_failed_builds)

    def first_values(self, given: Sequence[Values] = ()) -> list[Values]:
        """Return the first members' values: those given, then the strategy's own.

        Args:
            given: Values for the first slots; what they leave out is the strategy's.
        """
        drawn = self.strategy.start(self.settings.population_size, self.space, self._rng)
        return [
            {**values, **(given[slot] if slot < len(given) else {})}
            for slot, values in enumerate(drawn)
        ]

    def start(self, setup: Setup, restore: Callable[[], None] | None = None) -> None:
        """Make the first members.

        Args:
            setup: What the executor needs.
            restore: Called instead, once the executor has started, to go on from where an earlier
                process was (`set_state`).

        Raises:
            ObjectiveError: If the strategy tries children out and the objective is not measured on
                validation data: such children have not trained.
        """
        if self.strategy.tries_candidates and not self.objective.is_on_validation:
            raise ObjectiveError(
                describe(
                    f"`{type(self.strategy).__name__}` scores children before they have trained.",
                    "Its objective must be measured on validation data.",
                    fix="Choose an objective that begins with `val_`, such as `val_loss`.",
                    objective=self.objective.name,
                )
            )
        # In a search that goes on averages are a part of the states, also if its budget is another.
        resumed = None if restore is None else self.history.records[0]
        own = None if self._averaging_obstacle() else self._wanted_momentum()
        self._ema_momentum = own if resumed is None else resumed.ema_momentum
        setup = replace(setup, ema_momentum=self._ema_momentum)
        self._builds.start(self.executor, setup, self._rng)
        self._began = self._budget_began = time.perf_counter()
        self.rounds_closed = self._rounds_passed_over()
        self.notes += self._notes_on_strategy()
        if restore is None:
            self._first_members(setup)
        else:
            restore()
        self._save()
        for observer in self.observers:
            observer.search_begin(self)
            observer.births(self.members)

    def _wanted_momentum(self) -> float | None:
        """Return the momentum that the strategy wants over this budget; None for none."""
        averaging = self.strategy.averaging
        number = self.settings.iterations - self._first_iteration
        return None if averaging is None else averaging.momentum_over(number) or None

    def _averaging_obstacle(self) -> str:
        """Return why weights cannot be averaged; empty where they can."""
        if not self.executor.averages:
            return "your own training scores the members"
        if not self.objective.is_on_validation:
            return "no validation data scores the members"
        return "how many iterations there are is not known" if self.settings.is_endless else ""

    def _notes_on_strategy(self) -> list[str]:
        """Return what the user is to know of what the strategy does in this budget, or cannot."""
        notes = [self._note_on_averaging(), self._note_on_focus()]
        if self.strategy.annealing is not None and not self.executor.anneals:
            notes.insert(1, "learning rates are not annealed: your own training sets them")
        if self._rounds_passed_over():
            notes.append("no closing training: how long members train is not the search's to say")
        return [note for note in notes if note]

    def _note_on_averaging(self) -> str:
        if self._ema_momentum is not None:
            return "members are scored and exported with a moving average of their weights"
        if self._wanted_momentum() is None:
            return ""
        obstacle = self._averaging_obstacle() or "the search began without averages"
        return f"weights are not averaged: {obstacle}"

    def _note_on_focus(self) -> str:
        focus = self.strategy.focus
        if focus is None:
            return ""
        if not self.executor.focuses:
            return "all members train to the end: they take turns in a fixed order"
        if not self._focuses():
            return ""
        begin = f"from {focus.begin:.0%} of the search on, a copy of the best model"
        pays = "" if focus.patience is None else ", as long as it gets better"
        return f"{begin} trains alone, with the steps of all{pays}"

    def _first_members(self, setup: Setup) -> None:
        births = []
        for slot, values in enumerate(setup.values):
            member = Member(self._num_born, slot, dict(values))
            self.members.append(member)
            births.append(BirthRecord(slot, member.member_id, (), dict(values)))
            self._num_born += 1
        first = IterationRecord(0, 0, 0.0, births=tuple(births), ema_momentum=self._ema_momentum)
        self.history.append(first)

    def get_state(self) -> dict[str, Any]:
        """Return all that the search is, apart from its history: for `checkpoint.pack`."""
        last = self.history.records[-1].seconds if self.history.records else 0.0
        return {
            "iteration": self.iteration,
            "batches_done": self.batches_done,
            "rounds_closed": self.rounds_closed,
            "num_born": self._num_born,
            "focus": asdict(self._phase),
            "gradient_steps": self._steps,
            "diverged_iterations": self._diverged_iterations,
            "failed_builds": self._builds.failures,
            "seconds": last,
            "rng": self._rng.bit_generator.state,
            "members": [asdict(member) for member in self.members],
            "kept": [{**vars(kept), "state": to_arrays(kept.state)} for kept in self.kept],
            "strategy": self.strategy.get_state(),
            "executor": self.executor.snapshot(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_state` returned; the history and the settings are the caller's."""
        self.iteration = int(state["iteration"])
        self.batches_done = int(state["batches_done"])
        self.rounds_closed = int(state["rounds_closed"])
        self._num_born = int(state["num_born"])
        self._phase = FocusPhase(**state.get("focus", {}))
        self._steps = int(state["gradient_steps"])
        self._diverged_iterations = int(state["diverged_iterations"])
        self._builds.failures = int(state["failed_builds"])
        self._began = self._budget_began = time.perf_counter() - float(state["seconds"])
        self._rng.bit_generator.state = state["rng"]
        self.members = [
            Member(**{**member, "parents": tuple(member["parents"])}) for member in state["members"]
        ]
        self.kept = [
            Kept(**{**kept, "state": from_arrays(kept["state"])}) for kept in state["kept"]
        ]
        self.strategy.set_state(state["strategy"])
        self.executor.restore(state["executor"])

    def go_on(
        self,
        data: SearchData,
        budget: Budget,
        observers: Sequence[Observer] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Prepare for more iterations, on the same or other data; `run` does them.

        Args:
            data: The data.
            budget: How many more there are.
            observers: Told what happens, in the place of earlier ones.
            notes: Sentences about this budget; those about the one before are dropped.
        """
        self.executor.feed(data)
        self.settings = replace(
            self.settings,
            iterations=self.iteration + budget.iterations,
            batches_per_iteration=budget.batches_per_iteration,
            last_batches=budget.last_batches,
            deadline=budget.deadline,
        )
        self.interrupted = False
        self.rounds_closed = self._rounds_passed_over()
        self._phase = FocusPhase()
        self._first_iteration = self.iteration
        self._budget_began = time.perf_counter()
        self.notes = [*notes, *self._notes_on_strategy()]
        self.observers = list(observers)
        for observer in self.observers:
            observer.search_begin(self)
            observer.births(self.members)

    def run(self) -> None:
        """Run the iterations that are left, and the strategy's closing rounds.

        An interrupt (Ctrl-C) ends the search after what was recorded last; nothing is lost.

        Raises:
            DivergedError: If no member was finite for several iterations in a row.
        """
        try:
            while self.iteration < self.settings.iterations and not self._all_stopped():
                self.step()
                self._save()
            self._close()
            self._save(last=True)
        except KeyboardInterrupt:
            self.interrupted = True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size, kept = len(self.members), len(self.kept)
            raise out_of_memory(self.executor, size, kept) from error
        finally:
            self.end()

    def _save(self, last: bool = False) -> None:
        if self.checkpoint is not None:
            self.checkpoint(last)

    def end(self) -> None:
        """Tell all observers that the search is over, each also where another one raises."""
        with ExitStack() as stack:
            for observer in reversed(self.observers):
                stack.callback(observer.search_end, self)

    def step(self) -> IterationRecord:
        """Train and score every member, complete the iteration, and return its record."""
        slots = self._trained_slots()
        batches, factor = self.settings.batches_at(self.iteration), self.begin_iteration()
        turns = 1
        if self._phase.slot is not None:
            slots, turns = [self._phase.slot], len(slots)
        with self._uninterrupted():
            reports = self.executor.advance(slots, turns * batches, rate_factor=factor)
            self.batches_done += batches
            self._heed_limits(reports)
            return self.absorb(reports)

    def _trained_slots(self) -> list[int]:
        return [member.slot for member in self.members if not member.stopped]

    def _uninterrupted(self) -> AbstractContextManager[None]:
        """Hold an interrupt back where the executor cannot put its members back."""
        return nullcontext() if self.executor.interruptible else deferred_interrupt()

    def _focuses(self) -> bool:
        """Whether a phase in which one member trains alone belongs to this search."""
        limits = self.settings
        return (
            self.strategy.focus is not None
            and self.executor.focuses
            and limits.population_size > max(limits.num_elites, 1)
            and (limits.max_births is None or limits.max_births > limits.population_size)
        )

    def _progress(self) -> float:
        """Return the part of this budget's iterations that is done, or of its time if more."""
        limits, first = self.settings, self._first_iteration
        progress = (self.iteration - first) / max(limits.iterations - first, 1)
        if limits.deadline is not None:
            whole = max(limits.deadline - self._budget_began, 1e-9)
            progress = max(progress, (time.perf_counter() - self._budget_began) / whole)
        return progress

    def begin_iteration(self) -> float:
        """Return the factor on the learning rates in the coming iteration, which is recorded.

        The progress of the strategy's annealing is the part of this budget's iterations that is
        done, or of its time, whichever is more. An iteration alone is not annealed.
        """
        annealing = self.strategy.annealing
        if annealing is None or not self.executor.anneals:
            return 1.0
        self._rate_factor = annealing.factor(self._progress())
        return self._rate_factor

    def _heed_limits(self, reports: Sequence[Report]) -> None:
        """Make this iteration the last where a limit is reached, before anybody is born."""
        limits = self.settings
        steps = self._steps + sum(report.gradient_steps for report in reports)
        late = limits.deadline is not None and time.perf_counter() >= limits.deadline
        much = limits.max_gradient_steps is not None and steps >= limits.max_gradient_steps
        if (late or much) and self.iteration + 1 < limits.iterations:
            reason = "max_time" if late else "max_gradient_steps"
            self.notes.append(f"ended by {reason} after {self.iteration + 1} iterations")
            self.settings = replace(limits, iterations=self.iteration + 1)

    def absorb(self, reports: Sequence[Report]) -> IterationRecord:
        """Complete an iteration from what the members did: record, evolve, replace.

        An interrupt waits until it is complete: members, executor and history stay in step.
        """
        with deferred_interrupt():
            return self._absorb(reports)

    def _absorb(self, reports: Sequence[Report]) -> IterationRecord:
        self.iteration += 1
        self._take(reports)
        view = self._view()
        records = self._member_records(view, {report.slot: report for report in reports})
        record = self._focus(records) if self._is_focused() else self._evolve(view, records)
        self._watch_divergence(view)
        return record

    def _evolve(self, view: PopulationView, records: tuple[MemberRecord, ...]) -> IterationRecord:
        """Record an iteration with the births that the strategy decides on, and carry them out."""
        chosen = self.strategy.evolve(self._with_candidates(view), self._rng)
        offspring = self._builds.offspring(self.executor, chosen, view.values)
        newborn = [self._child(child, self._num_born + i) for i, child in enumerate(offspring)]
        record = self._record(records, tuple(birth for _, birth in newborn))
        self._replace([m for m, _ in newborn], lambda: self.executor.apply(offspring))
        return record

    def _is_focused(self) -> bool:
        """Whether one member trains alone in the coming iteration: begin or end that phase."""
        focus, phase = self.strategy.focus, self._phase
        for member in self.members:
            if member.member_id == phase.member_id and member.stopped and _is_scored(member):
                # A callback ended its training, and that of nobody else.
                phase.end()
        if focus is None or not self.kept or self.iteration >= self.settings.iterations:
            return phase.slot is not None
        best = self.kept[0].score
        if phase.slot is not None:
            phase.look(self.iteration, best, focus.patience)
        elif self._focuses() and not phase.over and self._progress() >= focus.begin:
            phase.begin(self.ranking()[-1].slot, self.iteration, best)
        return phase.slot is not None

    def _focus(self, records: tuple[MemberRecord, ...]) -> IterationRecord:
        """Record an iteration after which one member trains alone; see that there is one."""
        phase, births = self._phase, self.settings.max_births
        slot = phase.slot or 0
        lives = phase.member_id == self.members[slot].member_id
        if lives and _is_scored(self.members[slot]):
            return self._record(records, ())
        if births is not None and self._num_born >= births:
            phase.end()
            return self._record(records, ())
        if self.iteration >= self.settings.iterations:
            # Nobody is born any more. Under a larger budget all train, then the phase begins anew.
            self._phase = FocusPhase()
            return self._record(records, ())
        best = self.kept[0]
        rule: OptimizerState = "inherit" if lives else "restart"
        copy = Offspring(slot, (), dict(best.values), optimizer_state=rule)
        parent = Parent(best.member_id, best.gradient_steps, best.values)
        member, birth = self._newborn(copy, self._num_born, [parent])
        record = self._record(records, (birth,))
        self._replace([member], lambda: self.executor.revive(copy, best.state))
        phase.member_id = member.member_id
        return record

    def _with_candidates(self, view: PopulationView) -> PopulationView:
        """Have the children scored that the strategy wants to see first."""
        candidates = self.strategy.candidates(view, self._rng)
        if not candidates:
            return view
        scores = self.executor.try_out(candidates)
        pairs = zip(candidates, scores, strict=True)
        return replace(view, candidates=[replace(child, score=score) for child, score in pairs])

    def _take(self, reports: Sequence[Report]) -> None:
        finite = self.executor.are_finite([report.slot for report in reports])
        for report, weights in zip(reports, finite, strict=True):
            member = self.members[report.slot]
            member.score = report.score if weights and _is_sound(report) else float("nan")
            member.gradient_steps += report.gradient_steps
            self._steps += report.gradient_steps
            self._keep(member)

    def _keep(self, member: Member) -> None:
        """Hold on to a member's state if it is among the best ever."""
        limit, capture = self.settings.num_kept, self.executor.capture
        self.kept = with_member(self.kept, member, self.objective, limit, capture)

    def _view(self) -> PopulationView:
        limit = self.settings.max_births
        # One birth is for the copy that is to train alone.
        reserved = int(self._focuses() and not self._phase.over)
        return PopulationView(
            scores=np.array([_number(member.score) for member in self.members]),
            values=[dict(member.values) for member in self.members],
            iteration=self.iteration,
            num_iterations=self.settings.iterations,
            num_elites=self.settings.num_elites,
            space=self.space,
            direction=self.objective.direction,
            births_left=None if limit is None else max(limit - self._num_born - reserved, 0),
        )

    def _watch_divergence(self, view: PopulationView) -> None:
        self._diverged_iterations = 0 if view.fitness.any() else self._diverged_iterations + 1
        if self._diverged_iterations >= MAX_DIVERGED_ITERATIONS:
            raise DivergedError(
                describe(
                    f"No member had a finite score for {self._diverged_iterations} iterations.",
                    fix="Lower the learning rates in the search space, or clip gradients.",
                    hyperparameters=list(view.values),
                )
            )

    def _member_records(
        self, view: PopulationView, reports: Mapping[int, Report]
    ) -> tuple[MemberRecord, ...]:
        return tuple(
            MemberRecord(
                slot=member.slot,
                member_id=member.member_id,
                values=dict(member.values),
                score=_number(member.score),
                fitness=float(view.fitness[member.slot]),
                gradient_steps=member.gradient_steps,
                logs=dict(reports[member.slot].logs) if member.slot in reports else {},
                seconds=reports[member.slot].seconds if member.slot in reports else 0.0,
            )
            for member in self.members
        )

    def _child(self, child: Offspring, member_id: int) -> tuple[Member, BirthRecord]:
        """Return the member that a child of living members will be, and the record of its birth."""
        members = [self.members[slot] for slot in child.parents]
        parents = [Parent(m.member_id, m.gradient_steps, m.values) for m in members]
        return self._newborn(child, member_id, parents)

    def _newborn(
        self, child: Offspring, member_id: int, parents: Sequence[Parent]
    ) -> tuple[Member, BirthRecord]:
        replaced = self.members[child.slot].member_id
        return newborn(child, member_id, parents, self.iteration, replaced)

    def _replace(self, newborn: Sequence[Member], apply: Callable[[], None]) -> None:
        if not newborn:
            return
        dead = [self.members[member.slot] for member in newborn]
        for observer in self.observers:
            observer.deaths(dead)
        apply()
        self._num_born += len(newborn)
        for member in newborn:
            self.members[member.slot] = member
            self._keep(member)
        for observer in self.observers:
            observer.births(newborn)

    def _record(
        self,
        members: tuple[MemberRecord, ...],
        births: tuple[BirthRecord, ...],
        closing: bool = False,
    ) -> IterationRecord:
        seconds = time.perf_counter() - self._began
        record = IterationRecord(
            self.iteration,
            self._steps,
            seconds,
            members,
            births,
            closing,
            self._rate_factor,
            self._ema_momentum,
            self.strategy.training.fresh_optimizer,
        )
        self.history.append(record)
        for observer in self.observers:
            observer.iteration_end(record)
        return record

    def _close(self) -> None:
        """Train on after the last iteration, without selection, and score once more."""
        plan = self.strategy.closing
        # As in the last iteration, which another process may have done.
        self._rate_factor = self.history.records[-1].rate_factor
        for round_ in range(self.rounds_closed, plan.rounds):
            last = round_ == plan.rounds - 1
            if last:
                # It is scored as it is trained out, not as it was before the rounds.
                self.executor.begin_averages(self._trained_slots())
            with self._uninterrupted():
                reports = self.executor.advance(
                    self._trained_slots(),
                    plan.batches or self.settings.batches_per_iteration,
                    batch_size=plan.batch_size,
                    plan=replace(self.strategy.training, passes=plan.passes),
                    score=last,
                    rate_factor=self._rate_factor,
                )
                with deferred_interrupt():
                    self.rounds_closed += 1
                    self._end_round(reports, last)
            self._save()

    def _rounds_passed_over(self) -> int:
        """Return the rounds of closing training that count as done: all where there are none."""
        return 0 if self.executor.closes else self.strategy.closing.rounds

    def _end_round(self, reports: Sequence[Report], last: bool) -> None:
        if last:
            self._take(reports)
            by_slot = {report.slot: report for report in reports}
            self._record(self._member_records(self._view(), by_slot), (), closing=True)
            return
        for report in reports:
            self.members[report.slot].gradient_steps += report.gradient_steps
            self._steps += report.gradient_steps

    def _all_stopped(self) -> bool:
        """Whether nobody would train in the coming iteration."""
        return all(member.stopped for member in self.members)

    def ranking(self) -> list[Member]:
        """Return the living members, the best last score first; those without one come last."""
        direction = self.objective.direction
        return sorted(self.members, key=lambda member: cost(_number(member.score), direction))

    def best(self) -> Kept:
        """Return the result: the best member ever seen, or the fittest now, as the strategy says.

        Where nobody has a finite score now it is the best ever. Newborn members that were not tried
        out have no score yet and count as unscored.
        """
        member = self.ranking()[0]
        if self.kept and (self.strategy.keep_best or not _is_scored(member)):
            return self.kept[0]
        return Kept(
            member.member_id,
            _number(member.score),
            dict(member.values),
            self.executor.capture(member.slot),
            member.gradient_steps,
        )


def _is_sound(report: Report) -> bool:
    """Whether what a member reports is finite; an accuracy is, also where the loss is not."""
    losses = [report.logs[name] for name in ("loss", "val_loss") if name in report.logs]
    return all(map(math.isfinite, [report.score, *losses]))


def _is_scored(member: Member) -> bool:
    return math.isfinite(_number(member.score))


def _number(score: float | None) -> float:
    return float("nan") if score is None else float(score)
