import pytest

# So that a law that a strategy breaks shows the values in question; before anything imports it.
for suite in ("bindings", "executors", "strategies"):
    pytest.register_assert_rewrite(f"keras_popdescent.testing.{suite}")
