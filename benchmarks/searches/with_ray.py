"""Ray Tune's Population Based Training: members in their own processes, rebuilt when they change.

Ray is started by the first search (in the benchmark by one that is not timed); its processes
import Keras within each search.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator

from benchmarks.searches.task import METRIC, OBJECTIVE, CountSteps, Found, Range, Task

FILE = "state.npz"


class Member(tune.Trainable):
    """A model that trains for one epoch between two decisions."""

    def setup(self, config: dict[str, Any], task: Task, seed: int) -> None:
        """Build the model."""
        self._task = task
        keras.utils.set_random_seed(seed)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Build the model anew, with other values."""
        keras.backend.clear_session()
        self._model = self._task.build(new_config)
        self._model.optimizer.build(self._model.trainable_variables)
        self._values = dict(new_config)
        return True

    def step(self) -> dict[str, float]:
        """Train for an epoch."""
        counter = CountSteps()
        history = self._model.fit(epochs=1, callbacks=[counter], **self._task.fit_arguments())
        return {METRIC: history.history[OBJECTIVE][-1], "gradient_steps": counter.steps}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write weights and the optimizer's state."""
        np.savez(Path(checkpoint_dir) / FILE, *(np.asarray(v) for v in self._variables()))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Take them over; the learning rate stays this member's own."""
        read(checkpoint, self._variables())
        self._model.optimizer.learning_rate = self._values["learning_rate"]

    def _variables(self) -> list[keras.Variable]:
        return [*self._model.weights, *self._model.optimizer.variables]


def search(task: Task, seed: int, folder: Path) -> Found:
    """Train as many members as the budget holds, as many at a time as there are cores."""
    # Ray's newer display prints a box whatever `verbose` says.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    space = {name: domain(limits) for name, limits in task.space.items()}
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=max(task.epochs // 20, 1),
        # As many are replaced as PopDescentTuner replaces.
        quantile_fraction=0.4,
        hyperparam_mutations=space,
    )
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Member, task=task, seed=seed), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=task.models,
            search_alg=BasicVariantGenerator(random_state=seed),
            scheduler=scheduler,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder.resolve()),
            stop={"training_iteration": task.epochs},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )
    results = tuner.fit()
    best = results.get_best_result(METRIC, "min", scope="all")
    steps = sum(int(result.metrics_dataframe["gradient_steps"].sum()) for result in results)
    model = task.build(best.config)
    with best.get_best_checkpoint(METRIC, "min").as_directory() as checkpoint:
        read(checkpoint, model.weights)
    return Found(model, steps)


def domain(limits: Range) -> Any:
    """Return Ray's word for a range."""
    return (tune.loguniform if limits.log else tune.uniform)(limits.low, limits.high)


def read(checkpoint: str, variables: list[keras.Variable]) -> None:
    """Assign the first arrays of a checkpoint."""
    with np.load(Path(checkpoint) / FILE) as arrays:
        for variable, name in zip(variables, arrays.files, strict=False):
            variable.assign(arrays[name])
