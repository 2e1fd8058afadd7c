"""What a tuner's constructor refuses, before KerasTuner makes or deletes a file."""

from __future__ import annotations

import difflib
import inspect
import numbers
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from keras_popdescent.arguments import check_flag, check_number, check_time, check_type, check_whole
from keras_popdescent.data import IterableBatches, SearchData
from keras_popdescent.errors import ArgumentError, ObjectiveError, describe
from keras_popdescent.hyperparameters import BATCH_SIZE, Binding
from keras_popdescent.population.checks import check_initial, check_sizes, check_strategy
from keras_popdescent.population.registry import check_executor
from keras_popdescent.strategies.space import SearchSpace, Values

_NUMBERS = (keras_tuner.engine.hyperparameters.Int, keras_tuner.engine.hyperparameters.Float)
_COUNTS = (
    "batches_per_iteration",
    "iterations",
    "max_gradient_steps",
    "validation_samples",
)


def check_objective_form(objective: Any) -> None:
    """Refuse what KerasTuner makes no objective of.

    Args:
        objective: A name, a `keras_tuner.Objective`, a list of both, or None.

    Raises:
        ObjectiveError: Saying what came.
    """
    if objective is None:
        return
    try:
        made = keras_tuner.Oracle(objective=objective, seed=1).objective
        named = list(made.name_to_direction.items()) if hasattr(made, "name_to_direction") else []
        named.append((made.name, made.direction))
    except (ValueError, TypeError, AttributeError) as error:
        raise ObjectiveError(
            describe(
                "The direction of the objective cannot be told from its name.",
                'Expected a name such as "val_loss", a `keras_tuner.Objective(name, direction)`, '
                "or a list of both.",
                objective=objective,
            )
        ) from error
    for name, direction in named:
        if not isinstance(name, str) or not name or str(direction) not in ("min", "max"):
            raise ObjectiveError(
                describe(
                    "An objective has a name, and the direction 'min' or 'max'.",
                    name=name,
                    direction=direction,
                )
            )


