"""The best members as models: kept in memory, saved in the project directory, loaded again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import keras
from keras_tuner.engine.trial import Trial

from keras_popdescent.errors import ProjectError, describe
from keras_popdescent.population.export import build_plain, make_all
from keras_popdescent.population.kept import Kept
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.tuners.resume import tolerant

if TYPE_CHECKING:
    from keras_popdescent.tuners.base import PopulationTuner
    from keras_popdescent.tuners.execution import Execution
    from keras_popdescent.tuners.oracle import Rank

WEIGHTS = "checkpoint.weights.h5"
# Beside a model's weights: what it needs to have weights before its first batch.
BUILD_CONFIG = "build_config.json"
# Beside them, written last: the trial's best score and step when they were saved.
SAVED_AT = "saved_at.json"


def kept_members(tuner: PopulationTuner) -> list[tuple[Execution, Kept]]:
    """Return the best members of all executions, one entry a trial, the best first."""
    pairs = [(run, kept) for run in tuner._runs for kept in run.results()]
    return sorted(pairs, key=lambda pair: pair[0].rank(pair[1]))


def best_models(tuner: PopulationTuner, num_models: int, own_load: bool) -> list[keras.Model]:
    """Return the best members as models, those of earlier sessions among them.

    Args:
        tuner: The tuner.
        num_models: How many, at most.
        own_load: Whether the tuner's `load_model` is the user's: it then loads any trial.

    Raises:
        ProjectError: If nothing was searched.
    """
    if own_load and tuner.oracle.trials:
        return [tuner.load_model(trial) for trial in tuner.oracle.get_best_trials(num_models)]
    saved, here = _saved_trials(tuner), kept_members(tuner)
    if not saved and not here:
        raise tuner.nothing_searched()
    found: dict[str, tuple[Rank, Callable[[], keras.Model]]] = {}
    for trial in saved:
        found[trial.trial_id] = (tuner.oracle.rank(trial), partial(load_model, tuner, trial))
    for run, kept in here:
        export = partial(run.loop.executor.export, kept.values, kept.state)
        found[run.trials[kept.member_id].trial_id] = (run.rank(kept), export)
    ranked = sorted(found.values(), key=lambda entry: entry[0])
    return make_all([make for _, make in ranked[:num_models]], stacklevel=4)


def load_model(tuner: PopulationTuner, trial: Trial) -> keras.Model:
    """Return the model of a trial that is kept.

    Args:
        tuner: The tuner.
        trial: One of its trials.

    Raises:
        ProjectError: If the trial's weights are not kept, or the model cannot be built for them.
    """
    for run, kept in kept_members(tuner):
        if run.trials[kept.member_id].trial_id == trial.trial_id:
            return run.loop.executor.export(kept.values, kept.state)
    path = _weights_path(tuner, trial)
    if not _is_saved(tuner, trial):
        raise ProjectError(
            describe(
                f"The weights of trial {trial.trial_id} are not in the project directory.",
                "Only the best member's are kept there.",
                directory=str(tuner.project_dir),
            )
        )
    values = dict(trial.hyperparameters.values)
    blueprint = tuner._blueprint or tuner._make_blueprint(None)
    with borrowed_globals(0):
        model = build_plain(blueprint, values, lambda: blueprint.build(values), ())
        if not model.built:
            # Its weights appear with the first batch: the shapes that it had are beside them.
            config = path.with_name(BUILD_CONFIG)
            model.build_from_config(json.loads(config.read_text(encoding="utf-8")))
    if not model.built:
        raise ProjectError(
            describe(
                "The model gets its weights with its first batch, and has no `build` of its own.",
                fix="Call `search` again, with the same arguments: it returns at once, and the "
                "models are there.",
                model=type(model).__name__,
            )
        )
    if model.compiled:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return model


def save_best(tuner: PopulationTuner) -> None:
    """Write the best member's weights, and the tuner's files."""
    for run, kept in kept_members(tuner)[:1]:
        if kept.state.num_plain == (0, 0):
            continue  # the user's own training has left no Keras model
        model = run.loop.executor.export(kept.values, kept.state)
        trial = run.trials[kept.member_id]
        write = partial(_write_model, model, _weights_path(tuner, trial), _best_of(trial))
        tolerant(write, "the best member's weights")
    tuner.save()


def _saved_trials(tuner: PopulationTuner) -> list[Trial]:
    return [
        trial
        for trial in tuner.oracle.get_best_trials(len(tuner.oracle.trials))
        if trial.score is not None and _is_saved(tuner, trial)
    ]


def _is_saved(tuner: PopulationTuner, trial: Trial) -> bool:
    """Whether a trial's weights are in the project: those of its best score, not of an earlier one.

    A search that went on under a larger budget may have made it better, and another one the best.
    """
    try:
        path = _weights_path(tuner, trial).with_name(SAVED_AT)
        return bool(json.loads(path.read_text(encoding="utf-8")) == _best_of(trial))
    except (OSError, ValueError):
        return False


def _best_of(trial: Trial) -> dict[str, float | int | None]:
    return {"score": trial.score, "step": trial.best_step}


def _weights_path(tuner: PopulationTuner, trial: Trial) -> Path:
    return Path(os.path.join(tuner.get_trial_dir(trial.trial_id), WEIGHTS))


def _write_model(model: keras.Model, path: Path, best: Mapping[str, float | int | None]) -> None:
    # Half of it would be taken for a saved model.
    path.with_name(SAVED_AT).unlink(missing_ok=True)
    try:
        model.save_weights(path)
        config = json.dumps(model.get_build_config())
        path.with_name(BUILD_CONFIG).write_text(config, encoding="utf-8")
        path.with_name(SAVED_AT).write_text(json.dumps(best), encoding="utf-8")
    except OSError:
        path.unlink(missing_ok=True)
        raise
