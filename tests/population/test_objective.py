from __future__ import annotations

import keras
import pytest

from keras_popdescent.errors import ObjectiveError
from keras_popdescent.population import Objective
from keras_popdescent.population.objective import infer_direction, objective_of


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_accuracy", "max"),
        ("acc", "max"),
        ("val_sparse_top_k_categorical_accuracy", "max"),
        ("val_auc", "max"),
        ("val_auc_1", "max"),
        ("f1_score", "max"),
        ("val_r2_score", "max"),
        ("val_mean_io_u", "max"),
        ("cosine_similarity", "max"),
        ("val_true_positives", "max"),
        ("false_positives", "min"),
        ("val_mean_squared_error", "min"),
        ("val_mae", "min"),
        ("sparse_categorical_crossentropy", "min"),
        ("kl_divergence", "min"),
        ("val_LOSS", "min"),
        # The last word decides: what stands before it may be the name of an output.
        ("val_acceleration_loss", "min"),
        ("val_acceleration_mae", "min"),
        ("val_dice_loss", "min"),
        ("cosine_similarity_loss", "min"),
        ("val_loss_class_accuracy", "max"),
        ("error_code_precision", "max"),
    ],
)
def test_infer_direction(name, direction):
    assert infer_direction(name) == direction
    assert objective_of(name) == Objective(name, direction)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (keras.metrics.CategoricalAccuracy, "max"),
        (keras.metrics.AUC, "max"),
        (keras.metrics.Precision, "max"),
        (keras.metrics.Recall, "max"),
        (keras.metrics.R2Score, "max"),
        (keras.metrics.F1Score, "max"),
        (keras.metrics.FBetaScore, "max"),
        (keras.metrics.CosineSimilarity, "max"),
        (keras.metrics.BinaryIoU, "max"),
        (keras.metrics.MeanSquaredError, "min"),
        (keras.metrics.RootMeanSquaredError, "min"),
        (keras.metrics.MeanAbsolutePercentageError, "min"),
        (keras.metrics.MeanSquaredLogarithmicError, "min"),
        (keras.metrics.BinaryCrossentropy, "min"),
        (keras.metrics.KLDivergence, "min"),
        (keras.metrics.CategoricalHinge, "min"),
        (keras.metrics.Poisson, "min"),
        (keras.metrics.FalseNegatives, "min"),
    ],
)
def test_the_names_that_keras_gives_its_metrics(metric, direction):
    assert infer_direction(f"val_{metric().name}") == direction


@pytest.mark.parametrize("name", ["val_score", "reward", "val_"])
def test_a_name_that_says_nothing(name):
    with pytest.raises(ObjectiveError, match=rf'Pass it as \("{name}", "min"\) or'):
        infer_direction(name)


def test_objectives_in_other_forms():
    assert objective_of(("val_reward", "max")) == Objective("val_reward", "max")
    given = Objective("val_reward", "max")
    assert objective_of(given) is given


def test_a_direction_that_is_none():
    with pytest.raises(ObjectiveError, match=r"'min' or 'max'.*direction='up'"):
        objective_of(("val_reward", "up"))


@pytest.mark.parametrize(
    ("objective", "names", "needs"),
    [
        (Objective("loss", "min"), ["loss"], False),
        (Objective("val_loss", "min"), ["val_loss"], True),
        (Objective("sum", "min", (("loss", "min"), ("val_acc", "max"))), ["loss", "val_acc"], True),
    ],
)
def test_what_is_needed(objective, names, needs):
    assert objective.names == names
    assert objective.needs_validation is needs


def test_score():
    logs = {"loss": 0.5, "val_loss": 0.75, "val_acc": 0.25}
    assert Objective("val_loss", "min").score(logs) == 0.75
    terms = (("val_loss", "min"), ("loss", "min"), ("val_acc", "max"))
    assert Objective("sum", "min", terms).score(logs) == 0.75 + 0.5 - 0.25


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Objective("val_loss", "min"), r"It reports: acc, loss\. Received: objective='val_loss'"),
        (Objective("sum", "min", (("loss", "min"), ("a", "min"))), r"objective='a'"),
        (Objective("sum", "min", (("a", "min"), ("b", "max"))), r"objective=\['a', 'b'\]"),
    ],
)
def test_an_objective_that_is_not_reported(objective, message):
    with pytest.raises(ObjectiveError, match=message):
        objective.score({"loss": 0.5, "acc": 0.1})


@pytest.mark.parametrize(
    ("direction", "first", "second", "better"),
    [
        ("min", 1.0, 2.0, True), ("min", 2.0, 1.0, False), ("min", 1.0, 1.0, False),
        ("max", 2.0, 1.0, True), ("max", 1.0, 2.0, False), ("max", 1.0, 1.0, False),
        ("min", float("nan"), 1.0, False), ("max", float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_better(direction, first, second, better):
    assert Objective("x", direction).better(first, second) is better
