"""Every Python block of README and docs runs, in one namespace a document."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / "reproduce/README.md", ROOT / "benchmarks/default_preset/STUDY.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def build_model(hp):
    penalty = keras.regularizers.L2(hp.Float("l2", 1e-6, 1e-2, sampling="log"))
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.6)),
            keras.layers.Dense(10),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model.compile(
        keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    # Searches write their project into the current folder.
    monkeypatch.chdir(tmp_path)
    import keras_tuner

    from keras_popdescent import PopDescentTuner

    rng = np.random.default_rng(0)
    x = rng.random((200, 64), dtype=np.float32)
    y = rng.integers(0, 10, 200)
    model = build_model(keras_tuner.HyperParameters())
    tuner = PopDescentTuner(build_model, project_name="searched", seed=0)
    tuner.search(x, y, epochs=1, validation_split=0.2, verbose=0)
    return {
        "build_model": build_model,
        "model": model,
        "tuner": tuner,
        "PopDescentTuner": PopDescentTuner,
        "x": x,
        "y": y,
        "x_val": x[:40],
        "y_val": y[:40],
        "x_test": x[40:80],
        "y_test": y[40:80],
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document, namespace, capsys, tmp_path, monkeypatch):
    given = namespace["tuner"]
    for number, block in enumerate(BLOCK.findall(document.read_text(encoding="utf-8"))):
        # Each has a folder of its own: their searches have one project name and differ.
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        # A block that only makes a tuner is not followed by a search of it.
        exec(compile(block, str(document), "exec"), namespace)
        if ".search(" not in block:
            namespace["tuner"] = given


def test_the_readmes_first_block_runs_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    exec(compile(BLOCK.findall(readme)[0], "README.md", "exec"), {})


def test_links_lead_somewhere():
    for document in (*DOCUMENTS, *OTHERS):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_names_the_two_commands():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
