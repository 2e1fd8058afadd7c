"""The benchmarks' scripts run through on tiny models, and their tables say what the JSON says."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import models, overhead, records, report, scaling, versus_random_search
from benchmarks.searches import available, tasks
from benchmarks.searches.task import METRIC, Found, Range, cross_entropy
from benchmarks.searches.tuners import hyperband, popdescent, random_search
from benchmarks.timing import Stopwatch

RNG = np.random.default_rng(0)


def tiny():
    return models.compiled([keras.Input((6,)), keras.layers.Dense(10)])


@pytest.fixture
def task(tiny_task):
    keras.utils.set_random_seed(0)  # for the peers' models; ours have seeds of their own
    return replace(tiny_task, epochs=3)


class TestTasks:
    def test_the_budget_is_all_batches_of_all_models(self, task):
        assert task.budget == 2 * 3 * 3
        assert replace(task, batch_size=64).budget == 2 * 3

    def test_values_are_drawn_within_their_range(self):
        drawn = [Range(1e-4, 1e-2, log=True).draw(RNG) for _ in range(200)]
        assert 1e-4 <= min(drawn) < 5e-4 and 2e-3 < max(drawn) <= 1e-2
        assert np.median(drawn) == pytest.approx(1e-3, rel=0.5)

    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (tasks.build_mlp, (64,)),
            (tasks.build_small_cnn, (28, 28, 1)),
            (tasks.build_fashion_mnist, (28, 28, 1)),
            (tasks.build_cifar10, (32, 32, 3)),
        ],
    )
    def test_networks_take_their_values_and_report_what_searches_choose_by(self, make, shape):
        model = make({"learning_rate": 0.003, "l2": 0.5, "dropout": 0.25})
        x, y = np.zeros((2, *shape), "float32"), np.zeros(2, "int32")
        reported = model.evaluate(x, y, verbose=0, return_dict=True)
        assert reported[METRIC] == pytest.approx(np.log(10.0), rel=1e-4)
        assert reported["loss"] > reported[METRIC] + 0.1  # with the penalty
        assert float(model.optimizer.learning_rate) == pytest.approx(0.003)

    def test_the_digits_are_split_without_a_sample_twice(self):
        digits = tasks.digits()
        images = np.concatenate([digits.training[0], digits.validation[0]])
        assert (len(images), len(digits.test[0])) == (1442, 355)
        assert 1.4 < np.std(digits.training[1]) / 2 < 1.5  # all ten digits, alike
        assert digits.budget == 5 * 40 * 19


class TestSearches:
    @pytest.mark.parametrize("search", [random_search, hyperband, popdescent])
    def test_a_search_takes_its_budget_and_finds_a_model(self, search, task, tmp_path):
        found = search(task, 0, tmp_path)
        assert found.gradient_steps == task.budget
        untrained = cross_entropy(task.build({"learning_rate": 0.1}), task.validation)
        assert cross_entropy(found.model, task.validation) < 2.0 * untrained

    def test_optuna_takes_its_budget_and_keeps_the_best_epoch(self, task, tmp_path, monkeypatch):
        pytest.importorskip("optuna")
        from benchmarks.searches import with_optuna

        scores = []

        class Watched(with_optuna.Best):
            def offer(self, score, values, model):
                scores.append(score)
                super().offer(score, values, model)

        monkeypatch.setattr(with_optuna, "Best", Watched)
        task = replace(task, models=6)
        found = with_optuna.search(task, 0, tmp_path)
        assert found.gradient_steps == task.budget
        assert len(set(scores)) > 6
        assert cross_entropy(found.model, task.validation) == pytest.approx(min(scores), rel=1e-4)

    @pytest.mark.slow
    def test_rays_members_train_for_the_budget(self, task, tmp_path):
        pytest.importorskip("ray")
        from benchmarks.searches import with_ray

        found = with_ray.search(task, 0, tmp_path)
        # A member that took another one's place goes on from that one's epoch.
        assert abs(found.gradient_steps - task.budget) <= task.budget // 2
        assert np.isfinite(cross_entropy(found.model, task.validation))

    def test_what_is_not_installed_is_left_out_with_a_sentence(self, monkeypatch):
        import importlib.util

        find = importlib.util.find_spec
        missing = {"ray", "optuna"}
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in missing else find(name)
        )
        found, sentences = available()
        assert list(found) == ["RandomSearch", "Hyperband", "PopDescentTuner"]
        assert [sentence.split(":")[0] for sentence in sentences] == ["Optuna", "Ray PBT"]
        assert all("pip install" in sentence for sentence in sentences)

    def test_searches_take_turns_and_another_one_begins_each_time(self, task):
        seen = []

        def noting(name):
            def search(task, seed, folder):
                seen.append((name, seed, task.epochs))
                return random_search(replace(task, models=1), seed, folder)

            return search

        searches = {"a": noting("a"), "b": noting("b")}
        rows = list(versus_random_search.compare(task, searches, [5, 6]))
        # The first two are not timed.
        assert seen == [
            ("a", 0, 4),
            ("b", 0, 4),
            ("a", 5, 3),
            ("b", 5, 3),
            ("b", 6, 3),
            ("a", 6, 3),
        ]
        assert [(r["method"], r["seed"]) for r in rows] == [("a", 5), ("b", 5), ("b", 6), ("a", 6)]
        assert all(r["gradient_steps"] == 9 and r["budget"] == 18 for r in rows)

    def test_tasks_that_are_not_run_again_keep_their_rows(self, task, tmp_path, monkeypatch):
        def search(task, seed, folder):
            return Found(task.build({"learning_rate": 0.1}), task.budget)

        both = [task, replace(task, name="other")]
        monkeypatch.setattr(tasks, "chosen", lambda quick, everything: (both, []))
        monkeypatch.setattr(versus_random_search, "available", lambda: ({"a": search}, []))
        where = ["--results", str(tmp_path), "--seeds"]
        versus_random_search.main(["--tasks", "other", *where, "1"])
        (path,) = tmp_path.iterdir()
        assert json.loads(path.read_text())["not_run"] == ["tiny: left out."]
        versus_random_search.main(["--tasks", "tiny", *where, "2"])
        result = json.loads(path.read_text())
        assert [(r["task"], r["seed"]) for r in result["rows"]] == [
            ("other", 0), ("tiny", 0), ("tiny", 1)
        ]  # fmt: skip
        assert result["not_run"] == []


class TestMeasuring:
    def test_overhead(self):
        case = overhead.Case(
            "tiny", tiny, (6,), 1.2, scored=32, batches=4, population_size=3, repetitions=2
        )
        row = overhead.measure(case)
        assert row["gradient_steps"] == 12
        for name in ("iteration", "loop", "one_by_one", "evolution"):
            assert len(row[name]) == 2 and min(row[name]) > 0.0, name
        assert max(row["evolution"]) < min(row["iteration"])

    def test_bare_steps_train(self):
        x, y = RNG.normal(size=(64, 6)).astype("float32"), RNG.integers(0, 10, 64)
        held = []

        def kept():
            held.append(tiny())
            return held[-1]

        loop, one_by_one = overhead.bare_steps(kept, x, y, steps=3, batch_size=16)
        counter = held[-1].optimizer.iterations
        loop()
        assert int(counter) == 3
        one_by_one()
        assert int(counter) == 6

    def test_scaling(self, monkeypatch):
        monkeypatch.setitem(scaling.NETWORKS, "tiny", (tiny, (6,)))
        row = scaling.measure(scaling.Point("tiny", "sequential", 2, batches=3, repetitions=2))
        assert len(row["iteration"]) == len(row["one_member"]) == 2
        # 6 x 10 weights and 10 biases, three times with Adam's slots, and a few numbers.
        assert 70 * 3 * 4 <= row["state_bytes"] <= 70 * 3 * 4 + 200
        assert row["peak_bytes"] > 2**20
        assert row["one_large_batch"] is None

    @pytest.mark.parametrize(
        ("backend", "accelerator", "full", "executors", "networks"),
        [
            ("tensorflow", False, False, {"sequential"}, {"MLP 64-64-10"}),
            ("jax", False, True, {"sequential", "vectorized"}, set(scaling.NETWORKS)),
            ("jax", True, False, {"sequential", "vectorized"}, set(scaling.NETWORKS)),
        ],
    )
    def test_scaling_measures_all_sizes(self, backend, accelerator, full, executors, networks):
        todo = scaling.points(backend, accelerator, quick=False, full=full)
        assert {point.executor for point in todo} == executors
        assert {point.network for point in todo} == networks
        assert len(todo) == len(set(todo)) == 7 * len(executors) * len(networks)

    def test_scaling_goes_on_where_an_earlier_run_ended(self, monkeypatch, tmp_path):
        def measured(point):
            return {
                **asdict(point), "iteration": [3.0], "one_member": [1.0], "one_large_batch": None,
                "state_bytes": 1, "peak_bytes": point.batches, "device_peak_bytes": None,
            }  # fmt: skip

        monkeypatch.setattr(scaling, "measure_apart", measured)
        keep = ["--results", str(tmp_path), "--repetitions", "1"]
        scaling.main([*keep, "--sizes", "1", "5", "--batches", "4"])
        scaling.main([*keep, "--sizes", "2", "5", "--batches", "8"])
        [record] = records.load(tmp_path)
        found = [(row["size"], row["peak_bytes"]) for row in record["rows"]]
        assert found[:3] == [(1, 4), (2, 8), (5, 8)]

    def test_a_point_that_fails_says_why(self):
        with pytest.raises(RuntimeError, match="no such network"):
            scaling.measure_apart(scaling.Point("no such network", "sequential", 1))

    def test_a_stopwatch_measures_a_method_and_leaves_no_trace(self):
        class Sleeper:
            def sleep(self, seconds):
                time.sleep(seconds)
                return seconds

        sleeper, watch, waited = Sleeper(), Stopwatch(), []
        original = Sleeper.sleep
        with watch.on(sleeper, "sleep", lambda: waited.append(1)), watch.on(Sleeper, "sleep"):
            assert sleeper.sleep(0.01) == 0.01
            watch.lap()
            assert Sleeper().sleep(0.0) == 0.0
            watch.lap()
        assert watch.laps[0] >= 0.01 > watch.laps[1]
        assert waited == [1]
        assert Sleeper.sleep is original and "sleep" not in vars(sleeper)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow code.")
class TestReferenceLoop:
    def data(self):
        x = RNG.normal(size=(200, 6)).astype("float32")
        return x, (x @ RNG.normal(size=(6, 10))).argmax(axis=1)

    def loop(self, **settings):
        from benchmarks.reference_loop import ReferenceLoop

        x, y = self.data()
        settings = {"size": 3, "elites": 1, "batches": 4, "batch_size": 16, "scored": 32} | settings
        return ReferenceLoop(tiny, (x, y), (x, y), **settings)

    def test_a_step_is_that_of_keras_with_adam(self):
        from benchmarks.reference_loop import Individual, LegacyAdam

        def penalized():
            penalty = keras.regularizers.L2(0.1)
            return models.compiled(
                [keras.Input((6,)), keras.layers.Dense(10, kernel_regularizer=penalty)]
            )

        x, y = self.data()
        expected, model = penalized(), penalized()
        model.set_weights(expected.get_weights())
        member = Individual(model, LegacyAdam(), loss_scale=1.0, l2_scale=1.0)
        for _ in range(5):
            expected.train_on_batch(x[:32], y[:32])
            member.step(x[:32], y[:32])
        for one, other in zip(expected.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_an_iteration_replaces_all_but_the_elites_by_shifted_clones(self):
        loop = self.loop()
        before = list(loop.members)
        losses = loop.iteration()
        assert len(losses) == 3
        (elite,) = [member for member in loop.members if member in before]
        assert elite is before[int(np.argmin(losses))]
        for child in set(loop.members) - {elite}:
            (parent,) = [member for member in before if member.optimizer is child.optimizer]
            shifts = [
                a - b
                for a, b in zip(child.model.get_weights(), parent.model.get_weights(), strict=True)
            ]
            flat = np.concatenate([shift.ravel() for shift in shifts])
            np.testing.assert_allclose(flat, flat[0], atol=1e-6)
            assert child.loss_scale != parent.loss_scale
            assert not any(np.any(m.numpy()) for m in child.m)
        assert {member.optimizer.steps for member in before} == {4}

    def test_it_learns(self):
        loop = self.loop(batches=12)
        for member in loop.members:
            member.loss_scale, member.l2_scale = 1.0, 0.0
        first = min(loop.iteration())
        for _ in range(4):
            last = min(loop.iteration())
        assert last < first

    def test_it_is_measured_beside_reference(self, monkeypatch):
        from benchmarks import versus_reference_loop

        monkeypatch.setattr(versus_reference_loop, "SCORED", 32)
        case = versus_reference_loop.Case(
            "MLP", models.mlp, (64,), target=3.0, batches=2, repetitions=2
        )
        row = versus_reference_loop.measure(case)
        assert row["gradient_steps"] == 10
        assert len(row["iteration"]) == len(row["reference_loop"]) == 2


def timed(**columns):
    return {
        "network": "MLP", "gradient_steps": 640, "batches": 128, "scored": 640, "target": 1.2,
        "iteration": [3.0, 2.4, 9.0], "loop": [2.0, 2.0, 3.0], "one_by_one": [6.0, 6.0, 6.0],
        "evolution": [0.03, 0.03, 0.03], **columns,
    }  # fmt: skip


def searched(method, seed, seconds, validation, test=0.5):
    return {
        "task": "digits", "method": method, "seed": seed, "seconds": seconds,
        "gradient_steps": 3800, "budget": 3800, "validation_loss": validation, "test_loss": test,
        "target": 5.0,
    }  # fmt: skip


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


class TestTables:
    def test_a_ratio_is_that_of_the_medians_and_has_its_range(self):
        assert report.ratio([3.0, 2.4, 9.0], [2.0, 2.0, 3.0]) == "1.50 (1.20 to 3.00)"

    def test_overhead(self):
        row = cells(report.overhead([timed()])[-1])
        assert row == [
            "MLP", "640", "640", "1.50 (1.20 to 3.00)", "<= 1.20", "0.500 (0.400 to 1.50)",
            "1.00%", "<= 1 %",
        ]  # fmt: skip

    def test_searches_are_compared_seed_by_seed(self):
        rows = [
            searched("RandomSearch", 0, 10.0, 0.4),
            searched("RandomSearch", 1, 20.0, 0.2),
            searched("PopDescentTuner", 1, 2.0, 0.1),
            searched("PopDescentTuner", 0, 4.0, 0.4),
        ]
        one_seed = report.versus_random_search([*rows, searched("Optuna", 1, 10.0, 0.1)])
        assert cells(one_seed[-1])[2] == "2.00 (2.00 to 2.00)"
        assert cells(report.versus_random_search([*rows, searched("Optuna", 7, 10.0, 0.1)])[-1])[
            2
        ] == ("other seeds")
        lines = report.versus_random_search(rows)
        assert lines[0] == "**digits**, medians of 2 seeds"
        assert cells(lines[-2])[:4] == ["RandomSearch", "3,800 of 3,800", "1", ""]
        assert cells(lines[-1])[:6] == [
            "PopDescentTuner", "3,800 of 3,800", "5.00 (2.50 to 10.00)", ">= 5.0", "0.2500",
            "0.833 (0.500 to 1.000)",
        ]  # fmt: skip

    def test_scaling_is_in_units_of_a_members_own_steps(self):
        def point(size, iteration, peak):
            return {
                "network": "MLP", "executor": "vectorized", "size": size, "iteration": [iteration],
                "one_member": [1.0], "one_large_batch": [3.0], "state_bytes": 2**20,
                "peak_bytes": peak, "device_peak_bytes": None,
            }  # fmt: skip

        # Everything took twice as long while one member was measured.
        one = {**point(1, 4.0, 2**30), "one_member": [2.0]}
        last = cells(report.scaling([one, point(5, 6.0, 2**30 + 2**24)])[-1])
        assert last[3:] == ["1.20 (1.20 to 1.20)", "3.00", "50.0%", "4.00 MiB", "1.00 MiB"]

    def test_the_document_says_what_was_not_run(self, tmp_path):
        folder = tmp_path / "results"
        result = records.record("overhead", "tensorflow", [timed()], ["A thing: no network."])
        records.save(result, folder)
        path = tmp_path / "RESULTS.md"
        report.write(folder, path)
        text = path.read_text()
        assert "| MLP | 640 | 640 | 1.50 (1.20 to 3.00) |" in text
        assert "- A thing: no network." in text
        for backend, found in (("tensorflow", 1), ("jax", 0)):
            missing = sum(backend in backends for backends in report.BENCHMARKS.values()) - found
            assert text.count(f"Not run on {backend}: there is no file of results.") == missing
        sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
        assert sections == list(report.BENCHMARKS)
        assert keras.__version__ in text and str(tmp_path) not in text

    def test_what_an_accelerator_gave_stands_beside_the_rest(self, tmp_path, monkeypatch):
        def save(where, rows):
            monkeypatch.setattr(records, "device", lambda backend: where)
            records.save(records.record("overhead", "jax", rows), tmp_path)
            assert records.earlier("overhead", "jax", tmp_path) == rows

        save("cpu", [timed()])
        save("NVIDIA H200", [timed(network="LSTM")])
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["overhead_jax.json", "overhead_jax_nvidia-h200.json"]
        text = report.document(records.load(tmp_path))
        assert text.index("### jax\n") < text.index("| MLP |") < text.index("### jax, NVIDIA H200")
        assert text.index("### jax, NVIDIA H200") < text.index("| LSTM |")

    def test_rows_of_other_benchmarks_are_shown_as_they_are(self, tmp_path):
        rows = [{"executor": "sequential", "grown": 1.23456, "series": [1, 5, 3]}]
        (tmp_path / "memory_tensorflow.json").write_text(json.dumps(rows))
        text = report.document(records.load(tmp_path))
        assert "| sequential | 1.235 | 3 (median of 3) |" in text

    def test_nothing_is_written_when_it_is_quick(self):
        assert records.folder_of(records.options("Title.", ["--quick"])) is None
        assert records.folder_of(records.options("Title.", [])) == records.RESULTS


class TestCommand:
    def test_each_benchmark_runs_on_its_backends_in_processes_of_their_own(
        self, monkeypatch, tmp_path
    ):
        started = []

        class Done:
            returncode = 0

        def run(line, env, check):
            started.append((line[2], env["KERAS_BACKEND"], line[3:]))
            return Done

        monkeypatch.setattr(command.subprocess, "run", run)
        arguments = ["overhead", "versus_reference_loop", "--quick", "--results", str(tmp_path)]
        assert command.main(arguments) == 0
        flags = ["--quick", "--results", str(tmp_path)]
        assert started == [
            ("benchmarks.overhead", "tensorflow", flags),
            ("benchmarks.overhead", "jax", flags),
            ("benchmarks.versus_reference_loop", "tensorflow", flags),
        ]
        assert (tmp_path / "RESULTS.md").exists()

    def test_a_benchmark_that_fails_is_named(self, monkeypatch, capsys):
        class Failed:
            returncode = 3

        monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: Failed)
        assert command.main(["overhead", "--backend", "tensorflow", "--quick"]) == 1
        assert "Failed: overhead on tensorflow." in capsys.readouterr().err

    def test_unknown_names_are_refused(self, capsys):
        with pytest.raises(SystemExit):
            command.main(["speed"])
        assert "there is no benchmark speed" in capsys.readouterr().err

    def test_all_that_are_listed_are_there(self):
        assert set(report.BENCHMARKS) - set(command.names()) <= {"memory"}
