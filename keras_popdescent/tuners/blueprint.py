"""A blueprint from a KerasTuner hypermodel: kinds and bindings are found out by building."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping

import keras
import keras_tuner

from keras_popdescent.data.batch import Batch
from keras_popdescent.errors import ArgumentError, BindingError, describe
from keras_popdescent.hyperparameters import (
    BATCH_SIZE,
    Binding,
    Classification,
    HandleBinding,
    classify,
    find_handles,
)
from keras_popdescent.hyperparameters.binding import PenaltyBinding
from keras_popdescent.hyperparameters.classify import (
    acting_contexts,
    fingerprint,
    fingerprint_or_none,
    separate,
    single_targets,
)
from keras_popdescent.hyperparameters.handle import Handle
from keras_popdescent.hyperparameters.space import (
    TunerDimension,
    fixed_values,
    probe_plan,
    search_space,
    tunable,
)
from keras_popdescent.population.blueprint import (
    L2,
    L2_MULTIPLIER,
    Blueprint,
    Targets,
    checked,
    multiplier_bindings,
    own_targets,
    set_plain,
)
from keras_popdescent.population.export import call_on
from keras_popdescent.population.seeding import borrowed_globals
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.space import KINDS, SearchSpace, Value, Values

# What a user may bind a hyperparameter to: a kind, the path of a handle, or a binding's maker.
UserBinding = str | Binding | Callable[[], Binding]


class TunerBlueprint(Blueprint):
    """Builds models with a hypermodel's `build(hp)`.

    Args:
        build: Returns a compiled model for a `HyperParameters` object that has values.
        hyperparameters: The search space, with every hyperparameter registered.
        strategy: Its multipliers are bound too.
        overrides: The user's own bindings by hyperparameter: a kind (`"rebuild"`), the path of a
            handle (`"optimizer.momentum"`), a `Binding`, or a function that returns one.
        implicit_mutation: Whether the model's own learning rate and L2 are mutated where nothing
            in the search space is live.
        batch: A batch of training data, for models whose weights appear with the first batch.
        contexts: Values under which some hyperparameters are declared, see `explore`.

    Raises:
        ArgumentError: If a hyperparameter's name begins with `popdescent/`, or an override names
            none, or no kind or live scalar.
        BindingError: If one that is said to be live controls nothing in the model.
        ModelError: If something else than a compiled model is built.
    """

    def __init__(
        self,
        build: Callable[[keras_tuner.HyperParameters], keras.Model],
        hyperparameters: keras_tuner.HyperParameters,
        strategy: Strategy,
        overrides: Mapping[str, UserBinding] | None = None,
        implicit_mutation: bool = True,
        batch: Batch | None = None,
        contexts: Mapping[str, Values] | None = None,
    ) -> None:
        self._build = build
        self._contexts = dict(contexts or {})
        self._hyperparameters = hyperparameters
        self._batch = batch
        self._strategy = strategy
        self._overrides = dict(overrides or {})
        self._fixed = fixed_values(hyperparameters)
        dimensions = tunable(hyperparameters)
        for name in (dimension.name for dimension in dimensions):
            if "popdescent/" in name:
                raise ArgumentError(
                    describe(
                        f"The name of `{name}` is taken.",
                        "Names of hyperparameters do not begin with `popdescent/`: those of the "
                        "model's own values do.",
                    )
                )
        self._check_overrides(dimensions)
        base: Values = {**self._fixed, **{d.name: d.default for d in dimensions}}
        self.kinds = self._classify(dimensions, base)
        if strategy.multipliers:
            # Multipliers act on what a model was built with: another value is another model.
            self.kinds = {
                name: Classification("rebuild") if found.kind == "live" and found.targets else found
                for name, found in self.kinds.items()
            }
        self._implicit: Targets = {}
        space = search_space(dimensions, self.kinds)
        live = [name for name in space.names("live") if name != BATCH_SIZE]
        if implicit_mutation and strategy.implicit and not live:
            self._implicit = own_targets(self._probe(base), self._not_fixed(base))
        self.space = SearchSpace([*space, *(dimension for dimension, _ in self._implicit.values())])
        # structure -> targets of its live hyperparameters
        self._targets: dict[Hashable, dict[str, Classification]] = {
            super().structure_key(self.space.defaults()): self._in_default_structure()
        }

    def _not_fixed(self, base: Values) -> tuple[str, ...]:
        """Return which of a model's own values may be mutated: none that the user has fixed.

        A value that `hp.Fixed` sets is not to be tuned.
        """
        before = fingerprint(self._probe(base)).handles
        fixed: set[str] = set()
        for name, value in self._fixed.items():
            if isinstance(value, float) and value:
                moved = fingerprint_or_none(self._probe, {**base, name: 0.5 * value})
                after = before if moved is None else moved.handles
                fixed |= {path for path, own in before.items() if after.get(path) != own}
        rate = any(path.startswith("optimizer.learning_rate") for path in fixed)
        penalty = any(path.endswith((".l1", ".l2")) for path in fixed)
        return (*([] if rate else ["learning_rate"]), *([] if penalty else ["l2"]))

    def _in_default_structure(self) -> dict[str, Classification]:
        """Return what is live with the default values: nothing that they leave out of the model."""
        defaults = self.space.defaults()
        everything = {**self._fixed, **defaults}
        absent = [
            name
            for name in self.kinds
            if name in self._contexts or not self.space[name].is_active(everything)
        ]
        return {
            name: Classification("live") if found.kind == "live" and name in absent else found
            for name, found in self.kinds.items()
        }

    @property
    def implicit_names(self) -> list[str]:
        """Names of the model's own values that are mutated although nobody declared them."""
        return list(self._implicit)

    @property
    def compiled_anew(self) -> list[str]:
        """Names of numbers that are rebuild: every new value is a model that is traced anew."""
        return [
            dimension.name
            for dimension in self.space
            if dimension.kind == "rebuild"
            and isinstance(dimension.default, float)
            and dimension.choices is None
        ]

    def build(self, values: Values) -> keras.Model:
        model = self._build_plain(values)
        handles = find_handles(model)
        own: dict[str, float] = {}
        for name in self._implicit:
            if name in values:
                scale = float(values[name]) / _own_value(name, handles, 1.0)
                own.update({p: handles[p].static * scale for p in _implicit_paths(name, handles)})
        for name, override in self._overrides.items():
            if isinstance(override, str) and override in handles:
                own[override] = float(values[name])
        set_plain(model, own)
        return model

    def structure_key(self, values: Values) -> Hashable:
        key = super().structure_key(values)
        # Live by default, but not in this structure: there, another value is another model.
        apart = [
            (name, values[name])
            for name, found in self._targets_for(values).items()
            if self.kinds[name].kind == "live" and found.kind == "rebuild"
        ]
        return (key, *apart) if apart else key

    def bindings(self, values: Values) -> dict[str, Binding]:
        bound = self._implicit_bindings(values)
        for name, found in self._targets_for(values).items():
            if found.kind == "live" and found.targets and not found.computed:
                bound[name] = HandleBinding(name, found.targets)
        for name, override in self._overrides.items():
            own = _own_binding(name, override)
            if own is not None:
                bound[name] = own
        strategy = self._strategy
        return {**bound, **multiplier_bindings(strategy.multipliers, strategy.regularization)}

    def computed_paths(self, values: Values) -> list[str]:
        paths = {
            path: None
            for found in self._targets_for(values).values()
            if found.kind == "live" and found.computed
            for path, _ in found.targets
        }
        return list(paths)

    def computed_values(self, values: Values) -> dict[str, float]:
        return dict(fingerprint(self._probe(values)).handles)

    def complete(self, values: Values) -> Values:
        """Fill in the implicit values: those that the model of these values has by itself."""
        if not self._implicit:
            return values
        handles = find_handles(
            self._probe({n: v for n, v in values.items() if n not in self._implicit})
        )
        own = {
            name: _own_value(name, handles, dimension.default)
            for name, (dimension, _) in self._implicit.items()
        }
        return {**values, **own}

    def _build_plain(self, values: Values) -> keras.Model:
        hp = self._hyperparameters.copy()
        hp.values = {
            **self._fixed,
            **{name: value for name, value in values.items() if "popdescent/" not in name},
        }
        return self._build(hp)

    def _probe(self, values: Values) -> keras.Model:
        """Build a model only to look at it."""
        with borrowed_globals(0):
            model = checked(self._build_plain(values))
        if not model.built and self._batch is not None:
            call_on(model, self._batch)
        return model

    def _classify(
        self, dimensions: list[TunerDimension], base: Values
    ) -> dict[str, Classification]:
        plan = probe_plan(dimensions, base, self._contexts)
        found = classify(self._probe, plan, base)
        # What the defaults leave out of the model is looked at where it acts.
        contexts = acting_contexts(self._probe, plan, base, found)
        if contexts:
            self._contexts.update(contexts)
            plan = probe_plan(dimensions, base, self._contexts)
            again = classify(self._probe, {name: plan[name] for name in contexts}, base)
            found = separate({**found, **again})
        for name, override in self._overrides.items():
            if isinstance(override, str) and override in KINDS:
                if override == "live" and not found[name].targets and name != BATCH_SIZE:
                    raise BindingError(
                        describe(
                            f"`{name}` is declared live, but nothing in the model that could be "
                            "live follows it.",
                            "Bind it to what it controls: the path of a handle, or a `Binding`.",
                            handles=list(find_handles(self._probe(base))),
                        )
                    )
                found[name] = Classification(
                    override, found[name].targets, found[name].computed, found[name].unbounded
                )
            elif isinstance(override, str):
                found[name] = Classification("live", ((override, 1.0),))
            else:
                found[name] = Classification("live")
        return found

    def _check_overrides(self, dimensions: list[TunerDimension]) -> None:
        names = [dimension.name for dimension in dimensions]
        for name in self._overrides:
            if name not in names:
                raise ArgumentError(
                    describe(
                        "`bindings` names a hyperparameter that is not in the search space.",
                        f"It has: {', '.join(names) or 'none'}.",
                        bindings=name,
                    )
                )

    def _targets_for(self, values: Values) -> dict[str, Classification]:
        """Return the live targets in the model of these values: other layers, other targets."""
        key = super().structure_key(values)
        if key not in self._targets:
            before = fingerprint(self._probe(values))
            again: dict[str, Classification] = {}
            for name, found in self.kinds.items():
                if found.kind == "live" and found.targets and name not in self._overrides:
                    probes = self.space[name].probes_beside(values[name])
                    moved = [
                        ({**values, name: value}, fingerprint(self._probe({**values, name: value})))
                        for value in probes
                    ]
                    again[name] = single_targets(name, (dict(values), before), moved)
                    _refuse_structural(name, again[name], values)
                else:
                    again[name] = found
            self._targets[key] = separate(again)
        return self._targets[key]

    def _implicit_bindings(self, values: Values) -> dict[str, Binding]:
        bound: dict[str, Binding] = {}
        for name, (dimension, targets) in self._implicit.items():
            if name in (L2, L2_MULTIPLIER):
                # The model is built for these values: its coefficients are its own under them.
                bound[name] = PenaltyBinding(float(values.get(name, dimension.default)))
            else:
                bound[name] = HandleBinding(name, targets)
        return bound


