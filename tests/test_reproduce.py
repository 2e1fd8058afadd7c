"""The reproduction's scripts: settings against the protocol, measuring, running, reporting."""

from __future__ import annotations

import json
import math
import sys
import textwrap
import threading
import time
from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_popdescent import LogDimension, SearchSpace
from keras_popdescent.executors import SequentialExecutor
from keras_popdescent.strategies.mutations import L2_SCALE, LOSS_SCALE
from reproduce import __main__ as command
from reproduce import (
    data,
    drawing,
    evaluation,
    figure1,
    networks,
    processes,
    report,
    rules,
    runs,
    table1,
    table2,
    table3,
    table4,
)
from reproduce.datasets import DamagedDatasetError, DatasetUnavailableError
from reproduce.evaluation import cross_entropy, fixed_indices, measure
from reproduce.methods import esgd, grid_search, popdescent, random_search
from reproduce.monitor import Monitor
from reproduce.runs import Run


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)

    def part(size):
        return (
            rng.random((size, 28, 28, 1), dtype=np.float32),
            rng.integers(0, 10, size).astype(np.int32),
        )

    return data.Split(*part(600), *part(80), *part(80))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    return tmp_path


def tiny(optimizer=None, l2=None, *, dropout=None, l2_everywhere=False, metrics=()):
    """Stands in for the Fashion-MNIST network where only the script is of interest."""
    penalty = None if l2 is None else keras.regularizers.L2(l2)
    layers = [
        keras.Input((28, 28, 1)),
        keras.layers.AveragePooling2D(7),
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="relu", kernel_regularizer=penalty),
        keras.layers.Dense(10),
    ]
    return networks._compiled(layers, optimizer, metrics)


class TestSettings:
    def test_population_descent_has_the_papers_step_counts(self):
        assert popdescent.FASHION_MNIST.counted_steps == 32_000
        assert popdescent.CIFAR10.counted_steps == 25_600
        # What the paper leaves out: 1,600 and 3,840 steps of fine-tuning.
        assert popdescent.FASHION_MNIST.all_steps == 33_600
        assert popdescent.CIFAR10.all_steps == 29_440

    @pytest.mark.parametrize(
        ("dataset", "regularization"),
        [(d, r) for d in table1.DATASETS for r in table1.REGULARIZATIONS],
    )
    def test_grid_search_has_the_papers_step_counts(self, dataset, regularization):
        settings, _ = table1.basic_grid_search(dataset, regularization == "with", fair=False)
        name = report.DATASETS[dataset]
        paper = report.published("1", name, regularization, "Basic Grid Search")
        assert settings.counted_steps == paper.steps

    def test_dropout_is_in_the_published_baselines_of_fashion_mnist_alone(self):
        def dropouts(model):
            return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]

        for fair, expected in ((False, [0.5]), (True, [])):
            for method in (table1.basic_grid_search, table1.keras_tuner_search):
                _, build = method("fmnist", False, fair)
                assert dropouts(build(keras.optimizers.Adam(), None)) == expected
        _, build = table1.population_descent("fmnist", False)
        assert dropouts(build()) == []

    @pytest.mark.parametrize(
        ("build", "parameters"),
        [
            (networks.fashion_mnist, 4_575_242),
            (networks.cifar10, 186_250),
            (lambda: networks.cifar10(third_padding="valid"), 186_250),
            (networks.esgd_fashion_mnist, 6_934_538),
            (networks.esgd_cifar10, 186_250),
        ],
    )
    def test_the_networks_have_the_papers_parameters(self, build, parameters):
        assert build().count_params() == parameters

    @pytest.mark.parametrize("dataset", table1.DATASETS)
    def test_the_penalty_is_on_the_dense_layer(self, dataset):
        _, build = table1.population_descent(dataset, True)
        layers = [x for x in build().layers if getattr(x, "kernel_regularizer", None)]
        assert [type(layer).__name__ for layer in layers] == ["Dense"]
        assert float(layers[0].kernel_regularizer.l2) == pytest.approx(0.001)
        _, build = table1.population_descent(dataset, False)
        assert build().losses == []

    def test_the_ablation_has_it_on_all_hidden_layers(self):
        assert len(networks.fashion_mnist(l2=0.001, l2_everywhere=True).losses) == 4
        settings = {number: table2.settings_of(row) for number, row in table2.ROWS.items()}
        assert {s.counted_steps for s in settings.values()} == {44_800}
        assert [s.num_elites for s in settings.values()] == [5, 10, 5, 5]
        assert [s.l2 for s in settings.values()] == [0.001, 0.001, None, None]
        assert settings["4"].objective == "last_cross_entropy"

    def test_esgd_begins_as_pytorch_does(self):
        weights = networks.esgd_cifar10().layers[1].get_weights()
        for array in weights:
            assert np.abs(array).max() <= 1 / math.sqrt(27)
        assert np.abs(weights[0]).max() > 0.9 / math.sqrt(27)
        assert np.any(weights[1] != 0.0)

    def test_seeds_are_the_papers(self):
        assert len(table1.SEEDS) == 10 and table1.SEEDS[:3] == (5, 15, 24)
        assert table2.SEEDS == (5, 34, 79)
        assert table3.SEED == table4.SEED == 34
        assert len(figure1.SEEDS) == 6


