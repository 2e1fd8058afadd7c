import signal

import pytest

# So that a law that a strategy breaks shows the values in question; before anything imports it.
for suite in ("bindings", "executors", "strategies"):
    pytest.register_assert_rewrite(f"keras_popdescent.testing.{suite}")

# A shell that starts tests in the background has them ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
