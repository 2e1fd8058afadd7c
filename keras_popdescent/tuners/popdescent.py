"""PopDescentTuner: Population Descent in the place of KerasTuner's RandomSearch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_popdescent.arguments import check_whole
from keras_popdescent.population.executor import Executor
from keras_popdescent.strategies.base import Strategy
from keras_popdescent.strategies.popdescent import PopDescent
from keras_popdescent.strategies.space import Values
from keras_popdescent.tuners.arguments import check_oracle
from keras_popdescent.tuners.base import PopulationTuner
from keras_popdescent.tuners.blueprint import UserBinding
from keras_popdescent.tuners.oracle import PopulationOracle


class PopDescentTuner(PopulationTuner):
    """Trains a population of Keras models that inherit weights and mutate hyperparameters live.

    Takes the place of `keras_tuner.RandomSearch`: the same `build_model(hp)`, the same `search`.
    Instead of many models trained from scratch with constant hyperparameters, a few train together:
    after every few batches the weakest are replaced by mutated copies of stronger ones, and the
    learning rate, L2, dropout and the like change while the models train, without a rebuild
    (Population Descent, arXiv 2310.14671, Algorithm 1).

    Args:
        hypermodel: A function `build_model(hp)` that returns a compiled model, or a `HyperModel`.
        objective: A name that the model reports (with `"val_"` in front for the validation data), a
            `keras_tuner.Objective`, or a list of both for a sum. Defaults to `"val_loss"`; a float
            that overridden training returns is the objective, whatever its name. A live
            penalty or label smoothing is left out of the validation loss, so that members can be
            compared.
        max_trials: At most so many members are ever born (a trial is a member, from birth to
            replacement); after that, training goes on without replacement. Defaults to None: no
            limit.
        seed: Seed of everything; None for another one each time. 0 is a seed.
        hyperparameters: As for `RandomSearch`.
        tune_new_entries: As for `RandomSearch`.
        allow_new_entries: As for `RandomSearch`.
        max_retries_per_trial: How often a call of overridden training is tried again. Defaults to
            0. Without overridden training a member is never retried, it is replaced.
        max_consecutive_failed_trials: So many members in a row whose model `build_model` cannot
            build (it raises), or failed calls of overridden training, end the search; fewer cost a
            member its new values each. Defaults to 3. Members that diverge do not count; they are
            replaced.
        population_size: Number of members that train together. Defaults to 5.
        num_elites: Members that stay untouched in each iteration, 0 ... population_size. Defaults
            to three fifths of the population, the paper's 3 of 5.
        batches_per_iteration: Gradient steps of each member between two selections. Defaults to the
            paper's 128, or fewer where the budget would hold fewer than 40 iterations.
        iterations: Number of iterations. Defaults to what `epochs` in `search` holds: each slot
            trains for that many epochs.
        max_gradient_steps: At most so many gradient steps of all members and executions together;
            without `epochs` and `iterations` it is the budget. The closing rounds of
            `PopDescent.reference()` are not counted. Defaults to None: no limit.
        max_time: Seconds after which no iteration begins, for all executions together. Defaults to
            None: no limit. `epochs` (1 by default, as in `fit`) still ends the search.
        strategy: Decides who is replaced by whom. Defaults to `PopDescent()`; see also
            `PopDescent.paper()` and `PopDescent.reference()`.
        executor: What trains the members: `"auto"`, `"sequential"`, `"vectorized"`, or an
            `Executor`. Defaults to `"auto"`: vectorized on JAX with an accelerator, else
            sequential. Overridden training takes its place.
        bindings: Overrules what is found out about a hyperparameter, by name: a kind (`"live"`,
            `"rebuild"`, `"structural"`), the path of a live scalar (`"optimizer.momentum"`; see
            `find_handles`), a `Binding`, or a function that returns one.
        validation_samples: Score members on a random part of the validation data of this size, the
            same for all, drawn anew in each iteration. Defaults to None: as the strategy plans,
            which is all of it for the default.
        implicit_mutation: Where nothing in the search space is live, mutate the learning rate and
            the L2 coefficients that the model has around their own values. Defaults to True.
        initial_hyperparameters: Values for the first members within the search space, a dict for
            each; what one leaves out is drawn. Member 0 otherwise has the defaults.
        checkpoint: Whether the search is saved in the project directory, so that the same call goes
            on in a new process after a crash or a kill, exactly. Defaults to True.
        checkpoint_every: Iterations from one snapshot to the next, at least 1. Defaults to None: as
            often as takes no more than about a twentieth of the time.
        max_disk_mb: Most that the project directory may hold with its snapshots, in megabytes
            (10**6 bytes). Defaults to None: no bound; two snapshots stay, and a third while it is
            written.
        deterministic: Whether the backend is told, when the search begins, to use only operations
            that give the same result twice: for GPUs, where this costs speed; CPUs do so anyway. On
            TensorFlow it holds for the whole process from then on. Defaults to False.
        **kwargs: Arguments of `keras_tuner.Tuner`: `executions_per_trial` (independent populations
            with different seeds; the best is kept), `directory`, `project_name`, `overwrite`,
            `tuner_id`, `optimizer`, `loss`, `metrics`, `max_model_size` (first members with larger
            models are drawn anew), `distribution_strategy` (with one replica).

    Overridden `run_trial`, `_build_and_fit_model` and `HyperModel.fit` are called, once a member
    and iteration, with models that start with the member's weights; `on_epoch_end` and its siblings
    are called as KerasTuner's.

    Raises:
        ArgumentError: For an argument that cannot work.
        ProjectError: If the project holds trials of another tuner, or, with `overwrite=True`, is in
            use by another process.

    Example:
        ```python
        tuner = PopDescentTuner(build_model, objective="val_loss", seed=0)
        tuner.search(x, y, epochs=10, validation_split=0.2)
        model = tuner.get_best_models()[0]
        ```
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = "val_loss",
        max_trials: int | None = None,
        seed: int | None = None,
        hyperparameters: Any = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        population_size: int = 5,
        num_elites: int | None = None,
        batches_per_iteration: int | None = None,
        iterations: int | None = None,
        max_gradient_steps: int | None = None,
        max_time: float | None = None,
        strategy: Strategy | None = None,
        executor: str | Executor = "auto",
        bindings: Mapping[str, UserBinding] | None = None,
        validation_samples: int | None = None,
        implicit_mutation: bool = True,
        initial_hyperparameters: Sequence[Values] = (),
        checkpoint: bool = True,
        checkpoint_every: int | None = None,
        max_disk_mb: float | None = None,
        deterministic: bool = False,
        **kwargs: Any,
    ) -> None:
        check_oracle(locals())
        check_whole("max_consecutive_failed_trials", max_consecutive_failed_trials)
        oracle = PopulationOracle(
            objective=objective,
            max_trials=max_trials,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            # The oracle counts failed trials in a row; here these are diverged members, which are
            # replaced. The loop ends a search in which all diverge.
            max_consecutive_failed_trials=None,
        )
        self.max_consecutive_failed_trials = max_consecutive_failed_trials
        super().__init__(
            oracle,
            hypermodel,
            strategy=PopDescent() if strategy is None else strategy,
            population_size=population_size,
            num_elites=num_elites,
            batches_per_iteration=batches_per_iteration,
            iterations=iterations,
            max_gradient_steps=max_gradient_steps,
            max_time=max_time,
            executor=executor,
            bindings=bindings,
            validation_samples=validation_samples,
            implicit_mutation=implicit_mutation,
            initial_hyperparameters=initial_hyperparameters,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            max_disk_mb=max_disk_mb,
            deterministic=deterministic,
            **kwargs,
        )