class TestRuns:
    @pytest.fixture(autouse=True)
    def _small(self, split, monkeypatch):
        monkeypatch.setattr(data, "load_split", lambda name: split)
        for module in (table1, table2, table3, table4, figure1):
            monkeypatch.setattr(module, "load_split", lambda name: split)

    def names(self, *arguments):
        return [run.name for run in command.todo(command.parser().parse_args(arguments))]

    def test_everything_that_the_paper_has(self):
        # Twelve rows of ten seeds, and ESGD without regularization on both data sets.
        assert len(self.names("run", "table1")) == 14 * 10
        assert len(set(self.names("run", "table1"))) == 14 * 10
        assert len(self.names("run", "table2")) == 4 * 3
        # Two rows of three settings share one.
        assert len(self.names("run", "table3")) == 5
        assert len(self.names("run", "table4")) == 5
        assert len(self.names("run", "figure1")) == 4 * 6
        seeds_of_all = 3 * 10 + 4 * 3 + 6
        assert len(set(self.names("run", "rules"))) == 4 * seeds_of_all
        assert len(self.names("run", "rules", "--smoke")) == 4 * 8

    @pytest.mark.parametrize("experiment", rules.EXPERIMENTS)
    def test_another_rule_changes_nothing_else(self, split, experiment):
        seed = rules.EXPERIMENTS[experiment][0]
        other = rules.one("learning_rate", experiment, seed).settings
        table, _, cell = experiment.partition("_")
        if table == "table1":
            dataset, regularization = cell.split("_")
            released = table1.one(dataset, split, regularization, "popdescent", seed).settings
        elif table == "table2":
            released = table2.one(cell.removeprefix("row"), split, seed).settings
        else:
            released = figure1.one("popdescent", split, seed).settings
        assert (released["rule"], other["rule"]) == ("loss_scale", "learning_rate")
        assert other == {
            "experiment": experiment,
            **{key: released[key] for key in other if key not in ("experiment", "rule")},
            "rule": "learning_rate",
        }

    def test_a_choice(self):
        names = self.names(
            "run", "table1", "--dataset", "fmnist", "--regularization", "with",
            "--method", "popdescent", "--seeds", "5", "15",
        )  # fmt: skip
        assert names == ["table1_fmnist_with_popdescent_5", "table1_fmnist_with_popdescent_15"]

    def test_a_run_that_serves_both_protocols_is_one(self):
        chosen = ("run", "table1", "--seeds", "5", "--dataset", "cifar10", "--regularization")
        published = self.names(*chosen, "without")
        fair = self.names(*chosen, "without", "--protocol", "fair")
        shared = set(published) & set(fair)
        assert shared == {
            "table1_cifar10_without_popdescent_5",
            "table1_cifar10_without_grid_search_5",
        }
        assert "table1_cifar10_without_esgd_fair_5" in fair

    def test_table_4s_own_setting_is_table_1s(self):
        assert "table1_cifar10_without_esgd_34" in self.names("run", "table4")
        assert "table1_cifar10_without_esgd_34" in self.names("run", "table1")

    def test_a_finished_run_is_skipped(self, cache, capsys):
        calls = []

        def do(folder):
            calls.append(folder)
            return {"seed": 1}

        run = Run("name", {"a": 1}, do)
        [first] = runs.do_all([run])
        assert runs.do_all([run]) == [first] == [cache / "results" / "name.json"]
        assert len(calls) == 1 and not calls[0].exists()
        assert "done before" in capsys.readouterr().out
        record = json.loads(first.read_text())
        assert record["settings"] == {"a": 1} and record["versions"]["keras"]
        assert list(first.parent.iterdir()) == [first]

    def test_an_interrupted_run_finds_its_folder_again(self, cache):
        def do(folder):
            mark = folder / "mark"
            if not mark.exists():
                mark.touch()
                raise KeyboardInterrupt
            return {"seed": 1}

        run = Run("name", {}, do)
        with pytest.raises(KeyboardInterrupt):
            runs.do_all([run])
        assert not (cache / "results").exists()
        [path] = runs.do_all([run])
        record = json.loads(path.read_text())
        assert record["starts"] == 2 and record["device"] == runs.device()

    def test_a_run_that_moves_says_on_what_it_ran(self, cache, monkeypatch):
        def do(folder):
            if len((folder / "starts").read_text().splitlines()) == 1:
                raise KeyboardInterrupt
            return {"seed": 1}

        run = Run("name", {}, do)
        monkeypatch.setattr(runs, "device", lambda: "jax on a GPU")
        with pytest.raises(KeyboardInterrupt):
            runs.do_all([run])
        monkeypatch.setattr(runs, "device", lambda: "tensorflow on a CPU")
        [path] = runs.do_all([run])
        record = json.loads(path.read_text())
        assert record["device"] == "jax on a GPU, then tensorflow on a CPU"

    def test_a_smoke_run_is_repeated_and_leaves_no_result(self, cache):
        calls = []

        def do(folder):
            calls.append(list(folder.iterdir()))
            (folder / "left").touch()
            return {"seed": 1}

        for _ in range(2):
            [path] = runs.do_all([Run("name", {}, do)], smoke=True)
        assert [len(found) for found in calls] == [1, 1]
        assert path.exists() and not (cache / "results").exists()


