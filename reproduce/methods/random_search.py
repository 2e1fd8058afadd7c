"""KerasTuner's RandomSearch itself, as the authors called it.

25 trials of two executions of one epoch each; then a new model with the best values is trained for
up to 20 epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from reproduce.data import Split
from reproduce.evaluation import cross_entropy_metric, fair, measure, minima


@dataclass(frozen=True)
class Settings:
    """How the search runs.

    Attributes:
        fair: Whether trials are chosen, and the last training is stopped, by cross-entropy on
            validation, with its best weights; as published by accuracy, and by the loss with its
            penalty, with the last weights.
        max_trials: Trials.
        executions: Executions of a trial.
        last_epochs: Epochs of the last training, at most.
        patience: Epochs without progress after which it stops.
        batch_size: Images a batch.
        learning_rates: Lowest and highest of Adam's learning rates, drawn on a logarithmic scale.
        l2: Lowest and highest L2 coefficient, drawn uniformly, as published; None for none.
        dropout: Dropout of Fashion-MNIST's network; None for none.
        third_padding: Padding of the third convolution of CIFAR-10's network.
    """

    fair: bool = False
    max_trials: int = 25
    executions: int = 2
    last_epochs: int = 20
    patience: int = 2
    batch_size: int = 64
    learning_rates: tuple[float, float] = (1e-4, 1e-2)
    l2: tuple[float, float] | None = None
    dropout: float | None = None
    third_padding: str | None = None

    def smoke(self) -> Settings:
        """Return settings that run through everything in seconds."""
        return replace(self, max_trials=2, last_epochs=2)


class Progress(keras.callbacks.Callback):
    """A bar with the time left, over all epochs of all trainings.

    Args:
        epochs: How many there will be.
        done: How many an earlier start has done.
    """

    def __init__(self, epochs: int, done: int = 0) -> None:
        super().__init__()
        self._done = done
        self._bar = keras.utils.Progbar(epochs, unit_name="epoch")

    def __deepcopy__(self, memo: dict[int, Any]) -> Progress:
        # KerasTuner copies callbacks for every execution; there is one bar.
        return self

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Move on."""
        self._done += 1
        self._bar.update(self._done)


def run(
    settings: Settings,
    split: Split,
    build: Callable[..., keras.Model],
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Search, train the chosen model, and measure it.

    Args:
        settings: The experiment's settings.
        split: The data.
        build: Returns the network compiled with `optimizer`, `l2` and `metrics`.
        seed: Seed of everything.
        folder: KerasTuner's project folder, from which an interrupted run goes on.
    """
    keras.utils.set_random_seed(seed)

    def hypermodel(hp: keras_tuner.HyperParameters) -> keras.Model:
        rate = hp.Float("learning_rate", *settings.learning_rates, sampling="log")
        l2 = None if settings.l2 is None else hp.Float("l2", *settings.l2)
        return build(keras.optimizers.Adam(rate), l2=l2, metrics=[cross_entropy_metric()])

    watched = "val_cross_entropy" if settings.fair else "val_loss"
    objective = keras_tuner.Objective("val_cross_entropy", "min")
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        objective=objective if settings.fair else "val_accuracy",
        max_trials=settings.max_trials,
        executions_per_trial=settings.executions,
        seed=seed,
        directory=folder,
        project_name="search",
    )
    validation = (split.x_val, split.y_val)
    executions = settings.max_trials * settings.executions
    before = len(tuner.oracle.get_best_trials(settings.max_trials)) * settings.executions
    progress = Progress(executions + settings.last_epochs, before)
    tuner.search(
        split.x_train,
        split.y_train,
        validation_data=validation,
        batch_size=settings.batch_size,
        epochs=1,
        callbacks=[progress],
        verbose=0,
    )
    best = tuner.get_best_hyperparameters(1)[0]
    keras.utils.set_random_seed(seed)
    model = hypermodel(best)
    stopping = keras.callbacks.EarlyStopping(
        monitor=watched,
        mode="min",
        patience=settings.patience,
        restore_best_weights=settings.fair,
    )
    fitted = model.fit(
        split.x_train,
        split.y_train,
        validation_data=validation,
        batch_size=settings.batch_size,
        epochs=settings.last_epochs,
        callbacks=[stopping, progress],
        verbose=0,
    )
    steps_per_epoch = -(-len(split.x_train) // settings.batch_size)
    searched = executions * steps_per_epoch
    last = [float(loss) for loss in fitted.history["val_loss"]]
    measured = measure(model, split)
    return {
        "seed": seed,
        "counted_steps": searched,
        "all_steps": searched + len(last) * steps_per_epoch,
        "as_published": minima([measured]),
        "fair": fair([measured]),
        "members": [{**best.values, **measured}],
        "curve": [[searched + epoch * steps_per_epoch, loss] for epoch, loss in enumerate(last, 1)],
        "setting": asdict(settings),
    }
