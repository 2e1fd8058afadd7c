"""Doubles: a whole search without Keras, with scores that a test dictates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_popdescent.data import ArrayBatches, SearchData
from keras_popdescent.history import History
from keras_popdescent.hyperparameters import Binding
from keras_popdescent.operators.noise import NoiseSpec
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.executor import Executor, Report, Setup
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.objective import Objective, objective_of
from keras_popdescent.population.observer import Observer
from keras_popdescent.population.settings import Settings
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.base import Offspring, PopulationView, Strategy
from keras_popdescent.strategies.plans import ClosingPlan, TrainingPlan
from keras_popdescent.strategies.space import SearchSpace, Values

# (slot, call of `advance` from 1, values) -> score
ScoreFunction = Callable[[int, int, Values], float]
Scores = ScoreFunction | Sequence[Sequence[float]]


@dataclass
class ScriptedModel:
    """What stands in for a Keras model.

    Attributes:
        values: The member's hyperparameter values.
        weight: Its only weight.
        steps: The step counter of its optimizer.
    """

    values: Values
    weight: float
    steps: int

    @property
    def state(self) -> MemberState:
        """The state: one weight, and the optimizer's step counter."""
        return MemberState((self.weight,), (self.steps,), (1, 1))


class ScriptedBlueprint(Blueprint):
    """A blueprint of `ScriptedModel`s.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def build(self, values: Values) -> ScriptedModel:
        return ScriptedModel(dict(values), 0.0, 0)

    def bindings(self, values: Values) -> dict[str, Binding]:
        return {}


@dataclass(frozen=True)
class Advance:
    """One call of `advance`, as it was made."""

    slots: tuple[int, ...]
    num_batches: int
    batch_size: int | None
    score: bool
    rate_factor: float = 1.0


class ScriptedExecutor(Executor):
    """An executor whose members score what a script says; it fulfils the rest of the contract.

    It averages no weights (`averages` is False), since no weights decide on a score.

    A member's state is `MemberState((weight,), (steps,))`. The first members' weights are their
    slot numbers, so that a weight tells where its line comes from; a child has the mean of its
    parents' weights, plus noise of the given standard deviation. `steps` counts the optimizer's
    steps; a child with a `"fresh"` optimizer starts at 0. Training adds steps and nothing else.

    Args:
        scores: A function of (slot, call of `advance` from 1, values), or a table with a row for
            each call of `advance` and a column for each slot. What the function raises leaves
            `advance`; the members before that slot have trained.
        candidate_scores: The score of a child that is tried out; by default infinity.

    Attributes:
        advances: The calls of `advance`.
        applied: The offspring of each call of `apply` and `revive`.
        data: The data of the last `start` or `feed`.
        closed: Whether `close` was called.

    Example:
        >>> from keras_popdescent import PopDescent
        >>> from keras_popdescent.testing import scripted_loop
        >>> loop = scripted_loop(PopDescent(), [[0.5, 2.0, 1.0], [0.4, 0.3, 0.9]], num_elites=2)
        >>> loop.run()
        >>> [birth.slot for birth in loop.history.records[1].births], loop.best().score
        ([1], 0.3)
    """

    averages = False

    def __init__(
        self, scores: Scores, candidate_scores: Callable[[Offspring], float] | None = None
    ) -> None:
        self._scores = scores
        self._candidate_scores = candidate_scores or (lambda child: float("inf"))
        self.advances: list[Advance] = []
        self.applied: list[list[Offspring]] = []
        self.data: SearchData | None = None
        self.closed = False
        self._models: list[ScriptedModel] = []

    def start(self, setup: Setup) -> None:
        self._setup = setup
        self.data = setup.data
        given = setup.initial_weights
        self._models = [
            ScriptedModel(dict(values), float(slot if given is None else given[0]), 0)
            for slot, values in enumerate(setup.values)
        ]

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
        self.advances.append(Advance(tuple(slots), num_batches, batch_size, score, rate_factor))
        steps = num_batches * (plan or self._setup.training).passes
        return [self._advance_one(slot, steps, score) for slot in slots]

    def _advance_one(self, slot: int, num_steps: int, score: bool) -> Report:
        model, hooks = self._models[slot], self._setup.hooks
        value = self._score(slot) if score else float("nan")
        logs = {self._setup.objective.name: value} if score else {}
        if hooks is not None:
            hooks.train_begin(slot, model)
        steps = self._train(slot, num_steps, logs)
        if hooks is not None:
            hooks.train_end(slot, model, steps, logs)
        return Report(slot, value, logs, steps)

    def _train(self, slot: int, num_steps: int, logs: Mapping[str, float]) -> int:
        model, hooks = self._models[slot], self._setup.hooks
        if hooks is None or not hooks.needs_batches(slot):
            model.steps += num_steps
            return num_steps
        for done in range(num_steps):
            if hooks.should_stop(slot):
                return done
            hooks.batch_begin(slot, model)
            model.steps += 1
            hooks.batch_end(slot, model, logs)
        return num_steps

    def _score(self, slot: int) -> float:
        call = len(self.advances)
        if callable(self._scores):
            return float(self._scores(slot, call, dict(self._models[slot].values)))
        return float(self._scores[call - 1][slot])

    def try_out(self, candidates: Sequence[Offspring]) -> list[float]:
        return [float(self._candidate_scores(child)) for child in candidates]

    def apply(self, offspring: Sequence[Offspring]) -> None:
        self.applied.append(list(offspring))
        before = [replace(model) for model in self._models]
        for child in offspring:
            parents = [before[slot] for slot in child.parents]
            weight = float(np.mean([parent.weight for parent in parents]))
            self._models[child.slot] = ScriptedModel(
                dict(child.values),
                weight + _shift(child.weight_noise),
                0 if child.optimizer_state == "fresh" else parents[0].steps,
            )

    def revive(self, child: Offspring, state: MemberState) -> None:
        self.applied.append([child])
        steps = 0 if child.optimizer_state == "fresh" else state.optimizer[0]
        self._models[child.slot] = ScriptedModel(dict(child.values), state.weights[0], steps)

    def capture(self, slot: int) -> MemberState:
        return self._models[slot].state

    def visit(self, slot: int, action: Callable[[keras.Model], None]) -> None:
        action(self._models[slot])

    def feed(self, data: SearchData) -> None:
        self.data = data

    def export(self, values: Values, state: MemberState) -> ScriptedModel:
        return ScriptedModel(dict(values), state.weights[0], state.optimizer[0])

    def snapshot(self) -> dict[str, Any]:
        return {
            "advances": [asdict(advance) for advance in self.advances],
            "models": [asdict(model) for model in self._models],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.advances = [
            Advance(**{**advance, "slots": tuple(advance["slots"])})
            for advance in snapshot["advances"]
        ]
        self._models = [
            ScriptedModel(**{**model, "values": dict(model["values"])})
            for model in snapshot["models"]
        ]

    def close(self) -> None:
        self.closed = True


def _shift(noise: NoiseSpec) -> float:
    if noise.is_zero:
        return 0.0
    return float(np.random.default_rng(noise.seed).normal(0.0, noise.sd))


@dataclass
class FixedStrategy(Strategy):
    """A strategy whose decisions are given in advance.

    Args:
        offspring: iteration -> who is replaced after it; nobody in an iteration that is left out.
        first: The first members' values by slot; the space's defaults where left out.
        closing: Training after the last iteration.
        keep_best: Whether the result is the best member ever seen.

    Attributes:
        views: What the strategy was shown, by call.
    """

    offspring: Mapping[int, Sequence[Offspring]] = field(default_factory=dict)
    first: Sequence[Values] = ()
    closing: ClosingPlan = field(default_factory=ClosingPlan)
    keep_best: bool = True
    views: list[PopulationView] = field(default_factory=list, init=False)

    def evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        """Note the view, then follow the policies that all strategies share."""
        self.views.append(view)
        return super().evolve(view, rng)

    def _start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        given = [dict(values) for values in self.first[:size]]
        return given + [space.defaults() for _ in range(size - len(given))]

    def _evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        return list(self.offspring.get(view.iteration, ()))


class ScriptedGenerator:
    """Stands in for a `numpy.random.Generator`: its draws are given in advance, by kind.

    A draw that is not in the script is an error, so that a test says exactly what is drawn.

    Args:
        standard_normal: Draws of `standard_normal`; `normal` shifts and scales them.
        random: Draws of `random`.
        integers: Draws of `integers`.
        choice: Draws of `choice`, each a sequence of the size that is asked for.
    """

    def __init__(
        self,
        standard_normal: Sequence[float] = (),
        random: Sequence[float] = (),
        integers: Sequence[int] = (),
        choice: Sequence[Sequence[int]] = (),
    ) -> None:
        self.remaining: dict[str, list[Any]] = {
            "standard_normal": list(standard_normal),
            "random": list(random),
            "integers": list(integers),
            "choice": list(choice),
        }

    def _next(self, kind: str) -> Any:
        if not self.remaining[kind]:
            raise AssertionError(f"`{kind}` is drawn more often than the script says.")
        return self.remaining[kind].pop(0)

    def standard_normal(self) -> float:
        """Return the next standard normal number."""
        return float(self._next("standard_normal"))

    def normal(self, loc: float = 0.0, scale: float = 1.0) -> float:
        """Return the next standard normal number, scaled and shifted."""
        return loc + scale * self.standard_normal()

    def random(self) -> float:
        """Return the next number in [0, 1)."""
        return float(self._next("random"))

    def integers(self, low: int, high: int | None = None) -> int:
        """Return the next integer, which must be in the range asked for."""
        drawn = int(self._next("integers"))
        start, stop = (0, low) if high is None else (low, high)
        if not start <= drawn < stop:
            raise AssertionError(f"The script's {drawn} is not in {start} ... {stop - 1}.")
        return drawn

    def choice(self, options: int, size: int, replace: bool = True, p: Any = None) -> list[int]:
        """Return the next selection, which must have the size asked for."""
        drawn = [int(index) for index in self._next("choice")]
        if len(drawn) != size or not all(0 <= index < options for index in drawn):
            raise AssertionError(f"The script's {drawn} is no {size} of {options}.")
        return drawn


def scripted_loop(
    strategy: Strategy,
    scores: Scores,
    *,
    values: Sequence[Values] | None = None,
    space: SearchSpace | None = None,
    population_size: int | None = None,
    num_elites: int = 0,
    iterations: int | None = None,
    batches_per_iteration: int = 4,
    max_births: int | None = None,
    num_kept: int = 1,
    objective: str | Objective = "val_loss",
    observers: Sequence[Observer] = (),
    seed: int = 0,
) -> Loop:
    """Return a loop over a `ScriptedExecutor`, started; `run` or `step` goes on.

    Args:
        strategy: The strategy.
        scores: See `ScriptedExecutor`.
        values: The first members' values; the strategy's own where left out.
        space: The search space; defaults to one without dimensions.
        population_size: Number of members; defaults to the table's width.
        num_elites: See `Settings`.
        iterations: Number of iterations; defaults to the table's height.
        batches_per_iteration: See `Settings`.
        max_births: See `Settings`.
        num_kept: See `Settings`.
        objective: What the scores are.
        observers: Told what happens.
        seed: Seed of the strategy's randomness.
    """
    table: Sequence[Sequence[float]] = () if callable(scores) else scores
    size = population_size or (len(values) if values is not None else len(table[0]))
    chosen = objective_of(objective)
    loop = Loop(
        ScriptedExecutor(scores),
        strategy,
        SearchSpace() if space is None else space,
        chosen,
        Settings(
            size, num_elites, iterations or len(table), batches_per_iteration, max_births, num_kept
        ),
        np.random.default_rng(seed),
        History(chosen.name, chosen.direction),
        observers,
    )
    loop.start(
        Setup(
            blueprint=ScriptedBlueprint(loop.space),
            values=loop.first_values(() if values is None else values),
            data=SearchData(ArrayBatches((np.zeros((8, 1)),), 4, True), None, 4, 2),
            objective=chosen,
            training=strategy.training,
            scoring=strategy.scoring,
            seed=np.random.SeedSequence(seed),
        )
    )
    return loop
