"""What kind each hyperparameter of a build function is: found out by building and comparing.

The model is built with the default values and then with one hyperparameter moved at a time. Only
known scalars differ: live. The same weight shapes but another model: rebuild. Other weight shapes:
structural.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_popdescent.errors import PopDescentError
from keras_popdescent.hyperparameters import _keras_internals
from keras_popdescent.hyperparameters.binding import find_handles
from keras_popdescent.hyperparameters.optimizer import inner_optimizer
from keras_popdescent.strategies.space import Kind, Value, Values

BATCH_SIZE = "batch_size"
# class of a serialized object -> its numbers that are handles, not structure
_LIVE_KEYS = {
    "L1": ("l1",),
    "L2": ("l2",),
    "L1L2": ("l1", "l2"),
    "Dropout": ("rate",),
    "SpatialDropout1D": ("rate",),
    "SpatialDropout2D": ("rate",),
    "SpatialDropout3D": ("rate",),
    "GaussianNoise": ("stddev",),
}
_OPTIMIZER_KEYS = (
    "learning_rate",
    "momentum",
    "beta_1",
    "beta_2",
    "rho",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
)


@dataclass(frozen=True)
class Classification:
    """What was found out about one hyperparameter.

    Attributes:
        kind: `"live"`, `"rebuild"` or `"structural"`.
        targets: For a live one: pairs of a handle's path and the factor by which the handle's value
            follows the hyperparameter's. Empty for the batch size, which acts through the data.
        computed: True where the handles follow the value in another way (`10 ** value`, say): then
            they are read off a model built for the value.
        unbounded: True where all targets are positive scales without a natural upper end.
        inert: True where no model showed a difference: it acts beside other values, if at all.
    """

    kind: Kind
    targets: tuple[tuple[str, float], ...] = ()
    computed: bool = False
    unbounded: bool = False
    inert: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Fingerprint:
    """A compiled model reduced to what can be compared.

    Attributes:
        shapes: Shapes and dtypes of the weights, None for a model that is not built.
        structure: Everything else but the handles' values.
        handles: The handles' values by path.
        unbounded: Paths of the handles that are positive scales.
    """

    shapes: tuple[Any, ...] | None
    structure: Any
    handles: Mapping[str, float]
    unbounded: frozenset[str]


def classify(
    build: Callable[[Values], keras.Model],
    probes: Mapping[str, Sequence[tuple[Values, str]]],
    base: Values,
) -> dict[str, Classification]:
    """Find out the kind of each hyperparameter.

    Args:
        build: Returns a compiled model for a full set of values; built, if the kinds of
            hyperparameters that change weight shapes are to be told apart.
        probes: For each hyperparameter, pairs of full sets of values and the name of the set they
            are to be compared with: `""` for `base`, or a hyperparameter whose first probe it is
            (a conditional one is compared within its scope).
        base: The default values.

    Returns:
        The classification by name.
    """
    fingerprints: dict[str, tuple[Values, Fingerprint]] = {"": (base, fingerprint(build(base)))}
    found: dict[str, Classification] = {}
    for name, moves in probes.items():
        seen = []
        raised: Exception | None = None
        for values, reference in moves:
            try:
                result = (values, fingerprint(build(values)))
            except PopDescentError:
                raise
            except Exception as error:
                # A member with such values will cost its birth; the kind shows in the other probes.
                raised = error
                continue
            if reference == name:
                # The first probe of a conditional hyperparameter opens its scope.
                seen.append((fingerprints.setdefault(name, result), result))
            elif reference in fingerprints:
                seen.append((fingerprints[reference], result))
        if not seen and raised is not None:
            warnings.warn(
                f"`{name}` is taken for rebuild: the build function raised for all values that it "
                f"was tried with, {type(raised).__name__}: {str(raised)[:200]}",
                stacklevel=2,
            )
        found[name] = _compare(name, seen) if seen else Classification("rebuild")
    return separate(found)


def acting_contexts(
    build: Callable[[Values], keras.Model],
    probes: Mapping[str, Sequence[tuple[Values, str]]],
    base: Values,
    found: Mapping[str, Classification],
) -> dict[str, Values]:
    """Return values beside which hyperparameters act that do nothing beside the defaults.

    `units = hp.Int("units", 8, 32)` may be used only `if hp.Boolean("deep")`, without a conditional
    scope. Each value at which another hyperparameter was tried, and changed the model's structure,
    is tried as a context.

    Args:
        build: See `classify`.
        probes: See `classify`.
        base: The default values.
        found: What `classify` returned for them.

    Returns:
        By hyperparameter: a full set of values; none for what acts nowhere.
    """
    tries = {
        name: [values[name] for values, _ in probes[name] if values[name] != base[name]]
        for name, classification in found.items()
        if classification.inert
    }
    others = [name for name in probes if found[name].kind != "live" and name not in tries]
    contexts = (values for name in others for values, _ in probes[name])
    return acts_beside(lambda values: fingerprint_or_none(build, values), contexts, tries)


def acts_beside(
    look: Callable[[Values], Any], contexts: Iterable[Values], tries: Mapping[str, Sequence[Value]]
) -> dict[str, Values]:
    """Return the first context beside which each hyperparameter shows.

    Args:
        look: Returns what is compared of the model of some values; None where there is none.
        contexts: Full sets of values.
        tries: By hyperparameter, values to try it at.

    Returns:
        By hyperparameter; none for what shows in no context.
    """
    found: dict[str, Values] = {}
    for context in contexts:
        waiting = [name for name in tries if name not in found]
        before = look(context) if waiting else None
        for name in waiting if before is not None else ():
            seen = (look({**context, name: value}) for value in tries[name])
            if any(after is not None and after != before for after in seen):
                found[name] = context
    return found


def fingerprint_or_none(
    build: Callable[[Values], keras.Model], values: Values
) -> Fingerprint | None:
    """Return the fingerprint of the model of some values; None where it cannot be built."""
    try:
        return fingerprint(build(values))
    except PopDescentError:
        raise
    except Exception:
        return None


def single_targets(
    name: str, before: tuple[Values, Fingerprint], moved: Sequence[tuple[Values, Fingerprint]]
) -> Classification:
    """Return the targets of a live hyperparameter in one structure, none where it has no effect."""
    pairs = [(before, after) for after in moved]
    found = _compare(name, pairs)
    if found.kind == "live":
        return found
    same = all(after.handles == before[1].handles for _, after in moved)
    return Classification("live") if same else found


def fingerprint(model: keras.Model) -> Fingerprint:
    """Reduce a compiled model to what can be compared."""
    handles = find_handles(model)
    layers = _keras_internals.flatten_layers(model)
    names = {layer.name: f"#{index}" for index, layer in enumerate(layers)}
    structure = [_mask(_describe_layer(layer), names) for layer in layers]
    optimizer = inner_optimizer(model)
    if optimizer is not None:
        config = _config(optimizer)
        live = {key for key in _OPTIMIZER_KEYS if isinstance(config.get(key), int | float)}
        structure.append(
            [type(optimizer).__name__]
            + [
                (key, _mask(value, names))
                for key, value in sorted(config.items())
                if key not in live and key != "name"
            ]
        )
    for loss in keras.tree.flatten(model.loss):
        config = _config(loss)
        structure.append(
            [_loss_name(loss), type(loss).__name__]
            + [(k, _mask(v, names)) for k, v in sorted(config.items()) if k != "label_smoothing"]
        )
    shapes = (
        tuple((tuple(w.shape), str(w.dtype), bool(w.trainable)) for w in model.weights)
        if model.built
        else None
    )
    return Fingerprint(
        shapes=shapes,
        structure=structure,
        handles={path: handle.static for path, handle in handles.items()},
        unbounded=frozenset(path for path, handle in handles.items() if handle.unbounded),
    )


def metric_prints(model: keras.Model, reported: Sequence[str]) -> dict[str, list[Any]]:
    """Reduce the compiled metrics that some reported quantities come from to what can be compared.

    Args:
        model: A compiled model.
        reported: Names such as `"val_accuracy"`.

    Returns:
        By name, what is known of each metric of that name: its class or function, and its config.
        Numbers at the ends of names are left out: Keras counts automatic names over a whole
        process, so that `auc_1` may be any `AUC()`.
    """
    wanted = [_stem(name.removeprefix("val_")) for name in reported]
    found: dict[str, list[Any]] = {}
    for metric in _keras_internals.user_metrics(model):
        name = _stem(_loss_name(metric).rpartition(".")[2])
        # Of several outputs, Keras puts the name of each in front.
        if any(quantity == name or quantity.endswith(f"_{name}") for quantity in wanted):
            kind = metric if isinstance(metric, str) else _class_name(metric)
            config = _mask(_without_code(_config(metric)), {})
            found.setdefault(name, []).append([("class", kind), *config])
    return found


def _stem(name: str) -> str:
    return re.sub(r"(_\d+)+$", "", name)


def _class_name(metric: Any) -> str:
    """Return the name of a function, or of the class of anything else."""
    return str(getattr(metric, "__qualname__", type(metric).__qualname__))


def _without_code(value: Any) -> Any:
    """Return a nested config without the bytes of lambdas, in which versions and lines show."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__lambda__":
            return "lambda"
        return {key: _without_code(item) for key, item in value.items()}
    return list(map(_without_code, value)) if isinstance(value, list | tuple) else value


