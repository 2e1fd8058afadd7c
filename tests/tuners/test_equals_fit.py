"""One member without mutation is plain `fit`, whatever form the data has."""

import keras
import numpy as np
import pytest

from keras_popdescent import PopDescentTuner

EPOCHS, BATCH, STEPS = 3, 16, 5


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS * BATCH, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    return x, y, rng.uniform(0.2, 3.0, STEPS * BATCH).astype("float32")


def build(hp):
    inputs = keras.Input((6,), name="a")
    kernel = keras.initializers.GlorotUniform(seed=1)
    hidden = keras.layers.Dense(5, "tanh", kernel_initializer=kernel)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=kernel)(hidden))
    return compiled(model)


def build_two(hp):
    inputs = {name: keras.Input((6,), name=name) for name in ("a", "b")}
    kernel = keras.initializers.GlorotUniform(seed=1)
    both = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    return compiled(keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=kernel)(both)))


def build_pair(hp):
    inputs = [keras.Input((6,)), keras.Input((6,))]
    kernel = keras.initializers.GlorotUniform(seed=1)
    both = keras.layers.Concatenate()(inputs)
    return compiled(keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=kernel)(both)))


def build_with_batch_size(hp):
    hp.Choice("batch_size", [BATCH, 2 * BATCH])
    return build(hp)


def compiled(model):
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


class Sequence(keras.utils.PyDataset):
    def __init__(self, *arrays, **kwargs):
        super().__init__(**kwargs)
        self.arrays = arrays

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        begin = index * BATCH
        return tuple(array[begin : begin + BATCH] for array in self.arrays)


def batches(*arrays, endless=False):
    while True:
        for begin in range(0, STEPS * BATCH, BATCH):
            yield tuple(array[begin : begin + BATCH] for array in arrays)
        if not endless:
            return


def dataset(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)


# name -> the build function, and what makes the arguments of `fit` from (x, y, weights)
CASES = {
    "arrays": (build, lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH}),
    "validation split": (
        build,
        lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH, "validation_split": 0.4},
    ),
    "sample weights": (
        build,
        lambda x, y, w: {"x": x, "y": y, "sample_weight": w, "batch_size": BATCH},
    ),
    "class weights": (
        build,
        lambda x, y, w: {"x": x, "y": y, "class_weight": {0: 5.0, 2: 0.1}, "batch_size": BATCH},
    ),
    "float64": (build, lambda x, y, w: {"x": x.astype("float64"), "y": y, "batch_size": BATCH}),
    "a dict": (
        build_two,
        lambda x, y, w: {"x": {"a": x, "b": -x}, "y": y, "batch_size": BATCH},
    ),
    "a tuple": (build_pair, lambda x, y, w: {"x": (x, -x), "y": y, "batch_size": BATCH}),
    "tf.data": (build, lambda x, y, w: {"x": dataset(x, y)}),
    "tf.data with weights": (build, lambda x, y, w: {"x": dataset(x, y, w)}),
    "tf.data with class weights": (
        build,
        lambda x, y, w: {"x": dataset(x, y), "class_weight": {0: 1.0, 1: 4.0, 2: 0.5}},
    ),
    "endless tf.data": (
        build,
        lambda x, y, w: {"x": dataset(x, y).repeat(), "steps_per_epoch": STEPS},
    ),
    "PyDataset": (build, lambda x, y, w: {"x": Sequence(x, y)}),
    "PyDataset with workers": (
        build,
        lambda x, y, w: {"x": Sequence(x, y, w, workers=2, max_queue_size=3)},
    ),
    "a generator": (
        build,
        lambda x, y, w: {"x": batches(x, y, endless=True), "steps_per_epoch": STEPS},
    ),
    "batch size as a hyperparameter": (build_with_batch_size, lambda x, y, w: {"x": x, "y": y}),
    "validation batches": (
        build,
        lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH,
                         "validation_data": Sequence(x[::-1], y[::-1], w)},
    ),
    "validation steps": (
        build,
        lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH, "validation_steps": 2,
                         "validation_data": Sequence(x[::-1], y[::-1])},
    ),
    "validation steps of arrays": (
        build,
        lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH, "validation_steps": 2,
                         "validation_batch_size": 5, "validation_data": (x[::-1], y[::-1])},
    ),
    "validation steps of a split": (
        build,
        lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH, "validation_steps": 1,
                         "validation_batch_size": 5, "validation_split": 0.4},
    ),
    "weighted validation": (
        build,
        lambda x, y, w: {"x": x, "y": y, "batch_size": BATCH,
                         "validation_data": (x[:20], y[:20], w[:20])},
    ),
}  # fmt: skip


@pytest.mark.backend
@pytest.mark.parametrize("case", CASES)
def test_one_member_without_mutation_is_plain_fit(case, arrays, tmp_path):
    if case.startswith(("tf.data", "endless")):
        pytest.importorskip("tensorflow")
    make, arguments = CASES[case]
    tuner = PopDescentTuner(
        make, objective="loss", population_size=1, num_elites=1, implicit_mutation=False,
        batches_per_iteration=3 if "split" in case else STEPS, seed=0, directory=tmp_path,
    )  # fmt: skip
    tuner.search(**arguments(*arrays), epochs=EPOCHS, shuffle=False, verbose=0)
    plain = make(tuner.oracle.get_space())
    given = arguments(*arrays)
    if "workers" in case:
        # On JAX, `fit` itself takes other batches with workers (Keras 3.15).
        given["x"] = Sequence(*arrays)
    if "hyperparameter" in case:
        given["batch_size"] = BATCH
    expected = plain.fit(**given, epochs=EPOCHS, shuffle=False, verbose=0).history
    records = [record.members[0].logs for record in tuner.history.iterations()]
    assert len(records) == EPOCHS
    for name, values in expected.items():
        assert [logs[name] for logs in records] == pytest.approx(values, rel=2e-4), name
