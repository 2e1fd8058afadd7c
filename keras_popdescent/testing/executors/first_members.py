"""Laws on the first members, and on what is refused before they train."""

from __future__ import annotations

import numpy as np

from keras_popdescent.data import prepare
from keras_popdescent.errors import DataError, ObjectiveError
from keras_popdescent.population.objective import objective_of
from keras_popdescent.testing.executors.comparing import (
    assert_close,
    assert_same,
    own_weights,
    raised,
    scores_of,
)
from keras_popdescent.testing.executors.setting import (
    FIRST_VALUES,
    STEPS,
    ExecutorSetting,
    build_model,
    make_data,
)


class FirstMembers(ExecutorSetting):
    """Laws on the first members, and on what is refused before they train."""

    def test_every_first_member_has_weights_of_its_own(self) -> None:
        """Population Descent starts from independent initial weights."""
        executor = self.started()
        kernels = [own_weights(executor.capture(slot))[0] for slot in range(3)]
        for slot in range(3):
            assert np.any(kernels[slot] != kernels[slot - 1])

    def test_another_seed_is_another_population(self) -> None:
        """Here, of one member."""
        other = self.start(seed=np.random.SeedSequence(1), values=FIRST_VALUES[:1])
        assert np.any(own_weights(other.capture(0))[0] != own_weights(self.started().capture(0))[0])

    def test_first_members_can_share_their_weights(self) -> None:
        """A model that was trained before is where all of them start."""
        given = [array + 1.0 for array in build_model().get_weights()]
        executor = self.start(initial_weights=given)
        for slot in range(3):
            assert_close(own_weights(executor.capture(slot)), given, 0.0)

    def test_one_seed_one_population(self) -> None:
        """Equal seeds, equal results, bit for bit."""
        first, second = self.started(), self.start()
        reports = [executor.advance([0, 1, 2], STEPS) for executor in (first, second)]
        assert scores_of(reports[0]) == scores_of(reports[1])
        for slot in range(3):
            assert_same(first.capture(slot), second.capture(slot))

    def test_an_objective_that_is_not_reported_is_refused_before_training(self) -> None:
        """The message lists what is reported."""
        for name in ("val_accuracy", "mse"):
            error = raised(ObjectiveError, lambda n=name: self.start(objective=objective_of(n)))
            assert name in error and "val_loss" in error and "mae" in error

    def test_data_that_the_model_does_not_take_is_refused_before_training(self) -> None:
        """Here, inputs with a feature less."""
        data = make_data()
        narrow = prepare(data["x"][:, :4], data["y"], validation_data=(data["x"][:, :4], data["y"]))
        raised(DataError, lambda: self.start(data=narrow))