def _compare(
    name: str, pairs: Sequence[tuple[tuple[Values, Fingerprint], tuple[Values, Fingerprint]]]
) -> Classification:
    changed: set[str] = set()
    for (_, before), (_, after) in pairs:
        if before.shapes != after.shapes:
            return Classification("structural")
    for (_, before), (_, after) in pairs:
        if before.structure != after.structure or set(before.handles) != set(after.handles):
            return Classification("rebuild")
        changed |= {path for path, v in before.handles.items() if after.handles[path] != v}
    if not changed:
        # Nothing in the model shows it. A batch size acts through the data; anything else acts
        # where a config cannot show it (a closure), so that only a new model is sure to have it.
        is_batch_size = name == BATCH_SIZE
        return Classification("live" if is_batch_size else "rebuild", inert=not is_batch_size)
    observed = [(values[name], print_) for pair in pairs for values, print_ in pair]
    factors = {path: _factor(path, observed) for path in sorted(changed)}
    return Classification(
        "live",
        tuple((path, 1.0 if factor is None else factor) for path, factor in factors.items()),
        computed=any(factor is None for factor in factors.values()),
        unbounded=all(path in pairs[0][0][1].unbounded for path in changed),
    )


def _factor(path: str, observed: Sequence[tuple[Any, Fingerprint]]) -> float | None:
    """Return handle / value if it is the same wherever it was observed, else None."""
    try:
        points = [(float(value), print_.handles[path]) for value, print_ in observed]
    except (TypeError, ValueError):
        return None
    ratios = [handle / value for value, handle in points if value != 0.0]
    zeros = [handle for value, handle in points if value == 0.0]
    if not ratios or any(zeros) or not np.allclose(ratios, ratios[0], rtol=1e-6, atol=0.0):
        return None
    return 1.0 if np.isclose(ratios[0], 1.0, rtol=1e-6) else ratios[0]