class TestEvaluation:
    def test_the_fixed_images_are_those_of_numpys_seed_0(self):
        np.random.seed(0)  # noqa: NPY002 - as the authors did
        expected = np.random.choice(4999, size=1600, replace=False)  # noqa: NPY002
        np.testing.assert_array_equal(fixed_indices(), expected)

    def test_measure_separates_the_penalty(self, split):
        model = tiny(l2=0.1)
        measured = measure(model, split)
        reported = model.evaluate(split.x_test, split.y_test, verbose=0)[0]
        assert measured["penalty"] > 0.5
        assert measured["test_loss"] + measured["penalty"] == pytest.approx(reported, rel=1e-4)
        loss, accuracy = cross_entropy(model, split.x_val, split.y_val)
        assert measured["val_loss"] == pytest.approx(loss, rel=1e-5)
        assert measured["val_accuracy"] == accuracy
        # 79 of 80 images are drawn.
        index = fixed_indices(80)
        loss, _ = cross_entropy(model, split.x_val[index], split.y_val[index])
        assert measured["published_val_loss"] == pytest.approx(loss, rel=1e-5)

    def test_what_was_published_of_whom(self):
        first = {
            "published_test_loss": 0.3, "published_train_loss": 0.2, "published_val_loss": 0.5,
            "penalty": 0.0, "val_loss": 0.4, "test_loss": 0.45, "test_accuracy": 0.8,
        }  # fmt: skip
        second = {**first, "published_test_loss": 0.4, "published_train_loss": 0.1, "penalty": 0.05}
        second |= {"val_loss": 0.3, "test_loss": 0.6}
        both = [first, second]
        assert evaluation.best_on_test(both) == {"test_loss": 0.3, "train_loss": 0.2}
        assert evaluation.minima(both) == {"test_loss": 0.3, "train_loss": pytest.approx(0.15)}
        assert evaluation.minima([second], "published_val_loss")["test_loss"] == 0.55
        diverged = {name: math.nan for name in first}
        for models in ([diverged, *both], [*both, diverged]):
            assert evaluation.best_on_test(models) == evaluation.best_on_test(both)
            assert evaluation.minima(models) == evaluation.minima(both)
            assert evaluation.fair(models) == evaluation.fair(both)
        assert math.isnan(evaluation.fair([diverged])["test_loss"])
        # Fair: chosen on validation, though its test loss is the larger one.
        assert evaluation.fair(both)["test_loss"] == 0.6

    @pytest.mark.backend
    def test_the_last_batchs_cross_entropy(self, split):
        model = tiny(metrics=[evaluation.LastBatchCrossEntropy()])
        model.evaluate(split.x_train[:70], split.y_train[:70], batch_size=32, verbose=0)
        logs = model.get_metrics_result()
        expected, _ = cross_entropy(model, split.x_train[64:70], split.y_train[64:70])
        assert float(logs["last_cross_entropy"]) == pytest.approx(expected, rel=1e-5)
        restored = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(evaluation.LastBatchCrossEntropy())
        )
        assert restored.name == "last_cross_entropy"
        # JAX takes no variable for a result where a model is tried out on shapes alone.
        other = tiny(metrics=[restored])
        other.test_on_batch(split.x_train[:8], split.y_train[:8])


