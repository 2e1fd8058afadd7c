"""The hyperparameters' picture: what it computes, by hand, and what it draws."""

from __future__ import annotations

import dataclasses

import pytest
from numpy.testing import assert_allclose

from keras_popdescent.errors import ArgumentError
from keras_popdescent.history import BirthRecord, History, IterationRecord, MemberRecord
from keras_popdescent.plots import hyperparameter_paths_data, plot_hyperparameter_path
from keras_popdescent.plots.hyperparameters import varying_numbers
from keras_popdescent.plots.lives import read_lives

LEARNING_RATE = "popdescent/learning_rate"


def one_iteration(*values: dict) -> History:
    """A history of one iteration without replacements."""
    history = History()
    births = tuple(BirthRecord(slot, slot, (), value) for slot, value in enumerate(values))
    members = tuple(
        MemberRecord(slot, slot, value, 1.0 + slot, 0.5, 10) for slot, value in enumerate(values)
    )
    history.append(IterationRecord(0, 0, 0.0, births=births))
    history.append(IterationRecord(1, 10, 1.0, members))
    return history


def test_a_value_holds_from_birth_to_replacement(history):
    assert hyperparameter_paths_data(history, LEARNING_RATE).lives.tolist() == [
        [[0, 0.1], [60, 0.1]],
        [[0, 0.01], [90, 0.01]],
        [[0, 0.5], [30, 0.5]],
        [[30, 0.02], [90, 0.02]],
        [[60, 0.04], [90, 0.04]],
    ]


def test_jumps_lead_from_the_parents_value_to_the_childs(history):
    assert hyperparameter_paths_data(history, LEARNING_RATE).jumps.tolist() == [
        [[30, 0.01], [30, 0.02]],
        [[60, 0.02], [60, 0.04]],
    ]


def test_the_winners_path_is_its_schedule(history):
    data = hyperparameter_paths_data(history, LEARNING_RATE)
    assert data.winner.tolist() == [[0, 0.01], [30, 0.02], [60, 0.04], [90, 0.04]]
    member_id, _ = history.best()
    path = history.schedule(member_id).path(LEARNING_RATE)
    assert data.winner[:, 1].tolist() == [value for _, value in path]


def test_texts_are_levels_with_slots_apart(history):
    data = hyperparameter_paths_data(history, "activation")
    assert data.levels == ("relu", "tanh")
    # slots 0, 1, 2 are 0.2 below, on, and 0.2 above a level
    assert_allclose(data.lives[:, 0, 1], [-0.2, 1.0, 0.2, 0.2, -0.2], atol=1e-12)
    assert_allclose(data.jumps[:, :, 1], [[1.0, 0.2], [0.2, -0.2]], atol=1e-12)
    assert_allclose(data.winner[:, 1], [1.0, 0.0, 0.0, 0.0], atol=1e-12)
    assert not data.log


def test_few_integers_are_levels_in_the_order_of_numbers(history):
    data = hyperparameter_paths_data(history, "units")
    assert data.levels == ("32", "64", "128")
    assert_allclose(data.winner[:, 1], [1.0, 1.0, 2.0, 2.0])


def test_many_integers_are_numbers():
    history = one_iteration(*({"units": units} for units in range(30, 38)))
    assert hyperparameter_paths_data(history, "units").levels is None


def test_truth_values_are_levels():
    data = hyperparameter_paths_data(one_iteration({"norm": True}, {"norm": False}), "norm")
    assert data.levels == ("False", "True")
    assert_allclose(data.lives[:, 0, 1], [1.0 - 0.15, 0.0 + 0.15])


@pytest.mark.parametrize(
    ("name", "values", "log"),
    [
        ("x", (0.1, 0.9), False),
        ("x", (0.1, 1.5), True),
        ("x", (0.0, 1.5), False),
        ("x", (-1.0, 20.0), False),
        ("learning_rate", (0.1, 0.2), True),
        ("dense/l2", (0.1, 0.2), True),
        ("3:Dense.kernel_regularizer.l1", (0.1, 0.2), True),
        ("optimizer.learning_rate_multiplier", (0.5, 2.0), True),
        ("AdamW weight_decay", (0.1, 0.2), True),
        ("l2", (0.0, 0.2), False),
        ("dropout_rate", (0.1, 0.2), False),
        ("color", (0.1, 0.2), False),
    ],
)
def test_scale(name, values, log):
    history = one_iteration(*({name: value} for value in values))
    assert hyperparameter_paths_data(history, name).log is log


def test_members_without_the_hyperparameter_are_left_out():
    history = one_iteration({"a": 1.0}, {"a": 2.0, "b": 0.5})
    data = hyperparameter_paths_data(history, "b")
    assert data.lives.tolist() == [[[0, 0.5], [10, 0.5]]]


def test_an_unknown_name_is_an_error_that_lists_the_known(history):
    with pytest.raises(ArgumentError, match=r"'popdescent/learning_rate', 'dropout'.*name='lr'"):
        hyperparameter_paths_data(history, "lr")


def test_varying_numbers_leave_out_texts_and_constants():
    history = one_iteration(
        {"a": 1.0, "text": "x", "truth": True, "constant": 3.0, "units": 1},
        {"a": 2.0, "text": "y", "truth": False, "constant": 3.0, "units": 2},
    )
    assert varying_numbers(read_lives(history)) == ["a", "units"]


def test_draws_numbers(history, find):
    (ax,) = plot_hyperparameter_path(history, LEARNING_RATE).axes
    assert ax.get_ylabel() == "learning rate"
    assert ax.get_yscale() == "log"
    assert len(find(ax, "a member").get_segments()) == 5
    assert find(ax, "born").get_xydata().tolist() == [[30, 0.02], [60, 0.04]]
    assert find(ax, "the winner's line").get_drawstyle() == "steps-post"


def test_draws_levels(history):
    (ax,) = plot_hyperparameter_path(history, "activation").axes
    assert ax.get_yscale() == "linear"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["relu", "tanh"]


@pytest.mark.parametrize("value", [0.0015, 0.3, 7.7])
def test_a_log_axis_has_ticks_around_a_single_value(value):
    (ax,) = plot_hyperparameter_path(one_iteration({"lr": value}), "lr").axes
    low, high = ax.get_ylim()
    assert [tick for tick in ax.get_yticks() if low <= tick <= high]


def test_data_is_frozen(history):
    data = hyperparameter_paths_data(history, "units")
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
