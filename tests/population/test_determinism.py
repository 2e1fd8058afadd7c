"""`deterministic=True`: what each backend is told."""

import subprocess
import sys
import textwrap
import warnings

import keras
import pytest

from keras_popdescent.errors import ArgumentError
from keras_popdescent.population.determinism import make_deterministic

# TensorFlow offers no way back and no way to ask, so that a process of its own has to try.
SCRIPT = """
import numpy as np, keras, tensorflow as tf
from keras_popdescent import {name}

def build(hp=None):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model

x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
arguments = dict(validation_data=(x, y), epochs=1, verbose=0)
{search}
try:
    tf.random.normal([2])
except RuntimeError as error:
    print("refused" if "determinism" in str(error) else error)
else:
    print("drawn")
"""
SEARCHES = {
    "Population": "Population.from_model(build(), size=2, deterministic={value}).fit("
    "x, y, **arguments)",
    "PopDescentTuner": "PopDescentTuner(build, population_size=2, directory={directory!r}, "
    "deterministic={value}).search(x, y, **arguments)",
}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's switch")
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(("value", "told"), [(True, "refused"), (False, "drawn")])
def test_tensorflow_refuses_what_is_random(name, value, told, tmp_path):
    search = SEARCHES[name].format(value=value, directory=str(tmp_path))
    code = textwrap.dedent(SCRIPT.format(name=name, search=search))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.split()[-1:] == [told], result.stderr


class TestJax:
    @pytest.fixture(autouse=True)
    def jax(self, monkeypatch):
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    def test_a_gpu_without_the_flag(self, monkeypatch):
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: ["gpu:0"])
        with pytest.warns(UserWarning, match="XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
            make_deterministic()

    @pytest.mark.parametrize(
        ("flags", "devices"),
        [
            ("--xla_gpu_deterministic_ops=true", ["gpu:0"]),
            ("--a=1 --xla_gpu_exclude_nondeterministic_ops=true", ["gpu:0"]),
            ("", []),
        ],
    )
    def test_nothing_to_say(self, flags, devices, monkeypatch):
        monkeypatch.setenv("XLA_FLAGS", flags)
        monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: devices)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            make_deterministic()


def test_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ArgumentError, match="TensorFlow and JAX only.*backend='torch'"):
        make_deterministic()
