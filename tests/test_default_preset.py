"""The comparison of the default preset: protocol, statistics, resume and tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import records, report
from benchmarks.default_preset import __main__ as command
from benchmarks.default_preset import contestants, sensitivity, tables, tasks
from benchmarks.searches.task import Found, Range
from keras_popdescent import Averaging, PopDescent
from keras_popdescent.plots.style import RC
from keras_popdescent.strategies import PopulationView, Strategy
from keras_popdescent.strategies.space import LogDimension, SearchSpace

RNG = np.random.default_rng(0)


@pytest.fixture
def task(tiny_task):
    return replace(tiny_task, epochs=4)


class TestTasks:
    def test_the_middle_is_what_is_taken_without_a_search(self, task):
        assert task.middle == {"learning_rate": pytest.approx(1e-2)}
        assert Range(0.0, 0.6).middle == pytest.approx(0.3)

    def test_a_part_of_the_labels_is_noise(self):
        labels = np.arange(10_000) % 10
        noisy = tasks.noisy(labels, np.random.default_rng(0))
        # One in ten of those that are drawn anew stays what it was.
        assert np.mean(noisy != labels) == pytest.approx(0.9 * tasks.LABEL_NOISE, abs=0.01)

    @pytest.mark.parametrize("make", [tasks.digits, tasks.friedman])
    def test_no_sample_is_in_two_parts(self, make):
        task = make()
        parts = [task.training[0], task.validation[0], task.test[0]]
        images = np.concatenate(parts)
        # A few of the digits are alike.
        assert len(np.unique(images, axis=0)) >= len(images) - 2
        assert [len(part) for part in parts[:2]] == [500, 250]
        assert len(parts[2]) > 1000

    @pytest.mark.parametrize("make", [tasks.digits, tasks.friedman])
    def test_a_seed_has_a_split_of_its_own(self, make):
        first, again, other = (make(seed).validation[0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.mean(first == other) < 0.9
        assert make().own_split

    def test_a_regression_is_judged_by_its_squared_error(self):
        task = tasks.tiny(tasks.friedman())
        model = task.build(task.middle)
        x, y = task.test
        expected = np.mean((model.predict(x, verbose=0) - y) ** 2)
        assert tasks.loss(task, model, task.test) == pytest.approx(expected, rel=1e-5)
        assert tasks.accuracy(task, model, task.test) is None
        assert task.objective == "val_squared_error"
        reported = model.evaluate(x, y, verbose=0, return_dict=True)
        assert reported["squared_error"] == pytest.approx(expected, rel=1e-4)


class TestContestants:
    @pytest.mark.parametrize(
        ("models", "total", "cosine", "steps"),
        [(1, False, False, 12), (1, True, True, 24), (2, False, True, 24)],
    )
    def test_plain_training_takes_its_steps(self, models, total, cosine, steps, task, tmp_path):
        found = contestants.plain(models, total, cosine, task, 0, tmp_path)
        assert found.gradient_steps == steps
        untrained = tasks.loss(task, task.build({"learning_rate": 0.1}), task.validation)
        assert tasks.loss(task, found.model, task.validation) < 2.0 * untrained

    @pytest.mark.parametrize("make", [PopDescent, PopDescent.paper, PopDescent.reference])
    def test_a_population_takes_the_same_steps(self, make, task, tmp_path):
        found = contestants.popdescent(make, task, 0, tmp_path)
        assert found.gradient_steps == task.budget

    @pytest.mark.parametrize("share", [0.5, 0.7])
    def test_the_best_alone_takes_what_the_search_has_left(self, share, task, tmp_path):
        found = contestants.then_alone(share, task, 0, tmp_path)
        assert found.gradient_steps == task.budget
        searched = contestants.popdescent(
            PopDescent, replace(task, epochs=round(4 * share)), 0, tmp_path
        )
        before = tasks.loss(task, searched.model, task.validation)
        assert tasks.loss(task, found.model, task.validation) <= before

    def test_plain_training_can_average_its_weights(self, task, tmp_path):
        weights = [
            contestants.plain(
                1, True, False, task, 0, tmp_path, averaging=averaging
            ).model.get_weights()
            for averaging in (None, Averaging(0.9, reach=1.0))
        ]
        assert any(np.any(a != b) for a, b in zip(*weights, strict=True))

    def test_everybody_is_there_or_said_to_be_missing(self):
        found, missing = contestants.contestants()
        assert len(found) + len(missing) == 12
        assert tables.DEFAULT in found
        assert all(
            isinstance(make(), Strategy) for make in contestants.candidates.CANDIDATES.values()
        )

    def test_smoothed_scores_follow_a_line(self):
        space = SearchSpace([LogDimension("rate", 1e-4, 1e-1, 1e-3)])
        values = [{"rate": 1e-3}] * 3
        strategy = contestants.candidates.SmoothedScores(0.5)
        rng = np.random.default_rng(0)
        strategy.start(3, space, rng)

        def evolve(*scores):
            view = PopulationView(np.array(scores), values, 1, 10, 2, space)
            [child] = strategy.evolve(view, rng)
            return child

        first = evolve(1.0, 2.0, 5.0)
        assert first.slot == 2
        inherited = (1.0, 2.0, 5.0)[first.parents[0]]
        # The last scores alone would replace the first slot in either case.
        second = evolve(1.9, 1.0, 1.8)
        assert second.slot == int(np.argmax((1.45, 1.5, (inherited + 1.8) / 2.0))) != 0
        # What diverged has no score, whatever it was before; a new search begins anew.
        assert evolve(1.0, np.nan, 1.0).slot == 1
        strategy.start(3, space, rng)
        assert evolve(1.0, 2.0, 1.5).slot == 1


class TestRunning:
    @pytest.fixture
    def searches(self, task):
        calls = []

        def search(task, seed, folder):
            calls.append(seed)
            assert folder.is_dir()
            return Found(task.build({"learning_rate": 0.1}), task.budget)

        return {"one": search}, calls

    def test_what_is_done_is_not_done_again(self, searches, task, tmp_path):
        search, calls = searches
        command.run(command.Results(tmp_path), [lambda seed: task], search, {}, 2)
        again = command.Results(tmp_path)
        command.run(again, [lambda seed: task], search, {"variant": search["one"]}, 3)
        assert calls == [0, 1, 0, 1, 2, 2]
        names = [(row["contestant"], row["seed"], row["candidate"]) for row in again.rows]
        assert names == [
            ("one", 0, False), ("one", 1, False), ("variant", 0, True),
            ("variant", 1, True), ("one", 2, False), ("variant", 2, True),
        ]  # fmt: skip
        [found] = records.load(tmp_path)
        assert found["benchmark"] == "default_preset" and found["rows"] == again.rows
        assert json.loads(json.dumps(again.rows)) == again.rows

    def test_nothing_is_written_without_a_folder(self, searches, task):
        results = command.Results(None)
        command.run(results, [lambda seed: task], searches[0], {}, 1)
        row = results.rows[0]
        assert row["gradient_steps"] == row["budget"] == 24
        assert 0.0 <= row["test_accuracy"] <= 1.0


def row(contestant, seed, loss, task="a", candidate=False, accuracy=0.5, own_split=False):
    return {
        "task": task, "metric": "cross_entropy", "own_split": own_split,
        "contestant": contestant, "candidate": candidate,
        "seed": seed, "seconds": 1.0, "gradient_steps": 100, "budget": 100,
        "validation_loss": loss, "test_loss": loss, "test_accuracy": accuracy,
    }  # fmt: skip


def rows(contestant, losses, **more):
    return [row(contestant, seed, loss, **more) for seed, loss in enumerate(losses)]


class TestTables:
    GOOD, BAD = [0.10, 0.11, 0.12], [0.30, 0.31, 0.32]

    def test_the_best_mean_comes_first_and_the_default_is_what_others_are_compared_with(self):
        lines = tables.section(
            [*rows("other", self.BAD), *rows(tables.DEFAULT, self.GOOD)]
            + rows("variant", self.BAD, candidate=True)
        )
        body = [line for line in lines if line.startswith("| ")][1:]
        first = [cell.strip() for cell in body[0].strip("|").split("|")]
        assert first[:5] == ["**PopDescent()**", "100", "3", "0.1100", "0.0100"]
        assert first[7:9] == ["", ""]
        # The standard error of either mean is 0.01 / sqrt(3).
        assert "| +0.2000 ± 0.0082 | < 0.001 |" in body[1]
        assert "*variant*" in body[2]

    def test_splits_of_their_own_are_compared_in_pairs(self):
        """A contestant on the two hard splits alone has the higher mean, and is the better one."""
        base = rows(tables.DEFAULT, [0.1, 0.1, 0.5, 0.7], own_split=True)
        other = [row("other", seed, loss, own_split=True) for seed, loss in ((2, 0.4), (3, 0.58))]
        lines = tables.section([*base, *other])
        assert "compared in pairs" in lines[0]
        body = [line for line in lines if line.startswith("| ")][1:]
        assert body[0].startswith("| other | 100 | 2 | 0.4900 |")
        assert "| -0.1100 ± 0.0100 | 0.058 |" in body[0]
        alone = tables.section([row("other", 7, 0.4, own_split=True), *base])
        assert any(line.startswith("| other |") and line.endswith("|  |  |") for line in alone)

    def test_targets(self):
        peers = ("KerasTuner RandomSearch", "best of 5, Adam 0.001", "cosine Adam, all steps")
        better = [r for name in peers for r in rows(name, self.BAD, task="better")]
        better += rows(tables.DEFAULT, self.GOOD, task="better")
        worse = [r for name in peers for r in rows(name, self.GOOD, task="worse")]
        worse += rows(tables.DEFAULT, self.BAD, task="worse")
        worse += rows("variant", [0.0, 0.0, 0.0], task="worse", candidate=True)
        lines = tables.section([*better, *worse])
        assert any("worse (KerasTuner RandomSearch)" in line for line in lines)
        assert any("each p < 0.05: better (1 of 2)" in line for line in lines)
        # All three must be there.
        lines = tables.section([r for r in better if "cosine" not in r["contestant"]])
        assert any("on no task (0 of 1)" in line for line in lines)

    def test_without_the_default_nothing_is_said_of_targets(self):
        lines = tables.section(rows("KerasTuner RandomSearch", self.GOOD))
        assert lines[-1] == "`PopDescent()` as it is now was not run on these."

    def test_one_seed_decides_nothing(self):
        lines = tables.section(
            [row("KerasTuner RandomSearch", 0, 0.3), row(tables.DEFAULT, 0, 0.1)]
        )
        assert any("on no task (0 of 1)" in line for line in lines)

    def test_it_is_a_section_of_the_results(self, tmp_path):
        records.save(records.record("default_preset", "tensorflow", [row("a", 0, 0.5)]), tmp_path)
        text = report.document(records.load(tmp_path))
        assert "## default_preset" in text and "| a | 100 | 1 | 0.5000 |" in text


class TestSensitivity:
    def test_points_are_at_equal_steps(self):
        points = sensitivity.points()
        assert {point.size for point in points} == {3, 5, 10, 20}
        assert {point.rate for point in points} == {1e-5, 1e-4, 1e-3, 1e-2, 1e-1}
        assert {16, 512} <= {point.batches for point in points}
        task = tasks.tiny(tasks.friedman())
        found = sensitivity.measure(replace(points[0], batches=2), task, 0)
        assert 0 < task.budget - found["gradient_steps"] + points[0].size <= 2 * points[0].size

    def test_a_picture_of_each_study(self, tmp_path):
        pytest.importorskip("matplotlib")
        assert RC
        found = [
            {"study": study, "value": value, "line": line, "seed": seed, "test_loss": 0.1 + seed}
            for study, (_, values) in sensitivity.STUDIES.items()
            for value in values
            for line in sensitivity.LINES
            for seed in range(2)
        ]
        lines = sensitivity.lines_of(found, "population_size")
        assert [value for value, _ in lines["PopDescent()"]] == [3, 5, 10, 20]
        for study in sensitivity.STUDIES:
            sensitivity.draw(found, study, tmp_path / f"{study}.png")
            assert (tmp_path / f"{study}.png").stat().st_size > 5000