class TestMethods:
    def test_population_descent(self, split, tmp_path):
        settings = popdescent.Settings(
            iterations=2, passes=2, batches=2, batch_size=16,
            fine_tuning_rounds=1, fine_tuning_batches=3, fine_tuning_batch_size=8,
        )  # fmt: skip
        result = popdescent.run(settings, split, tiny, 5, tmp_path)
        assert result["counted_steps"] == 40
        assert result["all_steps"] == 55 == settings.all_steps
        members = result["members"]
        assert len(members) == 5
        assert {member["slot"] for member in members} == set(range(5))
        lowest = min(member["published_test_loss"] for member in members)
        assert result["as_published"]["test_loss"] == lowest
        chosen = min(members, key=lambda member: member["val_loss"])
        assert result["fair"]["test_loss"] == chosen["test_loss"]
        json.dumps(result)

    @pytest.mark.parametrize("rule", popdescent.RULES)
    def test_a_rule_is_the_authors_code_in_all_but_the_number(self, rule):
        settings = replace(popdescent.FASHION_MNIST, rule=rule)
        strategy, _ = popdescent.strategy_of(settings)
        released, _ = popdescent.strategy_of(popdescent.FASHION_MNIST)
        other, known = strategy.get_config(), released.get_config()
        assert (other.pop("mutation") == known.pop("mutation")) == (rule == "loss_scale")
        assert other == known

    @pytest.mark.parametrize("rule", popdescent.OTHER_RULES)
    def test_what_the_number_does(self, split, tmp_path, rule):
        settings = popdescent.Settings(iterations=2, passes=1, batches=2, batch_size=16, rule=rule)
        result = popdescent.run(settings, split, tiny, 5, tmp_path)
        rates = {values.get(popdescent.LEARNING_RATE) for values in result["values"]}
        if rule == "none":
            assert rates == {None}
        else:
            assert None not in rates and len(rates) > 1
        factors = {values.get(LOSS_SCALE) for values in result["values"]}
        assert len(factors) == (5 if rule == "both" else 1)
        assert (factors == {None}) == (rule != "both")

    @pytest.mark.parametrize(
        ("rule", "octaves"),
        [("learning_rate", 1.5), ("initial_learning_rate", 0.0), ("both", 0.0)],
    )
    def test_the_learning_rate_starts_and_moves_as_the_number_did(self, rule, octaves):
        mutation, _ = popdescent.OTHER_RULES[rule]
        name = popdescent.LEARNING_RATE
        space = SearchSpace([LogDimension(name, 1e-6, 1.0, default=1e-3)])
        rng = np.random.default_rng(0)
        started = np.log10([values[name] for values in mutation.start(2000, space, rng)])
        assert abs(started.mean() + 4.0) < 0.15 and abs(started.std() - 2.0) < 0.1
        values = {name: 0.01, LOSS_SCALE: 0.01, L2_SCALE: 1.0}
        moved = [mutation.mutate(values, 0.1, space, rng)[name] for _ in range(2000)]
        steps = np.log2(np.divide(moved, 0.01))
        assert abs(steps.mean()) < 0.15 and steps.std() == pytest.approx(octaves, abs=0.1)

    def test_without_randomization_nobody_is_replaced(self, split, tmp_path):
        settings = replace(
            table2.settings_of(table2.ROWS["2"]), iterations=3, batches=2, fine_tuning_rounds=0
        )
        result = popdescent.run(settings, split, lambda: tiny(l2=0.001), 5, tmp_path, monitor=True)
        assert len(result["members"]) == 10
        assert [steps for steps, _ in result["curve"]] == [20, 40, 60]

    def test_selection_on_training(self, split, tmp_path):
        settings = replace(
            table2.settings_of(table2.ROWS["4"]), iterations=2, batches=2, population_size=3,
            num_elites=2, fine_tuning_rounds=0,
        )  # fmt: skip

        def build():
            return tiny(metrics=[evaluation.LastBatchCrossEntropy()])

        result = popdescent.run(settings, split, build, 5, tmp_path)
        # About ln 10, though the training loss is scaled by multipliers of 1e-4 or so.
        assert 1.5 < result["lowest_score"][0] < 4.0

    @pytest.mark.parametrize("method", [popdescent, esgd])
    def test_an_interrupted_run_goes_on_as_it_would_have(
        self, split, tmp_path, monkeypatch, method
    ):
        settings = popdescent.Settings(
            iterations=4, passes=1, batches=2, batch_size=16,
            fine_tuning_rounds=2, fine_tuning_batches=2, fine_tuning_batch_size=16,
        )  # fmt: skip
        if method is esgd:
            settings = replace(esgd.FASHION_MNIST, generations=4, batch_size=300)

        def run(folder):
            return method.run(settings, split, tiny, 5, folder, monitor=True)

        whole = run(_made(tmp_path / "whole"))
        folder = _made(tmp_path / "halted")
        original = Monitor.iteration_end

        def halt(self, record):
            original(self, record)
            if record.iteration == 3:
                raise RuntimeError("the power is gone")

        monkeypatch.setattr(Monitor, "iteration_end", halt)
        with pytest.raises(RuntimeError):
            run(folder)
        monkeypatch.setattr(Monitor, "iteration_end", original)
        resumed = run(folder)
        assert resumed["members"] == whole["members"]
        assert resumed["all_steps"] == whole["all_steps"]
        assert resumed["curve"] == whole["curve"]

    def test_figure_1s_curve(self, split, tmp_path):
        settings = popdescent.Settings(iterations=3, passes=1, batches=2, batch_size=16)
        result = popdescent.run(settings, split, tiny, 5, tmp_path, monitor=True)
        assert [steps for steps, _ in result["curve"]] == [10, 20, 30]
        assert all(0.0 < loss < 5.0 for _, loss in result["curve"])
        kept = Monitor(tmp_path, split.x_val, split.y_val, 10, 0)
        assert kept.points == result["curve"]

    def test_esgd(self, split, tmp_path):
        settings = replace(esgd.FASHION_MNIST, generations=2, batch_size=128)
        result = esgd.run(settings, split, tiny, 5, tmp_path, monitor=True)
        # Five members, five batches an epoch, two epochs.
        assert result["counted_steps"] == 50
        assert [steps for steps, _ in result["curve"]] == [25, 50]
        members = result["members"]
        lowest = min(member["published_val_loss"] for member in members)
        assert result["as_published"]["test_loss"] == lowest
        json.dumps(result)

    def test_esgd_with_validation(self, split, tmp_path):
        settings = replace(esgd.CIFAR10, generations=1, batch_size=128, ranked_on="validation")
        result = esgd.run(settings, split, tiny, 5, tmp_path)
        assert result["strategy"]["class"] == "ESGD"
        assert len(result["members"]) == 5

    def grid(self, **changes):
        return grid_search.Settings(
            **{"iterations": 3, "monitored": 20, "batches": 2, "batch_size": 16, **changes}
        )

    def test_grid_search(self, split, tmp_path):
        settings = self.grid(learning_rates=(0.01, 1e-6), l2=(0.1, 1e-6))
        result = grid_search.run(settings, split, lambda o, l2: tiny(o, l2), 5, tmp_path)
        cells = [(member["learning_rate"], member["l2"]) for member in result["members"]]
        assert cells == [(0.01, 0.1), (0.01, 1e-6), (1e-6, 0.1), (1e-6, 1e-6)]
        assert result["counted_steps"] == 24
        # The last iteration has no point.
        assert [steps for steps, _ in result["curve"]] == [8, 16]
        totals = [m["published_test_loss"] + m["penalty"] for m in result["members"]]
        assert result["as_published"]["test_loss"] == pytest.approx(min(totals))
        json.dumps(result)

    @pytest.mark.backend
    @pytest.mark.parametrize("l2", [(None,), (0.1, 1e-6)])
    def test_a_grid_that_is_trained_at_once(self, split, tmp_path, monkeypatch, l2):
        """As on an accelerator: the same cells, subsets and steps, and each model's own values."""
        monkeypatch.setattr(grid_search, "on_accelerator", lambda: True)
        settings = self.grid(learning_rates=(0.05, 1e-9), l2=l2)
        fed = []
        original = grid_search.Population.fit

        def fit(population, x, y, **arguments):
            fed.append(x)
            return original(population, x, y, **arguments)

        monkeypatch.setattr(grid_search.Population, "fit", fit)
        result = grid_search.run(settings, split, lambda o, l2: tiny(o, l2), 5, tmp_path)
        assert result["trained"] == "together"
        cells = [(member["learning_rate"], member["l2"]) for member in result["members"]]
        assert cells == [(rate, each) for rate in (0.05, 1e-9) for each in l2]
        for iteration, x in enumerate(fed):
            _, (expected, _) = grid_search._subset(settings, split, 5, iteration)
            np.testing.assert_array_equal(x, expected)
        assert len(fed) == 3 and len(fed[0]) == 32
        trained, untrained = result["members"][0], result["members"][-1]
        assert trained["published_train_loss"] < untrained["published_train_loss"]
        if l2 == (None,):
            assert [steps for steps, _ in result["curve"]] == [4, 8]
            assert all(member["penalty"] == 0.0 for member in result["members"])
        else:
            # The coefficients' ratio is that of the penalties of what was hardly trained.
            assert result["curve"] == []
            strong, weak = result["members"][2:]
            assert strong["penalty"] / weak["penalty"] == pytest.approx(1e5, rel=0.2)
        json.dumps(result)

    @pytest.mark.parametrize("method", ["popdescent", "esgd", "grid"])
    def test_what_an_interrupt_leaves_is_no_result(
        self, split, cache, tmp_path, monkeypatch, method
    ):
        """`fit` ends well after Ctrl-C: it must not be taken for the whole."""
        doing = {
            "popdescent": lambda folder: popdescent.run(
                popdescent.Settings(iterations=3, passes=1, batches=2), split, tiny, 5, folder
            ),
            "esgd": lambda folder: esgd.run(
                replace(esgd.CIFAR10, generations=3, batch_size=128), split, tiny, 5, folder
            ),
            "grid": lambda folder: grid_search.run(
                self.grid(learning_rates=(0.01,)), split, lambda o, l2: tiny(o, l2), 5, folder
            ),
        }
        monkeypatch.setattr(grid_search, "on_accelerator", lambda: True)
        original, calls = SequentialExecutor.advance, []

        def advance(*arguments, **keywords):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(*arguments, **keywords)

        monkeypatch.setattr(SequentialExecutor, "advance", advance)
        run = Run("one", {}, doing[method])
        with pytest.raises(KeyboardInterrupt):
            runs.do_all([run])
        assert not runs.result_path("one").exists() and runs.work_folder("one").exists()
        runs.do_all([run])
        assert runs.result_path("one").exists()

    def test_an_interrupted_grid_goes_on_as_it_would_have(self, split, tmp_path, monkeypatch):
        monkeypatch.setattr(grid_search, "SAVE_EVERY", 1)
        settings = self.grid(learning_rates=(0.01, 0.001))
        build = lambda o, l2: tiny(o, l2)  # noqa: E731
        whole = grid_search.run(settings, split, build, 5, _made(tmp_path / "whole"))
        folder = _made(tmp_path / "halted")
        original = grid_search._save

        def save(folder, models, iteration, curve):
            original(folder, models, iteration, curve)
            if iteration == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(grid_search, "_save", save)
        with pytest.raises(KeyboardInterrupt):
            grid_search.run(settings, split, build, 5, folder)
        monkeypatch.setattr(grid_search, "_save", original)
        resumed = grid_search.run(settings, split, build, 5, folder)
        assert resumed["members"] == whole["members"]
        assert resumed["curve"] == whole["curve"]

    @pytest.mark.parametrize("fair", [False, True])
    def test_random_search(self, split, tmp_path, fair):
        settings = replace(
            random_search.Settings(l2=(1e-5, 1e-1), fair=fair), max_trials=2, last_epochs=3
        )
        result = random_search.run(settings, split, tiny, 5, tmp_path)
        # 600 images make ten batches of 64.
        assert result["counted_steps"] == 2 * 2 * 10
        epochs = (result["all_steps"] - result["counted_steps"]) / 10
        assert epochs == len(result["curve"]) in (1, 2, 3)
        [member] = result["members"]
        assert 1e-4 <= member["learning_rate"] <= 1e-2 and 1e-5 <= member["l2"] <= 0.1
        assert result["as_published"]["test_loss"] == pytest.approx(
            member["published_test_loss"] + member["penalty"]
        )
        json.dumps(result)


