import os
import shutil
import signal
import subprocess

import numpy as np
import pytest

# So that a law that a strategy breaks shows the values in question; before anything imports it.
for suite in ("bindings", "executors", "strategies"):
    pytest.register_assert_rewrite(f"keras_popdescent.testing.{suite}")

# A shell that starts tests in the background has them ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_disk(tmp_path):
    """Return what makes a file system of so many bytes; it needs the rights to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")

    def make_disk(num_bytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            pytest.skip(f"no file system can be mounted here: {told.stderr.strip()}")
        return folder

    yield make_disk
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def tiny_task():
    """Return a benchmark's task of a second: three classes of six inputs, two models."""
    import keras

    from benchmarks.searches.task import Range, Task, cross_entropy_metric

    def build(values):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        model.compile(
            keras.optimizers.Adam(values["learning_rate"]),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[cross_entropy_metric()],
        )
        return model

    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    parts = (x[:60], y[:60]), (x[60:80], y[60:80]), (x[80:], y[80:])
    space = {"learning_rate": Range(1e-3, 1e-1, log=True)}
    return Task("tiny", build, space, *parts, epochs=3, models=2, batch_size=20)