def separate(found: dict[str, Classification]) -> dict[str, Classification]:
    """Mark hyperparameters that share a handle: what it becomes depends on all of them."""
    owners: dict[str, list[str]] = {}
    for name, classification in found.items():
        for path, _ in classification.targets:
            owners.setdefault(path, []).append(name)
    shared = {name for names in owners.values() if len(names) > 1 for name in names}
    return {
        name: Classification("live", c.targets, True, c.unbounded) if name in shared else c
        for name, c in found.items()
    }


def _describe_layer(layer: keras.Layer) -> dict[str, Any]:
    config = _config(layer)
    if not config:
        # A subclassed model or layer without a config: its plain attributes say what can be said.
        config = {
            key: value
            for key, value in vars(layer).items()
            if not key.startswith("_") and isinstance(value, bool | int | float | str | tuple)
        }
    return {"class_name": type(layer).__name__, "config": config}


def _loss_name(loss: Any) -> str:
    """Return a name that is the same in every model; a function's `repr` holds its address."""
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__qualname__", type(loss).__name__))


def _config(obj: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(obj.get_config())
        except Exception:
            return {}


def _mask(value: Any, names: Mapping[str, str], class_name: str = "") -> Any:
    """Return a nested config without handles' values and automatic names, comparable by `==`."""
    if isinstance(value, Mapping):
        inner = str(value.get("class_name", "")) if "config" in value else class_name
        live = _LIVE_KEYS.get(class_name, ())
        return [
            (key, _mask(item, names, inner))
            for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))
            if not (key == "name" or (key in live and "config" not in value))
        ]
    if isinstance(value, list | tuple):
        return [_mask(item, names, class_name) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, str):
        return names.get(value, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return getattr(value, "name", None) or type(value).__name__
