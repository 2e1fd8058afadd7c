"""A search in which the user's own code trains: the same population, another executor."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_popdescent.data import NO_DATA
from keras_popdescent.errors import ArgumentError, DivergedError, TrainingError, describe
from keras_popdescent.population.executor import Setup
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.tuners.execution import Execution
from keras_popdescent.tuners.exploration import explore
from keras_popdescent.tuners.heldout import prepare_heldout
from keras_popdescent.tuners.models import save_best
from keras_popdescent.tuners.own.blueprint import OwnTrainingBlueprint
from keras_popdescent.tuners.own.calls import plan_calls
from keras_popdescent.tuners.own.state import check_optimizer_state
from keras_popdescent.tuners.own.training import OwnTraining, unscored_candidates
from keras_popdescent.tuners.result import SearchResult, make_result

if TYPE_CHECKING:
    from keras_popdescent.tuners.base import PopulationTuner


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Keep Python's garbage collector off the objects that are there already.

    KerasTuner collects all garbage twice before it builds a model. That is little for a trial that
    is built once, but here a trial is built once an iteration, and going through the hundreds of
    thousands of objects of an imported TensorFlow takes a quarter of a second.
    """
    if gc.get_freeze_count():
        # Somebody else's: to unfreeze is theirs too.
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _failed(error: Exception) -> TrainingError:
    """Return what to raise where no member has a score because the user's code has failed."""
    return TrainingError(
        describe(
            "Your training failed in every call that was to give a score.",
            fix="See the error above this one.",
            error=repr(error)[:300],
        )
    )


def _note_on_saving(tuner: PopulationTuner) -> str:
    if not tuner.checkpoints.checkpoint:
        return ""
    return "your own training is not saved: a search that is cut off begins anew"


def _refuse_what_has_no_meaning(strategy: Strategy) -> None:
    """Refuse a strategy whose decisions would be recorded and have no effect.

    Raises:
        ArgumentError: Saying what it decides.
    """
    if strategy.multipliers:
        raise ArgumentError(
            describe(
                "The strategy scales the loss, which is your own training's.",
                "Expected a strategy without multipliers, `PopDescent()` for example.",
                multipliers=strategy.multipliers,
                strategy=strategy.get_config(),
            )
        )
    if strategy.tries_candidates:
        raise unscored_candidates()
    check_optimizer_state(getattr(strategy, "optimizer_state", "inherit"))


@_quick_collections()
def search_with_own_training(
    tuner: PopulationTuner,
    code: Callable[..., Any],
    args: Sequence[Any],
    fit_kwargs: Mapping[str, Any],
    heldout_data: Any,
) -> SearchResult:
    """Train the population of a tuner by calling the user's own training code.

    Args:
        tuner: The tuner.
        code: The overridden method, which gets the arguments of `search`.
        args: Positional arguments of `search`.
        fit_kwargs: Arguments of `search` by name.
        heldout_data: Data that the best model is scored on at the end.

    Raises:
        ArgumentError: For a strategy, or arguments, that cannot work with such training.
        TrainingError: If the code failed so often in a row that the search ends, or in every call.
        ResultError: If it returned what cannot be a score.
        ModelError: If what it builds cannot take over its parent's weights.
        DivergedError: If no member is finite for three iterations in a row, or ever was.
    """
    _refuse_what_has_no_meaning(tuner.strategy)
    kwargs = dict(fit_kwargs)
    calls = plan_calls(
        code,
        kwargs,
        iterations=tuner.iterations,
        population_size=tuner.population_size,
        max_trials=tuner.max_births,
    )
    held = prepare_heldout(heldout_data)
    budget = calls.budget(tuner.max_time)
    tuner.oracle.verbose = 0
    tuner.on_search_begin()
    runs: list[Execution] = []
    try:
        seeds = np.random.SeedSequence(tuner.oracle.seed).spawn(tuner.executions_per_trial)
        for execution, seed in enumerate(seeds):
            run = Execution(tuner, seed, kwargs.get("verbose", "auto"), execution)
            executor = OwnTraining(
                tuner, calls, args, kwargs, run.trial_in, run.stop, run.learn,
                folders=code != tuner.run_trial,
            )  # fmt: skip
            run.use(executor, "your own training, called by this tuner")
            tuner._runs.append(run)
            runs.append(run)
            if len(runs) == 1:
                run.begin_early(executor)
            build = None if tuner.hypermodel is None else tuner._build_hypermodel
            contexts = {} if build is None else explore(build, tuner.oracle)
            blueprint = OwnTrainingBlueprint(
                build, tuner.oracle.get_space(), tuner.bindings, executor.build_config, contexts
            )
            tuner._blueprint = blueprint
            tuner.check_initial(blueprint.space)
            setup = Setup(
                blueprint=blueprint,
                values=run.first_values(budget),
                data=NO_DATA,
                objective=tuner.search_objective(),
                training=tuner.strategy.training,
                scoring=tuner.strategy.scoring,
                seed=run.executor_seed,
            )
            try:
                run.run(setup, [budget.note, _note_on_saving(tuner)], None)
            except DivergedError:
                if executor.error is None:
                    raise
                raise _failed(executor.error) from executor.error
            finally:
                executor.end_lives()
            if executor.error is not None and not run.results() and not run.loop.interrupted:
                raise _failed(executor.error) from executor.error
            if run.loop.interrupted:
                break
    finally:
        save_best(tuner)
        tuner.on_search_end()
    return make_result(tuner, runs, NO_DATA, held)
