import pytest

# So that a law that a strategy breaks shows the values in question; before anything imports it.
pytest.register_assert_rewrite("keras_popdescent.testing.strategies")
