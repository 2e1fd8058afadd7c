"""The sequential executor: members take turns in one compiled model, on any backend.

One compiled model for each structure (set of rebuild and structural values); members' states are
swapped in and out on the device. Memory is population_size times the state of a member, twice that
towards the end of an iteration (an interrupt puts the members back), plus one model for each
structure in use.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_popdescent.data import ArrayBatches, SearchData
from keras_popdescent.data.batch import sample_types
from keras_popdescent.data.search_data import head
from keras_popdescent.errors import ArgumentError, describe
from keras_popdescent.executors.scoring import ValidationSampler
from keras_popdescent.executors.stepping import Stepper, make_stepper
from keras_popdescent.executors.verify import verify_bindings
from keras_popdescent.hyperparameters import BATCH_SIZE
from keras_popdescent.operators.noise import NO_NOISE
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.export import export_model
from keras_popdescent.population.live_model import LiveModel, check_takes, trains_by_itself
from keras_popdescent.population.seeding import integer_seed
from keras_popdescent.population.state import (
    MemberState,
    begun_anew,
    capture,
    child_state,
    from_arrays,
    inherit,
    restore,
    to_arrays,
    visited,
    with_fresh_optimizer,
)
from keras_popdescent.strategies.base import Offspring
from keras_popdescent.strategies.plans import TrainingPlan
from keras_popdescent.strategies.space import Values

# Compiled models kept for structures that no member has at present.
_MAX_IDLE_MODELS = 2


class _Stage:
    """A live model with its stepper and the arrays it has loaded: what a member acts on."""

    def __init__(self, live: LiveModel, fresh: MemberState) -> None:
        self.live = live
        self.fresh = fresh
        self.stepper: Stepper = make_stepper(live.model)
        live.compile_averages(self.stepper.compiled)
        self.training: Any = None
        self.validation: Any = None
        # What an executor that trains members at once has compiled for this structure.
        self.engine: Any = None


class SequentialExecutor(Executor):
    """Trains and scores one member after the other."""

    def start(self, setup: Setup) -> None:
        self._setup = setup
        size = len(setup.values)
        data_seed, score_seed, self._seeds = setup.seed.spawn(3)
        setup.data.training.start(data_seed.spawn(size + 1))
        self._sampler = _sampler(setup, score_seed)
        self._values: list[Values] = [dict(values) for values in setup.values]
        # key of a structure -> its compiled model, the most recently used last
        self._stages: OrderedDict[Hashable, _Stage] = OrderedDict()
        self._resident: int | None = None
        self._states: Any = []
        # Members that share an optimizer's step counter (the authors' code): slot -> group.
        self._groups = list(range(size))
        self._counters: dict[int, Any] = {}
        # Slots whose values are not in their state yet: they are written when it is first used.
        self._newborn: set[int] = set()
        # Structures whose live hyperparameters were seen to act.
        self._verified: set[Hashable] = set()
        for slot, values in enumerate(self._values):
            self._states.append(self._first_state(slot, values))
        self._check_validation()
        self._check_objective()
        for values in self._values:
            self._verify(self._stage(values), values)
        self._resident = None

    def advance(
        self,
        slots: Sequence[int],
        num_batches: int,
        *,
        batch_size: int | None = None,
        plan: TrainingPlan | None = None,
        score: bool = True,
        rate_factor: float = 1.0,
    ) -> list[Report]:
        setup = self._setup
        training = setup.data.training
        turns = training.turns(list(slots))
        sizes = self._batch_sizes(turns, batch_size)
        plan = plan or setup.training
        feeds = training.take(turns, num_batches, plan, sizes)
        self._sampler.next_iteration()
        fresh = plan.fresh_optimizer
        with self._all_or_none():
            reports = {
                slot: self._advance_one(slot, feed, score, fresh, rate_factor)
                for slot, feed in zip(turns, feeds, strict=True)
            }
        return [reports[slot] for slot in slots]

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Put all members back as they were before the block where it raises, or is interrupted."""
        states, groups = list(self._states), list(self._groups)
        counters, newborn = dict(self._counters), set(self._newborn)
        try:
            yield
        except BaseException:
            self._states, self._groups = states, groups
            self._counters, self._newborn = counters, newborn
            self._resident = None
            raise

    def _batch_sizes(self, slots: Sequence[int], batch_size: int | None) -> list[int]:
        """Return each slot's batch size: the one asked for, or the member's own."""
        default = self._setup.data.training.batch_size or 0
        return [batch_size or int(self._values[slot].get(BATCH_SIZE, default)) for slot in slots]

    def _advance_one(
        self, slot: int, feed: Any, score: bool, fresh_optimizer: bool, rate_factor: float
    ) -> Report:
        began = time.perf_counter()
        if fresh_optimizer:
            self._renew_optimizer(slot)
        stage = self._swap_in(slot)
        with stage.live.annealed(rate_factor):
            logs, steps = self._train_and_score(slot, stage, feed, score)
        self._states[slot] = capture(stage.live)
        self._share_counter(slot, stage)
        value = self._setup.objective.score(logs) if score else float("nan")
        return Report(slot, value, logs, steps, time.perf_counter() - began)

    def _train_and_score(
        self, slot: int, stage: _Stage, feed: Any, score: bool
    ) -> tuple[dict[str, float], int]:
        """Return what the member in a model reports, and how many steps it made."""
        hooks = self._setup.hooks
        if hooks is not None:
            with stage.live.plain():
                hooks.train_begin(slot, stage.live.model)
        stage.stepper.reset()
        steps = self._train(slot, stage, feed)
        logs = stage.stepper.logs()
        if score and steps:
            stage.live.update_averages()
        if score and self._setup.data.validation is not None:
            logs.update({f"val_{k}": v for k, v in self._score(slot, stage).items()})
        if hooks is not None:
            with stage.live.plain():
                hooks.train_end(slot, stage.live.model, steps, logs)
        return logs, steps

    def _train(self, slot: int, stage: _Stage, feed: Any) -> int:
        hooks = self._setup.hooks
        one_by_one = hooks is not None and hooks.needs_batches(slot)
        if isinstance(self._setup.data.training, ArrayBatches):
            if stage.training is None:
                stage.training = stage.stepper.load(self._setup.data.training.arrays)
            if not one_by_one:
                stage.stepper.train_indices(stage.training, feed)
                return sum(len(block) for block in feed)
            rows: Any = (row[np.newaxis] for block in feed for row in block)
            return self._announce(slot, stage, rows, arrays=True)
        return self._announce(slot, stage, feed(), arrays=False)

    def _announce(self, slot: int, stage: _Stage, items: Any, arrays: bool) -> int:
        """Train batch by batch, telling the hooks about each."""
        hooks, model, steps = self._setup.hooks, stage.live.model, 0
        announce = hooks is not None and hooks.needs_batches(slot)
        for item in items:
            if hooks is not None and announce:
                if hooks.should_stop(slot):
                    break
                with stage.live.plain():
                    hooks.batch_begin(slot, model)
            if arrays:
                stage.stepper.train_indices(stage.training, [item])
            else:
                stage.stepper.train_batch(item)
            steps += 1
            if hooks is not None and announce:
                logs = stage.stepper.logs()
                with stage.live.plain():
                    hooks.batch_end(slot, model, logs)
        return steps

    def _score(self, slot: int, stage: _Stage) -> dict[str, float]:
        if stage.validation is None:
            stage.validation = self._sampler.load(stage.stepper)
        return self._sampler.evaluate(slot, stage.live, stage.stepper, stage.validation)

    def try_out(self, candidates: Sequence[Offspring]) -> list[float]:
        return [self._try_out_one(child) for child in candidates]

    def _try_out_one(self, child: Offspring) -> float:
        self._check_shapes(child)
        stage = self._stage(child.values)
        # Whatever its seed: nothing is drawn while a model is scored.
        restore(stage.live, child_state(child, self._states, stage.live, stage.fresh, seed=0))
        stage.live.write_values(child.values)
        self._resident = None
        logs = {f"val_{name}": value for name, value in self._score(child.slot, stage).items()}
        return self._setup.objective.score(logs)

    def _renew_optimizer(self, slot: int) -> None:
        """Give a member an optimizer as just built, with the member's own values."""
        fresh = self._stage(self._values[slot]).fresh
        self._states[slot] = with_fresh_optimizer(self._states[slot], fresh)
        self._groups[slot] = self._new_group()
        self._newborn.add(slot)
        self._resident = None

    def prepare(self, values: Values) -> None:
        self._stage(values)
        if self._setup.blueprint.computed_paths(values):
            # They are read off a model that is built for these very values.
            self._setup.blueprint.computed_values(values)

    def can_inherit(self, child: Offspring) -> bool:
        key = self._setup.blueprint.structure_key
        others = [p for p in child.parents if key(self._values[p]) != key(child.values)]
        if not others:
            return True
        stage = self._stage(child.values)
        shapes = _own_shapes(stage.fresh)
        return all(_own_shapes(self.capture(parent)) == shapes for parent in others)

    def apply(self, offspring: Sequence[Offspring]) -> None:
        for child in offspring:
            self._check_shapes(child)
        # Parents first: one may be replaced in the same iteration.
        states = list(self._states)
        groups = list(self._groups)
        seeds = self._seeds.spawn(len(offspring))
        for child, seed in zip(offspring, seeds, strict=True):
            self._bear(child, states, seed)
            shares = child.optimizer_state == "fresh_slots"
            self._groups[child.slot] = groups[child.parents[0]] if shares else self._new_group()

    def revive(self, child: Offspring, state: MemberState) -> None:
        [seed] = self._seeds.spawn(1)
        self._bear(replace(child, parents=(0,)), [state], seed)
        self._groups[child.slot] = self._new_group()

    def _bear(
        self, child: Offspring, states: Sequence[MemberState], seed: np.random.SeedSequence
    ) -> None:
        """Put a child into its slot; its parents are among the states."""
        self._values[child.slot] = dict(child.values)
        stage = self._stage(child.values)
        self._states[child.slot] = child_state(
            child, states, stage.live, stage.fresh, integer_seed(seed)
        )
        self._newborn.add(child.slot)
        if self._resident == child.slot:
            self._resident = None

    def _check_shapes(self, child: Offspring) -> None:
        """Refuse a child whose weights would have other shapes than those that it is to copy."""
        for parent in child.parents:
            own = self._values[parent]
            for name in self._setup.blueprint.space.names("structural"):
                if child.values[name] != own[name]:
                    raise ArgumentError(
                        describe(
                            f"A child was given another `{name}`, which decides shapes of weights.",
                            "Expected the parent's, whose weights it copies.",
                            child=child.values[name],
                            parent=own[name],
                        )
                    )

    def capture(self, slot: int) -> MemberState:
        return self._states[slot]

    def visit(self, slot: int, action: Callable[[keras.Model], None]) -> None:
        stage = self._swap_in(slot)
        before = capture(stage.live)
        with stage.live.plain():
            action(stage.live.model)
        self._states[slot] = visited(before, capture(stage.live))
        self._resident = None

    def begin_averages(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._states[slot] = begun_anew(self._states[slot])
        self._resident = None

    def feed(self, data: SearchData) -> None:
        setup = self._setup = replace(self._setup, data=data)
        data_seed, score_seed = self._seeds.spawn(2)
        data.training.start(data_seed.spawn(len(self._values) + 1))
        self._sampler = _sampler(setup, score_seed)
        for stage in self._stages.values():
            stage.training = stage.validation = None

    def _check_validation(self) -> None:
        """Refuse validation data that the model does not take, before any training."""
        data = self._setup.data
        if data.validation is None:
            return
        whole = data.validation
        first = whole[0] if isinstance(whole, list) else head(whole)
        model = self._stage(self._values[0]).live.model
        other = sample_types(first) != sample_types(data.training.first_batch())
        if other or trains_by_itself(model):
            check_takes(model, first, "validation data", scored=True)

    def export(self, values: Values, state: MemberState) -> keras.Model:
        return self.exporter()(values, state)

    def exporter(self) -> Callable[[Values, MemberState], keras.Model]:
        batch = self._setup.data.training.first_batch()
        return partial(export_model, self._setup.blueprint, batch=batch)

    def values_in_use(self, slot: int) -> dict[str, float]:
        """Return the live values that a member's train step uses, read back from its model."""
        live = self._swap_in(slot).live
        return live.read_values(list(self._values[slot]))

    def snapshot(self) -> dict[str, Any]:
        return {
            "values": [dict(values) for values in self._values],
            "states": [to_arrays(state) for state in self._states],
            "groups": list(self._groups),
            "counters": [[group, int(value)] for group, value in self._counters.items()],
            "newborn": sorted(self._newborn),
            "sampler": self._sampler.get_state(),
            "training": self._setup.data.training.get_state(),
            "spawned": self._seeds.n_children_spawned,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        self._values = [dict(values) for values in snapshot["values"]]
        self._states = [from_arrays(state) for state in snapshot["states"]]
        self._groups = list(snapshot["groups"])
        self._counters = dict(snapshot["counters"])
        self._newborn = set(snapshot["newborn"])
        self._sampler.set_state(snapshot["sampler"])
        self._setup.data.training.set_state(snapshot["training"])
        self._seeds = np.random.SeedSequence(
            self._seeds.entropy,
            spawn_key=self._seeds.spawn_key,
            n_children_spawned=snapshot["spawned"],
        )
        self._resident = None

    def close(self) -> None:
        self._stages.clear()
        self._resident = None

    def _first_state(self, slot: int, values: Values) -> MemberState:
        """Build a member's initial weights; the first one's model stays as the compiled one."""
        setup = self._setup
        seed = integer_seed(self._seeds.spawn(1)[0])
        batch = setup.data.training.first_batch()
        key = setup.blueprint.structure_key(values)
        full = key not in self._stages
        live = LiveModel(
            setup.blueprint, values, seed, batch, full=full, ema_momentum=setup.ema_momentum
        )
        if setup.initial_weights is not None:
            weights = [v for v in live.model.weights if id(v) not in _live_ids(live)]
            _check_weights(weights, setup.initial_weights)
            for variable, weight in zip(weights, setup.initial_weights, strict=True):
                variable.assign(weight)
            live.reset_averages()
        state = capture(live)
        if key not in self._stages:
            self._stages[key] = _Stage(live, state)
        reseeded = inherit([state], live, optimizer="fresh", fresh=state, seed=seed, noise=NO_NOISE)
        self._newborn.add(slot)
        return reseeded

    def _stage(self, values: Values) -> _Stage:
        """Return the compiled model for some values, building it where there is none."""
        setup = self._setup
        key = setup.blueprint.structure_key(values)
        if key not in self._stages:
            # Whatever its seed: members bring their own weights. None is spawned, because a search
            # that was resumed may build its models in another order.
            batch = setup.data.training.first_batch()
            live = LiveModel(setup.blueprint, values, 0, batch, ema_momentum=setup.ema_momentum)
            stage = _Stage(live, capture(live))
            self._verify(stage, values)
            self._stages[key] = stage
            self._drop_idle_models(keep=key)
        self._stages.move_to_end(key)
        return self._stages[key]

    def _verify(self, stage: _Stage, values: Values) -> None:
        """See once a structure that its live hyperparameters act; no stream of data moves."""
        key = self._setup.blueprint.structure_key(values)
        if key not in self._verified:
            train = partial(self._train_first_samples, stage, values)
            verify_bindings(stage.live, stage.stepper, values, train)
            self._verified.add(key)

    def _train_first_samples(self, stage: _Stage, values: Values, num_steps: int) -> None:
        training = self._setup.data.training
        if not isinstance(training, ArrayBatches):
            for _ in range(num_steps):
                stage.stepper.train_batch(training.first_batch())
            return
        if stage.training is None:
            stage.training = stage.stepper.load(training.arrays)
        # A member's own size is what will be compiled for its training.
        size = min(int(values.get(BATCH_SIZE, training.batch_size)), training.num_samples)
        rows = np.arange(num_steps * size, dtype=np.int32) % training.num_samples
        stage.stepper.train_indices(stage.training, [rows.reshape(num_steps, size)])

    def _drop_idle_models(self, keep: Hashable) -> None:
        in_use = {self._setup.blueprint.structure_key(values) for values in self._values}
        idle = [key for key in self._stages if key not in in_use and key != keep]
        for key in idle[: max(len(idle) - _MAX_IDLE_MODELS, 0)]:
            del self._stages[key]

    def _swap_in(self, slot: int) -> _Stage:
        """Put a member into its model, hyperparameter values last."""
        stage = self._stage(self._values[slot])
        if self._resident != slot or len(self._stages) > 1:
            restore(stage.live, self._states[slot])
            self._resident = slot
            counter = self._counters.get(self._groups[slot])
            for index in stage.live.step_counter_indices if counter is not None else ():
                stage.live.optimizer_variables[index].assign(counter)
        if slot in self._newborn:
            # Last: the optimizer's state holds the parent's learning rate. Once only: a callback
            # may change a value later in the member's life.
            stage.live.write_values(self._values[slot])
            self._newborn.discard(slot)
        return stage

    def _share_counter(self, slot: int, stage: _Stage) -> None:
        group = self._groups[slot]
        if self._groups.count(group) > 1 or group in self._counters:
            for index in stage.live.step_counter_indices:
                self._counters[group] = self._states[slot].optimizer[index]

    def _new_group(self) -> int:
        return max([*self._groups, *self._counters, -1]) + 1

    def _check_objective(self) -> None:
        """Refuse an objective that the model does not report, before any training."""
        stage = self._stage(self._values[0])
        names = _reported(stage.live.model)
        if self._setup.data.validation is not None:
            names += [f"val_{name}" for name in names]
        missing = [n for n in self._setup.objective.names if n not in names]
        custom = type(stage.live.model).train_step is not keras.Model.train_step
        if missing and not custom:
            self._setup.objective.score(dict.fromkeys(names, 0.0))


def _reported(model: keras.Model) -> list[str]:
    """Return the names of what the train step reports, after a batch has been seen."""
    return list(model.get_metrics_result())


def _own_shapes(state: MemberState) -> list[tuple[int, ...]]:
    """Return the shapes of a model's own weights; live scalars and seeds come after them."""
    return [tuple(tensor.shape) for tensor in state.weights[: state.num_plain[0]]]


def _live_ids(live: LiveModel) -> set[int]:
    return {id(handle.variable) for handle in live.handles}


def _sampler(setup: Setup, seed: np.random.SeedSequence) -> ValidationSampler:
    data = setup.data
    return ValidationSampler(
        data.validation, data.validation_batch_size, setup.scoring, seed, len(setup.values)
    )


def _check_weights(variables: Sequence[keras.Variable], weights: Sequence[Any]) -> None:
    """Refuse initial weights that are not the model's."""
    expected = [tuple(variable.shape) for variable in variables]
    given = [np.shape(weight) for weight in weights]
    if given != expected:
        raise ArgumentError(
            describe(
                "The initial weights do not fit the model.",
                f"Expected arrays of the shapes {expected}, as `model.get_weights()` returns them.",
                initial_weights=given,
            )
        )
