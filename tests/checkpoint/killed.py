"""Kills searches with SIGKILL and lets new processes go on with them; run by `test_kill.py`.

A search is a process of its own: forked from this one, which has imported TensorFlow and never used
it, because importing takes ten times as long as the search. It says through a pipe when it begins
and what it has come to. While it runs, snapshots are written slowly, so that many of the moments at
which it is killed are in the middle of one.

    python killed.py population|tuner FOLDER NUM_KILLS SEED
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import keras
import numpy as np

from keras_popdescent import Observer, PopDescent, Population
from keras_popdescent.checkpoint import archive, folder
from keras_popdescent.strategies import ClosingPlan
from keras_popdescent.tuners import PopDescentTuner

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 2))).astype("float32")
# Seconds that every piece of a snapshot takes.
SLOWNESS = 0.0003


def network(units, rate, drop, penalty):
    regularizer = keras.regularizers.L2(penalty)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, "relu", kernel_regularizer=regularizer),
            layers.BatchNormalization(),
            layers.Dropout(drop),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(rate), "mse", metrics=["mae"])
    return model


def build(hp):
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
    return network(
        hp.Choice("units", [4, 8]), rate, hp.Float("drop", 0.0, 0.5), hp.Float("l2", 0.0, 0.1)
    )


def search_population(directory, say):
    """The authors' code: shared step counters, subsets, own scores, fine-tuning at the end."""
    closing = ClosingPlan(rounds=3, batches=4, batch_size=8)
    strategy = PopDescent.reference(num_samples=12, fine_tuning=closing)
    population = Population.from_model(
        lambda: network(8, 0.001, 0.3, 0.01), 4, 2, strategy=strategy, seed=0
    )
    history = population.fit(
        X[:60], Y[:60], validation_data=(X[60:], Y[60:]), iterations=30, batches_per_iteration=5,
        batch_size=8, verbose=0, checkpoint_dir=directory, checkpoint_every=1,
        observers=[Says(say)],
    )  # fmt: skip
    executor = population.executor
    states = [executor.capture(slot) for slot in range(4)]
    tensors = [tensor for state in states for tensor in (*state.weights, *state.optimizer)]
    return history, [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in tensors], {}


def search_tuner(directory, say):
    tuner = PopDescentTuner(
        build, "val_loss", population_size=3, seed=0, directory=directory, iterations=20,
        batches_per_iteration=5, checkpoint_every=1,
    )  # fmt: skip
    begins = lambda: SaysToo(say)  # noqa: E731
    callbacks = [keras.callbacks.EarlyStopping(patience=4), begins]
    tuner.search(X, Y, validation_split=0.25, batch_size=8, verbose=0, callbacks=callbacks)
    weights = [weight for model in tuner.get_best_models(3) for weight in model.get_weights()]
    trials = {id_: trial.get_state() for id_, trial in tuner.oracle.trials.items()}
    return tuner.history, weights, trials


SEARCHES = {"population": search_population, "tuner": search_tuner}


class Says(Observer):
    def __init__(self, say):
        self.say = say

    def search_begin(self, loop):
        self.say("began")


class SaysToo(keras.callbacks.Callback):
    def __init__(self, say):
        super().__init__()
        self.say = say

    def on_train_begin(self, logs=None):
        self.say("began")


def digest(history, tensors, trials):
    """Return checksums of all that a search has come to, but for times."""
    weights = hashlib.sha256(b"".join(tensor.tobytes() for tensor in tensors)).hexdigest()
    told = [
        (
            [(m.member_id, m.score, m.gradient_steps, dict(m.values)) for m in record.members],
            [(b.slot, b.member_id, b.parents, dict(b.values)) for b in record.births],
        )
        for record in history.records
    ]
    text = json.dumps([told, trials], sort_keys=True)
    return [weights, hashlib.sha256(text.encode()).hexdigest()]


def slow_down():
    """Make the middle of a snapshot a moment that is likely to be hit."""
    inner = archive.Packed.chunks

    def chunks(packed):
        for chunk in inner(packed):
            time.sleep(SLOWNESS)
            yield chunk

    archive.Packed.chunks = chunks


def die_at(stage):
    """Let the process kill itself at a point of writing its third snapshot."""
    name, call = stage
    inner, left = getattr(folder.os, name), [call]

    def deadly(*arguments):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments)

    setattr(folder.os, name, deadly)


def run(search, directory, stage=None, seconds=None, aimed=False):
    """Run a search in a process of its own; return what it said last, None if it was killed.

    Args:
        search: Which one.
        directory: Where its snapshots are.
        stage: A point of writing a snapshot at which it kills itself.
        seconds: When it is killed, after it began; None for never.
        aimed: Whether it is killed in the next snapshot after that: on a busy machine few moments
            are in the middle of one by chance.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        said = []

        def say(what):
            if not said:
                said.append(what)
                os.write(writing, b"began\n")

        try:
            slow_down()
            if stage is not None:
                die_at(stage)
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            result = digest(*SEARCHES[search](directory, say))
            os.write(writing, json.dumps(result).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, json.dumps(repr(error)).encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if seconds is not None:
            select.select([pipe], [], [], 60.0)
            time.sleep(seconds)
            until = time.perf_counter() + 2.0
            while aimed and not is_writing(directory) and time.perf_counter() < until:
                time.sleep(SLOWNESS)
            os.kill(pid, signal.SIGKILL)
        text = pipe.read().decode().removeprefix("began\n")
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else json.loads(text)


def is_writing(directory):
    """Whether a snapshot is half written."""
    return any(Path(directory).rglob("writing.tmp"))


def state_of(directory):
    """Say where a killed search was."""
    return "in a snapshot" if is_writing(directory) else "between snapshots"


def main(search, where, num_kills, seed):
    rng, where = random.Random(seed), Path(where)
    began = time.perf_counter()
    expected = run(search, where / "whole")
    whole = time.perf_counter() - began
    if not isinstance(expected, list):
        sys.exit(f"The search that is not killed fails: {expected}")
    kills, wrong, restarts = Counter(), [], 0
    # Points of writing a snapshot: half written, whole and not renamed, renamed and not synced.
    stages = [("fsync", 5), ("fsync", 6), ("replace", 3), ("unlink", 3)]
    number = 0
    while (sum(kills.values()) < num_kills or stages) and number < num_kills:
        directory, result = where / f"killed{number}", None
        number += 1
        while result is None:
            stage = stages[-1] if stages and restarts % 4 == 1 else None
            restarts += 1
            left = sum(kills.values()) < num_kills
            # No search is killed forever: its moments get later.
            seconds = None if stage or not left else rng.uniform(0.0, 0.35 * whole)
            aimed = restarts % 4 == 3
            result = run(search, directory, stage, seconds, aimed)
            if result is None and stage:
                stages.pop()  # else the search ended before it came to this point: once more
            if result is None:
                kills[f"at {stage[0]}" if stage else state_of(directory)] += 1
        if result != expected:
            wrong.append(result)
    print(json.dumps({"kills": kills, "searches": number, "wrong": wrong, "expected": expected}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