def _made(folder):
    folder.mkdir()
    return folder


class TestData:
    def test_damaged_arrays(self):
        arrays = (np.zeros((2, 2), np.uint8),) * 4
        with pytest.raises(DamagedDatasetError, match=r"x_train of cifar10.*sha256="):
            data.checked("cifar10", arrays, "somewhere")

    def test_no_source(self, monkeypatch):
        def broken():
            raise OSError("no network")

        monkeypatch.setattr(data, "sources", lambda name: iter([("a source", broken)]))
        with pytest.raises(DatasetUnavailableError, match=r"a source: no network.*npm"):
            data.fetch("cifar10")

    def test_the_cache_comes_first_and_is_checked(self, tmp_path, monkeypatch):
        monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path))
        arrays = tuple(np.full((3,), value, np.uint8) for value in range(4))
        sums = tuple(data.hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)
        monkeypatch.setitem(data.CHECKSUMS, "cifar10", sums)
        monkeypatch.setattr(data, "sources", lambda name: iter([("made up", lambda: arrays)]))
        data.load("cifar10")
        monkeypatch.setattr(data, "sources", lambda name: iter([]))
        for expected, loaded in zip(arrays, data.load("cifar10"), strict=True):
            np.testing.assert_array_equal(expected, loaded)
        monkeypatch.setitem(data.CHECKSUMS, "cifar10", ("0" * 64,) * 4)
        with pytest.raises(DamagedDatasetError, match="Delete it"):
            data.load("cifar10")

    def test_split_is_the_papers(self, monkeypatch):
        x = np.arange(10_000, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
        y = np.arange(10_000).astype(np.uint8)
        monkeypatch.setattr(data, "load", lambda name: (x[:100], y[:100], x, y))
        split = data.load_split("fmnist")
        assert split.x_train.shape == (100, 2, 2, 1) and split.x_train.dtype == np.float32
        assert split.x_train.max() <= 1.0
        assert len(split.x_val) == len(split.x_test) == 5000
        assert split.y_test[0] == y[5000]


class TestReport:
    def write(self, folder, name, seed, loss=0.85, **changes):
        result = {
            "name": name, "seed": seed, "counted_steps": 25600, "all_steps": 29440,
            "as_published": {"test_loss": loss, "train_loss": 0.6},
            "fair": {"test_loss": loss + 0.05, "test_accuracy": 0.7, "val_loss": 0.9},
            "curve": [[640, 0.6], [1280, 0.5]], "seconds": 3600.0, "device": "an abacus",
            "versions": {"keras": "3"}, **changes,
        }  # fmt: skip
        (folder / f"{name}_{seed}.json").write_text(json.dumps(result))

    def rows(self, lines, start):
        return [line for line in lines if line.startswith(start)]

    def test_the_papers_numbers_come_from_its_table(self):
        row = report.published("1", "CIFAR-10", "without", "Population Descent")
        assert (row.test, row.steps) == ((0.863, 0.014), 25600)
        assert report.published("1", "FMNIST", "with", "ESGD") is None
        off = "randomization=off; cv_selection=on"
        row = report.published("2", "FMNIST-10k", "with", "Population Descent", off)
        assert row.test == (0.412, 0.005)

    @pytest.mark.parametrize(
        ("losses", "expected"),
        [
            ([0.860, 0.863, 0.866], "matches, p 1"),
            # One seed matches nothing.
            ([0.863], "compatible, p 1"),
            # Two of the paper's deviations: one seed may lie there, three may not.
            ([0.890], "compatible, p 0.12"),
            ([0.894], "undecided, p 0.076"),
            # No test sees anything in two seeds that differ much, however far away they are.
            ([2.863, 4.863], "far higher, few seeds, p 0.2"),
            ([0.863, 4.863], "undecided, p 0.5"),
            ([-1.863, -4.863], "far lower, few seeds, p 0.22"),
            ([0.889, 0.891, 0.893], "higher than published, p < 0.001"),
            ([0.800], "lower than published, p 0.0028"),
        ],
    )
    def test_verdict(self, losses, expected):
        assert report.verdict(losses, (0.863, 0.014), 10) == expected

    def test_table_1(self, tmp_path):
        for seed, loss in ((5, 0.85), (15, 0.87), (7, 9.0)):
            self.write(tmp_path, "table1_cifar10_without_popdescent", seed, loss)
        lines = report.report_table1(tmp_path)
        assert len(self.rows(lines, "| FMNIST")) + len(self.rows(lines, "| CIFAR-10")) == 14
        [row] = self.rows(lines, "| CIFAR-10 | without | Population Descent")
        # Seed 7 is none of the paper's.
        assert (
            "| 0.863 ± 0.014 | 0.860 ± 0.010 | 2 | -0.2 σ | compatible, p 0.82 | 0.577 ± 0.060 |"
            in row
        )
        assert "| 25,600 | 25,600 | 29,440 |" in row
        assert "not run" in self.rows(lines, "| CIFAR-10 | with | ")[0]
        assert "0 have the paper's 10 seeds, 1 have fewer, 13 were not run" in lines[-2]

    def test_the_fair_table(self, tmp_path):
        for seed, loss in ((5, 0.85), (15, 0.87), (24, 0.86)):
            self.write(tmp_path, "table1_cifar10_without_popdescent", seed, loss)
            self.write(tmp_path, "table1_cifar10_without_esgd_fair", seed, loss + 0.2)
        self.write(tmp_path, "table1_cifar10_without_esgd", 5, 5.0)
        self.write(tmp_path, "table1_cifar10_without_grid_search", 5, 0.95)
        lines = report.report_fair(tmp_path)
        [ours] = self.rows(lines, "| CIFAR-10 | without | Population Descent")
        # Student's t of two degrees of freedom, 4.303, times 0.01 / sqrt(3).
        assert "0.910 ± 0.010 | 0.885 to 0.935 | 70.0% | 3 | 29,440 | - |" in ours
        [row] = self.rows(lines, "| CIFAR-10 | without | ESGD")
        assert "1.110 ± 0.010" in row and "+0.200, +0.177 to +0.223 (p < 0.001)" in row
        [row] = self.rows(lines, "| CIFAR-10 | without | Basic Grid Search")
        assert "+0.090 (too few seeds)" in row
        assert "0 have the paper's 10 seeds, 3 have fewer, 11 were not run" in lines[-2]

    def test_table_2(self, tmp_path):
        self.write(tmp_path, "table2_row4", 34, 1.2, as_published={
            "test_loss": 1.2, "train_loss": 0.0002})  # fmt: skip
        lines = report.report_table2(tmp_path)
        [row] = self.rows(lines, "| without | on | off")
        assert "| 1.140 ± 0.147 | 1.200 | 1 | +0.4 σ | compatible, p 0.8 |" in row
        assert "0.0003 ± 0.0002 | 0.0002 | -0.5 σ" in row
        assert "not run" in self.rows(lines, "| with | off | on")[0]

    def test_update_rules(self, tmp_path):
        for seed, loss in ((5, 0.35), (34, 0.36), (79, 0.355)):
            self.write(tmp_path, "table2_row3", seed, loss + 0.8)
            self.write(tmp_path, "rules_learning_rate_table2_row3", seed, loss)
        self.write(tmp_path, "rules_initial_learning_rate_table2_row3", 5, 1.1)
        self.write(tmp_path, "figure1_popdescent", 101)
        self.write(tmp_path, "rules_none_figure1", 101, curve=[[640, 0.3], [1280, 0.2]])
        lines = report.report_rules(tmp_path)
        [released, rate, first] = self.rows(lines, "| table2 row3")
        assert "| 0.356 ± 0.009 | 1.155 ± 0.004 | 3 | +88.8 σ | higher" in released
        assert "| the learning rate | 0.356 ± 0.009 | 0.355 ± 0.004 | 3 | -0.1 σ | matches" in rate
        assert "| 1.100 | 1 |" in first
        assert not self.rows(lines, "| table1")
        assert "| 0.301 to 0.344 | 0.550 |" in self.rows(lines, "| a factor")[0]
        assert "| nothing | 1 | 640 to 24,960 | 0.301 to 0.344 | 0.250 |" in lines
        assert any("5 of the 192 runs" in line for line in lines)

    def test_the_spread_over_settings_is_judged_too(self):
        losses = report.Numbers((0.95, 0.96, 0.97))
        assert report.size(losses, (0.958, 0.191)) == "of the same size, 0.0 times the spread"
        losses = report.Numbers((2.0, 3.0, 4.0))
        assert report.size(losses, (0.958, 0.191)) == "of another size, a spread alike"

    def test_curves_are_compared_where_both_have_points(self):
        curves = [[[4690, 0.64], [70350, 0.34], [71000, 0.9]]]
        first, _, last = report.thirds("ESGD", curves)
        assert first[1].startswith("4,690 to") and first[3] == "0.640"
        assert last[1].endswith("71,000") and last[3] == "0.620"

    def test_tables_3_and_4(self, tmp_path):
        for setting, loss in zip(table3.ROWS["iterations"], (1.2, 0.9, 0.8), strict=True):
            name = table3.name(*setting, 34).removesuffix("_34")
            self.write(tmp_path, name, 34, loss)
        lines = report.report_sensitivity("3", tmp_path)
        [row] = self.rows(lines, "| iterations")
        assert "0.001, 10: 1.200 | 0.001, 30: 0.900 | 0.001, 50: 0.800" in row
        assert (
            "| 0.958 ± 0.191 | 0.967 ± 0.170 | +0.0 σ | 20% | 18% | "
            "of the same size, a spread alike |" in row
        )
        [row] = self.rows(lines, "| learning rate")
        assert "0.05, 30: not run" in row and "incomplete" in row
        assert (
            "1.325 ± 0.582"
            in self.rows(report.report_sensitivity("4", tmp_path), "| learning rate")[0]
        )

    def test_the_papers_curves(self):
        curves = drawing.paper_curves()
        assert {method: len(seeds) for method, seeds in curves.items()} == {
            "Population Descent": 6, "Basic Grid Search": 6, "ESGD": 6, "KT RandomSearch": 6,
        }  # fmt: skip
        assert curves["Population Descent"][0][0] == [640.0, pytest.approx(0.53825915)]

    def test_curves_in_thirds(self):
        """Two curves of ours, one of which has points in the first third alone."""
        ours = [[[1000, 0.4], [20_000, 0.2], [70_000, 0.5]], [[1000, 0.6]]]
        lines = report.thirds("Population Descent", ours)
        assert [line[1] for line in lines] == [
            "1,000 to 25,200", "25,200 to 49,400", "49,400 to 73,600"
        ]  # fmt: skip
        assert [line[3] for line in lines] == ["0.300 to 0.600", "-", "0.500"]
        # protocol.md: the authors' curves lie about 0.26 there.
        assert lines[2][2] == "0.263 to 0.285"
        assert [line[3] for line in report.thirds("ESGD", [])] == ["-"] * 3

    def test_it_is_written_from_the_results_alone(self, tmp_path, capsys):
        results, output = _made(tmp_path / "results"), tmp_path / "output"
        self.write(results, "figure1_popdescent", 101)
        self.write(results, "figure1_popdescent", 7)
        # Table 1's run, whose seed is none of the figure's, has the figure's curve.
        self.write(results, "table1_fmnist_without_grid_search", 5)
        command.main(["report", "--results", str(results), "--output", str(output)])
        assert capsys.readouterr().out.split() == ["RESULTS.md", "figure1.png"]
        text = (output / "RESULTS.md").read_text("utf-8")
        assert "Population Descent 1" in text and "ESGD 0" in text
        assert "Basic Grid Search 1, KT RandomSearch 0" in text
        assert "3 runs, 3.0 hours" in text and "an abacus" in text
        assert (output / "figure1.png").stat().st_size > 20_000

    def test_without_results(self, tmp_path):
        report.write(_made(tmp_path / "none"), tmp_path / "output")
        assert "14 were not run" in (tmp_path / "output" / "RESULTS.md").read_text("utf-8")


class TestProcesses:
    """Several runs at once; here each process is a few lines of Python."""

    @pytest.fixture
    def program(self, tmp_path, monkeypatch):
        """Processes that note when they begin and end, and fail or stay if their name says so."""
        monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
        for module in (processes, runs):
            monkeypatch.setattr(module, "result_path", lambda name, smoke=False: tmp_path / name)
        script = textwrap.dedent(f"""
            import os, pathlib, sys, time
            name = sys.argv[sys.argv.index("--only") + 1]
            folder = pathlib.Path({str(tmp_path)!r})
            with (folder / "diary").open("a") as diary:
                print("begin", name, sys.argv[1:3], file=diary)
            if "slow" in name:
                time.sleep(60)
            if "bad" in name:
                sys.exit("the " + name + " one")
            while name in "ab" and (folder / "diary").read_text().count("begin") < 2:
                time.sleep(0.05)  # these two are there together
            (folder / name).write_text(os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"])
            with (folder / "diary").open("a") as diary:
                print("end", name, file=diary)
        """)
        monkeypatch.setattr(processes, "PROGRAM", (sys.executable, "-c", script))

    def runs(self, *names):
        return [Run(name, {}, lambda folder: {}) for name in names]

    def test_as_many_as_asked_for_and_each_once(self, program, tmp_path, capsys):
        (tmp_path / "before").write_text("")
        todo = self.runs("a", "before", "b", "c", "d")
        paths = processes.do_all(todo, ["run", "table1"], jobs=2)
        assert paths == [tmp_path / run.name for run in todo]
        events = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
        begun = [event[1] for event in events if event[0] == "begin"]
        assert sorted(begun) == ["a", "b", "c", "d"]
        assert events[0][2:] == ["['run',", "'table1']"]
        at_once = np.cumsum([1 if event[0] == "begin" else -1 for event in events])
        assert at_once.max() == 2
        assert (tmp_path / "a").read_text() == "false"
        printed = capsys.readouterr().out
        assert "1 of 5 runs were done before" in printed and "c: done in" in printed
        assert not list((tmp_path / "cache").rglob("*.log"))

    def test_names_with_dots_have_logs_of_their_own(self, program, tmp_path):
        names = [
            table3.name(rate, iterations, 34) for rate, iterations in table3.ROWS["iterations"]
        ]
        assert len({name.split(".")[0] for name in names}) == 1
        processes.do_all(self.runs(*names), [], jobs=3)
        assert all((tmp_path / name).exists() for name in names)

    def test_one_that_fails_ends_no_other_and_is_told(self, program, tmp_path, capsys):
        with pytest.raises(RuntimeError, match="These runs failed: bad"):
            processes.do_all(self.runs("bad", "c", "d"), [], jobs=1)
        assert (tmp_path / "c").exists() and (tmp_path / "d").exists()
        assert "the bad one" in capsys.readouterr().out

    def test_an_interrupt_ends_all(self, program, tmp_path, monkeypatch):
        def interrupt(seconds):
            wait_until((tmp_path / "diary").exists)
            raise KeyboardInterrupt

        began = time.perf_counter()
        monkeypatch.setattr(processes.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            processes.do_all(self.runs("slow"), [], jobs=2)
        assert time.perf_counter() - began < 50
        assert not (tmp_path / "slow").exists()

    def test_the_command_line(self, monkeypatch, capsys):
        line = ["run", "table3", "--vary", "iterations", "--jobs", "3"]
        asked = []
        monkeypatch.setattr(processes, "do_all", lambda *a: asked.append(a) or [])
        monkeypatch.setattr(command, "todo", lambda chosen: self.runs("a", "b"))
        command.main(line)
        [(todo, arguments, jobs, smoke)] = asked
        assert [run.name for run in todo] == ["a", "b"]
        assert (arguments, jobs, smoke) == (line, 3, False)
        done = []
        monkeypatch.setattr(command, "do_all", lambda todo, smoke: done.extend(todo) or [])
        command.main([*line, "--only", "b"])
        assert [run.name for run in done] == ["b"] and len(asked) == 1


def wait_until(condition, seconds=30):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        threading.Event().wait(0.05)


class TestCommandLine:
    @pytest.mark.parametrize("what", ["table1", "table2", "table3", "table4", "figure1"])
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ([], "all"),
            (["--seeds", "7", "8"], [7, 8]),
            (["--smoke"], "first"),
            (["--smoke", "--seeds", "7", "8"], [7, 8]),
        ],
    )
    def test_seeds(self, what, given, expected):
        """A smoke run does everything, with one seed."""
        chosen = command.parser().parse_args(["run", what, *given])
        seeds = list(getattr(command, what).SEEDS) if what[-1] in "12" else [34]
        known = {"all": seeds, "first": seeds[:1]}
        assert command.seeds_of(chosen) == (known[expected] if str(expected) in known else expected)
