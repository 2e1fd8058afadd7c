"""What `search` returns: the outcome in one object, readable in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from keras_popdescent.data import SearchData
from keras_popdescent.errors import DivergedError, PopDescentError, describe
from keras_popdescent.history import History, Schedule
from keras_popdescent.operators.fitness import Direction, cost
from keras_popdescent.population.blueprint import Blueprint
from keras_popdescent.population.kept import Kept
from keras_popdescent.population.state import MemberState
from keras_popdescent.strategies.space import Value, Values
from keras_popdescent.tuners.heldout import Held, report
from keras_popdescent.tuners.retraining import schedule_of
from keras_popdescent.tuners.tables import Executions, frame, result_rows

if TYPE_CHECKING:
    import keras
    from keras_tuner.engine.trial import Trial

    from keras_popdescent.tuners.base import PopulationTuner
    from keras_popdescent.tuners.execution import Execution

# A table in a notebook shows so many members.
SHOWN = 10


@dataclass(frozen=True)
class Sources:
    """What a result's model, schedule and table are made from: one call of `search`, and no other.

    Of the members' states it holds the winner's only, so that a result which stays in a notebook
    keeps no population in memory.

    Attributes:
        trial: The winner's trial.
        winner: The winner as it was when it scored best.
        export: Returns a plain model of a member's values and state.
        blueprint: Builds the models.
        executions: Histories and trials of the call's executions.
    """

    trial: Trial
    winner: Kept
    export: Callable[[Values, MemberState], keras.Model]
    blueprint: Blueprint
    executions: Executions


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one call of `search`.

    Whatever is searched with the same tuner afterwards, a result stays that of its own call;
    `tuner.get_best_models()` and its siblings answer for all searches of the session.

    Attributes:
        objective: Name of the objective.
        direction: `"min"` or `"max"`.
        best_score: The winner's score; validation chose it, so it is too good on average.
        best_trial_id: The winner's trial.
        best_hyperparameters: The values that the winner had last; the schedule has all.
        population_size: Number of members.
        num_executions: Independent populations.
        num_born: Members ever born, over all executions.
        num_diverged: Scores that were not finite.
        iterations: Iterations of the best execution; closing training is not counted.
        gradient_steps: Gradient steps of all members of all executions.
        seconds: Wall time of all executions.
        interrupted: Whether Ctrl-C ended it.
        validation: What the winner's plain model reports on the validation data; empty without
            `heldout_data`, beside which it stands.
        heldout: The same on `heldout_data`, scored once, at the end; empty without any.
        history: Every iteration, score and birth of the best execution.
        tuner: The tuner that searched; None for a result of numbers only.
        sources: What `best_model`, `schedule` and `table` are made from; None for numbers only.
    """

    objective: str
    direction: Direction
    best_score: float
    best_trial_id: str
    best_hyperparameters: Values
    population_size: int
    num_executions: int
    num_born: int
    num_diverged: int
    iterations: int
    gradient_steps: int
    seconds: float
    interrupted: bool
    history: History = field(repr=False)
    validation: Mapping[str, float] = field(default_factory=dict)
    heldout: Mapping[str, float] = field(default_factory=dict)
    tuner: PopulationTuner | None = field(default=None, repr=False)
    sources: Sources | None = field(default=None, repr=False, compare=False)

    @property
    def best_model(self) -> keras.Model:
        """The winner as a plain compiled Keras model, a new one each time.

        Where the tuner's `load_model` is overridden, it loads the winner's trial instead.

        Raises:
            PopDescentError: For a result of numbers only.
            ModelError: If training of the user's own has left no Keras model.
        """
        tuner, sources = self._made_from()
        if tuner.loads_models_itself():
            return tuner.load_model(sources.trial)
        return sources.export(sources.winner.values, sources.winner.state)

    @property
    def schedule(self) -> Schedule:
        """The winner's path of hyperparameters through all its ancestors.

        Raises:
            PopDescentError: For a result of numbers only.
        """
        tuner, sources = self._made_from()
        return schedule_of(self.history, sources.winner, sources.blueprint, tuner.bindings)

    @property
    def table(self) -> Any:
        """A row for each member of this call: a DataFrame, or a list of dicts without pandas.

        Raises:
            PopDescentError: For a result of numbers only.
        """
        return frame(result_rows(self._made_from()[1].executions))

    def _made_from(self) -> tuple[PopulationTuner, Sources]:
        if self.tuner is None or self.sources is None:
            raise PopDescentError(
                describe(
                    "A result of numbers only has no model, schedule or table.",
                    "Expected one that `search` has returned.",
                )
            )
        return self.tuner, self.sources

    def _facts(self) -> list[tuple[str, str]]:
        replaced = self.num_born - self.population_size * self.num_executions
        facts = [
            (f"best {self.objective}", f"{_short(self.best_score)} (trial {self.best_trial_id})"),
            ("last hyperparameters", _pairs(self.best_hyperparameters)),
            (
                "search",
                f"{self.population_size} members, {self.num_born} born, {replaced} replaced, "
                f"{self.iterations} iterations, {self.gradient_steps:,} gradient steps, "
                f"{self.seconds:.1f} s",
            ),
        ]
        if self.num_diverged:
            facts.append(("diverged", f"{self.num_diverged} scores were not finite"))
        if self.interrupted:
            facts.append(("ended", "by an interrupt; this is the best so far"))
        if self.heldout:
            facts.append(("validation", _pairs(self.validation)))
            facts.append(("held out, scored once", _pairs(self.heldout)))
        return facts

    def __repr__(self) -> str:
        """Return a line for each fact, and what else there is."""
        width = max(len(name) for name, _ in self._facts())
        lines = [f"  {name:<{width}}  {text}" for name, text in self._facts()]
        return "\n".join(["SearchResult", *lines, "  .best_model  .schedule  .table  .history"])

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in self._facts()
        )
        return f"<table><caption>SearchResult</caption>{facts}</table>{self._members()}"

    def _members(self) -> str:
        """Return the living and dead members as HTML, the best first."""
        rows = [row for row in self.history.member_table() if row["best_score"] is not None]
        rows.sort(key=lambda row: cost(row["best_score"], self.direction))
        names = list(self.best_hyperparameters)
        head = ["member", "parent", f"best {self.objective}", "gradient steps", *names]
        body = [
            [
                str(row["member_id"]),
                str(row["parents"][0]) if row["parents"] else "",
                _short(row["best_score"]),
                str(row["gradient_steps"]),
                *(_short(row.get(name, "")) for name in names),
            ]
            for row in rows[:SHOWN]
        ]
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in body]
        title = "".join(f"<th>{escape(name)}</th>" for name in head)
        more = f"<p>and {len(rows) - SHOWN} more</p>" if len(rows) > SHOWN else ""
        return f"<table><tr>{title}</tr><tr>{'</tr><tr>'.join(cells)}</tr></table>{more}"