def check_oracle(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of an oracle that cannot work.

    Raises:
        ArgumentError: Naming the argument.
    """
    check_whole("max_trials", arguments["max_trials"])
    check_whole("max_retries_per_trial", arguments["max_retries_per_trial"], 0, none=False)
    for name in ("tune_new_entries", "allow_new_entries"):
        check_flag(name, arguments[name])
        if not arguments[name] and arguments["hyperparameters"] is None:
            raise ArgumentError(
                describe(
                    f"`{name}=False` leaves nothing to tune.",
                    fix="Declare the search space with `hyperparameters`.",
                    hyperparameters=None,
                )
            )
    check_type(
        "hyperparameters",
        arguments["hyperparameters"],
        keras_tuner.HyperParameters,
        "a `keras_tuner.HyperParameters`",
    )


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a population tuner that cannot work.

    Raises:
        ArgumentError: Naming the argument.
    """
    check_sizes(arguments["population_size"], arguments["num_elites"])
    for name in _COUNTS:
        check_whole(name, arguments[name])
    check_time("max_time", arguments["max_time"])
    check_strategy(arguments["strategy"])
    check_executor(arguments["executor"])
    check_initial(arguments["initial_hyperparameters"])
    check_flag("implicit_mutation", arguments["implicit_mutation"])
    check_flag("checkpoint", arguments["checkpoint"])
    check_flag("deterministic", arguments["deterministic"])
    check_type("bindings", arguments["bindings"], Mapping, "a dict by hyperparameter")
    for name, binding in (arguments["bindings"] or {}).items():
        if not isinstance(name, str) or not (
            isinstance(binding, str | Binding) or callable(binding)
        ):
            raise ArgumentError(
                describe(
                    "`bindings` has an entry that says nothing.",
                    "Expected by the name of a hyperparameter: a kind, the path of a live scalar, "
                    "a `Binding`, or a function that returns one.",
                    bindings={name: binding},
                )
            )
    hypermodel = arguments["hypermodel"]
    if not (hypermodel is None or callable(hypermodel)) and not isinstance(
        hypermodel, keras_tuner.HyperModel
    ):
        raise ArgumentError(
            describe(
                "`hypermodel` must be a function `build_model(hp)` or a `HyperModel`.",
                hypermodel=hypermodel,
            )
        )


def check_keras_tuner(arguments: Mapping[str, Any], tuner: type) -> None:
    """Refuse arguments of `keras_tuner.Tuner` that cannot work, and those that nobody takes.

    Args:
        arguments: What a tuner was given beside the arguments that its class names.
        tuner: The tuner's class.

    Raises:
        ArgumentError: Naming the argument.
    """
    named = {*inspect.signature(tuner).parameters, *inspect.signature(keras_tuner.Tuner).parameters}
    # A `PopDescentTuner` makes its oracle itself.
    known = named - {"args", "kwargs", "oracle"}
    for name in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ArgumentError(
                describe(
                    f"`{tuner.__name__}` has no argument `{name}`.",
                    f"Did you mean `{close[0]}`?"
                    if close
                    else f"Expected one of: {', '.join(sorted(known))}.",
                    argument=name,
                    value=arguments[name],
                )
            )
    check_whole("executions_per_trial", arguments.get("executions_per_trial", 1), none=False)
    check_whole("max_model_size", arguments.get("max_model_size"))
    check_flag("overwrite", arguments.get("overwrite", False))
    check_project(arguments.get("directory"), arguments.get("project_name"))
    tuner_id = arguments.get("tuner_id")
    if tuner_id is not None:
        check_file_name("tuner_id", tuner_id)


def check_project(directory: Any, name: Any) -> None:
    """Refuse a project that would not be a folder within its directory: it may be deleted.

    Args:
        directory: Where projects are; None for the working directory.
        name: The project's name; None for KerasTuner's default.

    Raises:
        ArgumentError: Saying what is wrong with it.
    """
    check_type("directory", directory, (str, os.PathLike), "a path")
    check_type("project_name", name, str, "a name")
    if "\0" in f"{directory or ''}{name or ''}":
        raise ArgumentError(
            describe("No path has a zero byte.", directory=str(directory), project_name=name)
        )
    if not name:
        name = "untitled_project"
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or name != name.strip():
        raise ArgumentError(
            describe(
                "`project_name` must be a folder inside `directory`.",
                "Expected a name without `..`, that begins with no slash.",
                project_name=name,
            )
        )
    place = Path(directory or ".")
    for folder in (place, *((place / name), *(place / name).parents)):
        if _is_file(folder):
            raise ArgumentError(
                describe(
                    "There is a file where the project's folder would be.",
                    fix="Choose another `directory` or `project_name`.",
                    path=str(folder),
                )
            )


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except OSError as error:
        raise ArgumentError(
            describe(
                f"The project's folder cannot be: {error.strerror or error}.",
                fix="Choose another `directory` or `project_name`.",
                path=str(path)[:200],
            )
        ) from error


def check_initial_values(initial: Sequence[Values], space: keras_tuner.HyperParameters) -> None:
    """Refuse initial values that their hyperparameters cannot have.

    Args:
        initial: Values for each of the first members.
        space: The search space.

    Raises:
        ArgumentError: Naming the value, and what was expected.
    """
    for given in initial:
        for name, value in given.items():
            declared = [hp for hp in space.space if hp.name == name]
            # A name may stand for several, in scopes that exclude each other.
            if declared and not any(_holds(hp, value) for hp in declared):
                raise ArgumentError(
                    describe(
                        f"`initial_hyperparameters` has a value that `{name}` cannot have.",
                        f"Expected {' or '.join(map(_held, declared))}.",
                        value=value,
                    )
                )


def _holds(hp: Any, value: Any) -> bool:
    if isinstance(hp, _NUMBERS):
        kind = numbers.Integral if isinstance(hp, _NUMBERS[0]) else numbers.Real
        number = isinstance(value, kind) and not isinstance(value, bool)
        return number and hp.min_value <= value <= hp.max_value
    return isinstance(value, str | bool | numbers.Real) and value in hp.values


def _held(hp: Any) -> str:
    if isinstance(hp, _NUMBERS):
        kind = "a whole number" if isinstance(hp, _NUMBERS[0]) else "a number"
        return f"{kind} from {hp.min_value} to {hp.max_value}"
    return f"one of {list(hp.values)}"


def check_batch_sizes(space: keras_tuner.HyperParameters) -> None:
    """Refuse a hyperparameter `batch_size` that may be no number of samples.

    Raises:
        ArgumentError: Naming the values.
    """
    for hp in space.space:
        if hp.name != BATCH_SIZE:
            continue
        bounds = [getattr(hp, name, None) for name in ("min_value", "max_value")]
        values = [*getattr(hp, "values", ()), *bounds, hp.default]
        for value in values:
            try:
                check_number(BATCH_SIZE, value, 1.0)
            except ArgumentError:
                raise ArgumentError(
                    describe(
                        "The hyperparameter `batch_size` must be a number of samples.",
                        "Expected whole numbers from 1 on.",
                        fix="Choose another name for it, if it means something else.",
                        batch_size=value,
                    )
                ) from None


def warn_of_batch_size(space: SearchSpace, data: SearchData) -> None:
    """Warn where a hyperparameter `batch_size` has no effect: a data set yields whole batches."""
    if BATCH_SIZE in space.names("live") and isinstance(data.training, IterableBatches):
        warnings.warn(
            "The hyperparameter `batch_size` has no effect: the data set decides how many samples "
            "a batch has. Trials record values that nothing is trained with. Pass arrays, or take "
            "it out of the search space.",
            stacklevel=3,
        )


def check_file_name(name: str, value: Any) -> None:
    """Refuse what cannot be a file's name, or would be a file elsewhere.

    Raises:
        ArgumentError: Naming the argument.
    """
    if not isinstance(value, str) or Path(value).name != value or "\0" in value:
        raise ArgumentError(
            describe(
                f"`{name}` must be a word without slashes.",
                "It is part of a file's name.",
                **{name: value},
            )
        )
