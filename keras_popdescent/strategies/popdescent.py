"""Population Descent.

Source: Abhinav Pomalapally, Bassel Mabsout, Renato Mancuso, "Population Descent: A
Natural-Selection Based Hyper-Parameter Tuning Framework", 2023, arXiv 2310.14671v1, Algorithms 1
and 2, and the authors' TensorFlow 2 code.

Deviations from the paper, in every preset:
- Nobody is replaced after the last iteration: the child could not be trained or scored any more.
- A member with a non-finite score has fitness 0, is never a parent and is replaced, even where that
  means more than `population_size - num_elites` replacements.
- Fitness is defined for any objective, not only for losses (`operators/fitness.py`).

Deviations of `reference()` from the authors' code are in `docs/presets.md`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import numpy as np

from keras_popdescent.arguments import check_flag, check_number, check_one_of, check_type
from keras_popdescent.operators.noise import NoiseKind, NoiseSpec
from keras_popdescent.operators.selection import choose_parents, weakest
from keras_popdescent.strategies.base import (
    Offspring,
    OptimizerState,
    PopulationView,
    Regularization,
    Strategy,
)
from keras_popdescent.strategies.mutations import (
    LogNormalMutation,
    Mutation,
    ReferenceMutation,
    UnitMutation,
)
from keras_popdescent.strategies.plans import (
    Annealing,
    Averaging,
    ClosingPlan,
    Focus,
    ScoringPlan,
    TrainingPlan,
    check_plans,
)
from keras_popdescent.strategies.space import SearchSpace, Values

# What served best (docs/presets.md).
DEFAULT_WIDTH = 0.5
DEFAULT_LEAST = 0.2
FOCUS = Focus(begin=0.5, patience=3)
AVERAGING = Averaging(momentum=0.8)


class PopDescent(Strategy):
    """Replace the weakest members by mutated copies of fitness-weighted parents (Algorithm 1).

    After every iteration: with fitness f in (0, 1] (`2 / (2 + loss)` for a loss),

    1. the `population_size - num_elites` weakest members are replaced;
    2. each by a copy of a parent drawn with replacement among all members, with probability
       f / sum(f);
    3. mutated with strength `1 - f(parent)`: hyperparameters by `mutation`, weights by Gaussian
       noise of standard deviation `noise_scale * strength`;
    4. with an optimizer as `optimizer_state` says.

    Learning rates are multiplied with the factor of `annealing`, the same for all members.

    The constructor's defaults are the preset for users; `paper()` is Algorithms 1 and 2 as printed;
    `reference()` is what the authors' code does, for meeting the published numbers.

    Args:
        mutation: How hyperparameters move. Defaults to `UnitMutation(0.5, least=0.2)`: in
            KerasTuner's unit space, bounded, and not less where losses are small.
        noise_scale: Standard deviation of the weight noise at strength 1, at least 0; the paper's
            beta_1. Defaults to 0: noise gave no gain (docs/presets.md).
        noise_kind: What `noise_scale` is measured in, see `NoiseSpec`. Defaults to `"relative"`:
            the spread of each tensor.
        optimizer_state: What a child's optimizer starts with, see `Offspring`. Defaults to
            `"inherit"`: the parent's slots. After a `"restart"` Adam's steps are larger for a while
            (up to 2.9 times where the line has 200 steps behind it, 6.6 times where it has many).
        training: Which batches members train on. Defaults to a shuffled stream for each slot.
        scoring: Which validation data scores members. Defaults to all of it.
        closing: Training after the last iteration. Defaults to none.
        annealing: The factor on all members' learning rates; None for none (the default). It was
            tried in several forms and gave no gain that could be told from noise (docs/presets.md).
        focus: The phase in which a copy of the best model trains alone, with the steps of all, for
            as long as it gets better; None for none. Defaults to `Focus(begin=0.5, patience=3)`:
            members with a part of the steps each are not trained out.
        averaging: The moving average of weights that members are scored, kept and exported with;
            None for none. Defaults to `Averaging(momentum=0.8)`: selection by the weights as they
            are favours low rates too early.
        keep_best: Whether the result is the best member ever seen on validation (True, the default)
            or the fittest at the end.
        regularization: For `reference()`: which L2 terms the multiplier r applies to, `"first"`
            (the others are dropped), `"all"`, or `"unused"` (all terms, without r).

    Raises:
        ArgumentError: For an argument that cannot work.

    Example:
        >>> import numpy as np
        >>> from keras_popdescent import PopDescent, PopulationView, SearchSpace, LogDimension
        >>> space = SearchSpace([LogDimension("learning_rate", 1e-4, 1e-1, default=1e-3)])
        >>> view = PopulationView(
        ...     scores=np.array([0.5, 2.0, 1.0]),
        ...     values=[{"learning_rate": 1e-3}] * 3,
        ...     iteration=1, num_iterations=10, num_elites=2, space=space,
        ... )
        >>> [child.slot for child in PopDescent().evolve(view, np.random.default_rng(0))]
        [1]
    """

    def __init__(
        self,
        mutation: Mutation | None = None,
        *,
        noise_scale: float = 0.0,
        noise_kind: NoiseKind = "relative",
        optimizer_state: OptimizerState = "inherit",
        training: TrainingPlan | None = None,
        scoring: ScoringPlan | None = None,
        closing: ClosingPlan | None = None,
        annealing: Annealing | None = None,
        focus: Focus | None = FOCUS,
        averaging: Averaging | None = AVERAGING,
        keep_best: bool = True,
        regularization: Regularization = "first",
    ) -> None:
        check_type("mutation", mutation, Mutation, "a `Mutation` such as `UnitMutation()`")
        check_number("noise_scale", noise_scale, 0.0, none=False)
        check_one_of("noise_kind", noise_kind, get_args(NoiseKind))
        check_one_of("optimizer_state", optimizer_state, get_args(OptimizerState))
        check_plans(training, scoring, closing)
        check_type("annealing", annealing, Annealing, "an `Annealing`, or None for none")
        check_type("focus", focus, Focus, "a `Focus`, or None for none")
        check_type("averaging", averaging, Averaging, "an `Averaging`, or None for none")
        check_flag("keep_best", keep_best)
        check_one_of("regularization", regularization, get_args(Regularization))
        self.mutation = UnitMutation(DEFAULT_WIDTH, DEFAULT_LEAST) if mutation is None else mutation
        self.noise_scale = noise_scale
        self.noise_kind = noise_kind
        self.optimizer_state = optimizer_state
        self.training = TrainingPlan() if training is None else training
        self.scoring = ScoringPlan() if scoring is None else scoring
        self.closing = ClosingPlan() if closing is None else closing
        self.annealing = annealing
        self.focus = focus
        self.averaging = averaging
        self.keep_best = keep_best
        self.regularization: Regularization = regularization
        if isinstance(self.mutation, ReferenceMutation):
            self.multipliers = ("loss_scale", "l2_scale")
            self.implicit = False

    @classmethod
    def paper(
        cls, *, beta_1: float = 0.01, beta_2: float | None = None, num_samples: int | None = None
    ) -> PopDescent:
        """Return Algorithms 1 and 2 as printed.

        Args:
            beta_1: Standard deviation of the weight noise at strength 1, at least 0. Defaults to
                0.01.
            beta_2: Standard deviation of the log-normal factor at strength 1, in decades, at least
                0. The paper prints no number; defaults to the 15 octaves of the authors' code.
            num_samples: Size of the validation sample common to all members, at least 1. Defaults
                to None: 1,600, or all where there are fewer.

        Raises:
            ArgumentError: For an argument that cannot work.
        """
        check_number("beta_1", beta_1, 0.0, none=False)
        return cls(
            LogNormalMutation() if beta_2 is None else LogNormalMutation(beta_2),
            noise_scale=beta_1,
            noise_kind="gaussian",
            training=TrainingPlan(batches="common"),
            scoring=ScoringPlan(sample="common", num_samples=num_samples),
            focus=None,
            averaging=None,
            keep_best=False,
        )

    @classmethod
    def reference(
        cls,
        *,
        passes: int = 1,
        num_samples: int = 640,
        fine_tuning: ClosingPlan | None = None,
        regularization: Regularization = "first",
        noise_kind: NoiseKind = "scalar",
        optimizer_state: OptimizerState = "fresh_slots",
        input_factor: float = 15.0,
    ) -> PopDescent:
        """Return what the authors' code does; every deviation of theirs from the paper is a switch.

        The model is to be compiled with Adam at the learning rate 0.001, which stays fixed.

        Args:
            passes: Passes over an iteration's batches, the authors' "epochs" (2 for CIFAR-10), at
                least 1. Defaults to 1.
            num_samples: Validation samples that score a member, its own draw each iteration, at
                least 1. Defaults to 640.
            fine_tuning: Training after the last iteration. Defaults to none; Fashion-MNIST:
                `ClosingPlan(rounds=5, batches=64, batch_size=128)`; CIFAR-10:
                `ClosingPlan(rounds=3, batches=256, batch_size=64)`.
            regularization: Which L2 terms the multiplier r applies to: `"first"` (the default) as
                for CIFAR-10, `"unused"` as in the released Fashion-MNIST scripts, or `"all"`.
            noise_kind: `"scalar"` (the default): one number for all weights, as coded;
                `"gaussian"`: as printed; or another of `NoiseSpec`.
            optimizer_state: `"fresh_slots"` (the default): empty Adam slots under a step counter
                shared with the parent, as coded; or another of `Offspring`.
            input_factor: Standard deviation of the multipliers' mutation at strength 1, in octaves,
                at least 0. Defaults to 15.

        Raises:
            ArgumentError: For an argument that cannot work.
        """
        check_type("fine_tuning", fine_tuning, ClosingPlan, "a `ClosingPlan`")
        return cls(
            ReferenceMutation(input_factor),
            noise_scale=0.01,
            noise_kind=noise_kind,
            optimizer_state=optimizer_state,
            training=TrainingPlan(batches="subset", passes=passes),
            scoring=ScoringPlan(sample="own", num_samples=num_samples),
            closing=fine_tuning,
            focus=None,
            averaging=None,
            keep_best=False,
            regularization=regularization,
        )

    def _start(self, size: int, space: SearchSpace, rng: np.random.Generator) -> list[Values]:
        return self.mutation.start(size, space, rng) or super()._start(size, space, rng)

    def _evolve(self, view: PopulationView, rng: np.random.Generator) -> list[Offspring]:
        replaced = weakest(view.costs, view.num_replaced)
        parents = choose_parents(view.fitness, len(replaced), rng)
        return [
            self._child(view, slot, parent, rng)
            for slot, parent in zip(replaced, parents, strict=True)
        ]

    def _child(
        self, view: PopulationView, slot: int, parent: int, rng: np.random.Generator
    ) -> Offspring:
        strength = 1.0 - float(view.fitness[parent])
        return Offspring(
            slot=slot,
            parents=(parent,),
            values=self.mutation.mutate(view.values[parent], strength, view.space, rng),
            weight_noise=NoiseSpec(
                self.noise_kind, self.noise_scale * strength, int(rng.integers(2**31))
            ),
            optimizer_state=self.optimizer_state,
            strength=strength,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mutation": {"class": type(self.mutation).__name__, **vars(self.mutation)},
            "noise_scale": self.noise_scale,
            "noise_kind": self.noise_kind,
            "optimizer_state": self.optimizer_state,
            "training": asdict(self.training),
            "scoring": asdict(self.scoring),
            "closing": asdict(self.closing),
            "annealing": None if self.annealing is None else asdict(self.annealing),
            "focus": None if self.focus is None else asdict(self.focus),
            "averaging": None if self.averaging is None else asdict(self.averaging),
            "keep_best": self.keep_best,
            "regularization": self.regularization,
        }