def make_result(
    tuner: PopulationTuner, runs: Sequence[Execution], data: SearchData, held: Held | None
) -> SearchResult:
    """Return the outcome of one call of `search`.

    Args:
        tuner: The tuner.
        runs: Its executions.
        data: The data of the search, with the validation data.
        held: The held-out data.

    Raises:
        DivergedError: If no member ever had a finite score.
        KeyboardInterrupt: If the search was interrupted before there was anything to keep.
    """
    objective = tuner.oracle.objective
    pairs = [(run, kept) for run in runs for kept in run.results()]
    if not pairs:
        if any(run.loop.interrupted for run in runs):
            raise KeyboardInterrupt
        raise DivergedError(
            describe(
                "No member ever had a finite score.",
                fix="Lower the learning rates in the search space, or clip gradients.",
                hyperparameters=[dict(member.values) for member in runs[-1].loop.members],
            )
        )
    run, best = min(pairs, key=lambda pair: pair[0].rank(pair[1]))
    validation: dict[str, float] = {}
    heldout: dict[str, float] = {}
    if held is not None:
        model = run.loop.executor.export(best.values, best.state)
        validation, heldout = report(model, data, held)
    histories = [one.loop.history for one in runs]
    return SearchResult(
        objective=objective.name,
        direction=objective.direction,
        best_score=best.score,
        best_trial_id=run.trials[best.member_id].trial_id,
        best_hyperparameters=dict(best.values),
        population_size=len(run.loop.members),
        num_executions=len(runs),
        num_born=sum(len(history.births()) for history in histories),
        num_diverged=sum(history.num_diverged for history in histories),
        iterations=run.loop.history.records[-1].iteration,
        gradient_steps=sum(history.gradient_steps for history in histories),
        seconds=sum(history.records[-1].seconds for history in histories),
        interrupted=any(one.loop.interrupted for one in runs),
        history=run.loop.history,
        validation=validation,
        heldout=heldout,
        tuner=tuner,
        sources=Sources(
            trial=run.trials[best.member_id],
            winner=best,
            export=run.loop.executor.exporter(),
            blueprint=run.blueprint,
            executions=[one.table_entry() for one in runs],
        ),
    )


def _short(value: Value | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items()) or "none"