def _implicit_paths(name: str, handles: Mapping[str, Handle]) -> list[str]:
    """Return the paths of what an implicit hyperparameter moves in a model."""
    if name in (L2, L2_MULTIPLIER):
        return [p for p, h in handles.items() if p.endswith((".l1", ".l2")) and h.static > 0.0]
    path = name.replace("popdescent/", "optimizer.")
    return [path] if path in handles else []


def _own_value(name: str, handles: Mapping[str, Handle], otherwise: Value) -> float:
    """Return the value of an implicit hyperparameter at which a plain model is as it was built."""
    paths = _implicit_paths(name, handles)
    if name == L2_MULTIPLIER or not paths:
        return float(otherwise) if not paths else 1.0
    return handles[paths[0]].static


def _refuse_structural(name: str, found: Classification, values: Values) -> None:
    if found.kind == "structural":
        raise BindingError(
            describe(
                f"`{name}` is live by default, but decides shapes of weights beside other values.",
                fix=f'Declare it with `bindings={{"{name}": "structural"}}`.',
                values=dict(values),
            )
        )


def _own_binding(name: str, override: UserBinding) -> Binding | None:
    if isinstance(override, Binding):
        # Each model has one of its own; the given one is never attached.
        return copy.deepcopy(override)
    if isinstance(override, str):
        return None if override in KINDS else HandleBinding(name, ((override, 1.0),))
    return override()


def kind_table(
    space: SearchSpace, kinds: Mapping[str, Classification]
) -> list[tuple[str, str, str]]:
    """Return (name, kind, what it controls) for each hyperparameter, for a summary."""
    rows: list[tuple[str, str, str]] = []
    for dimension in space:
        found = kinds.get(dimension.name)
        if found is None:
            rows.append((dimension.name, "live", "implicit: the model's own value"))
        elif dimension.name == BATCH_SIZE and found.kind == "live":
            rows.append((dimension.name, "live", "the data stream"))
        else:
            rows.append((dimension.name, found.kind, ", ".join(path for path, _ in found.targets)))
    return rows
