"""`python -m reproduce report`: RESULTS.md and a picture, our results beside the paper's numbers.

The paper's numbers come from `paper/paper_tables.csv` and `paper/paper_figure1.csv`.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from reproduce import drawing, figure1, rules, table1, table2, table3, table4
from reproduce.markdown import table
from reproduce.runs import RESULTS, read_all
from reproduce.significance import LEVEL, p_against, said, summary, welch

FOLDER = Path(__file__).parent
PAPER = FOLDER / "paper" / "paper_tables.csv"
# what our results call it -> what the paper's table calls it
DATASETS = {"fmnist": "FMNIST", "cifar10": "CIFAR-10"}
METHODS = {
    "grid_search": "Basic Grid Search",
    "random_search": "KT RandomSearch",
    "esgd": "ESGD",
    "popdescent": "Population Descent",
}
# Farther from the published mean, in the paper's standard deviations, nothing is said to match; and
# where every seed is so far away, it is said whatever a test of few seeds sees.
NEAR, FAR = 2.0, 5.0
# Fewer seeds that differ in nothing from the published mean are compatible with it, and no match.
ENOUGH = 3
Result = dict[str, Any]


@dataclass(frozen=True)
class Numbers:
    """A mean with its standard deviation (divisor n, as the authors plot it)."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """The standard deviation."""
        return statistics.pstdev(self.values)

    def __str__(self) -> str:
        return with_spread(self.mean, self.std if len(self.values) > 1 else None)


@dataclass(frozen=True)
class Published:
    """A row of the paper's tables."""

    test: tuple[float, float]
    train: tuple[float, float] | None
    steps: int | None

    def __str__(self) -> str:
        return with_spread(*self.test)


def with_spread(mean: float, std: float | None) -> str:
    """Return a mean and its standard deviation, with more digits where they are needed."""
    digits = 3 if mean >= 0.01 else 4
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def paper_rows() -> list[dict[str, str]]:
    """Return all rows of the paper's tables."""
    with PAPER.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published(
    table: str, dataset: str, regularization: str, method: str, setting: str = ""
) -> Published | None:
    """Return a row of the paper's tables, None where the paper has none.

    Args:
        table: Number of the table.
        dataset: As the paper calls it.
        regularization: `"with"` or `"without"`.
        method: As the paper calls it.
        setting: What the description of the row's setting contains.
    """
    for row in paper_rows():
        key = (row["table"], row["dataset"], row["regularization"], row["method"])
        if key == (table, dataset, regularization, method) and setting in row["setting"]:
            train = row["train_loss_mean"]
            return Published(
                (float(row["test_loss_mean"]), float(row["test_loss_std"])),
                (float(train), float(row["train_loss_std"])) if train else None,
                int(row["gradient_steps"]) if row["gradient_steps"] else None,
            )
    return None


def distance(ours: float, paper: tuple[float, float]) -> float:
    """Return the difference in units of the paper's standard deviation."""
    return (ours - paper[0]) / paper[1]


def verdict(ours: Sequence[float], paper: tuple[float, float], seeds: int) -> str:
    """Return a plain word on some losses, with the p-value behind it.

    A test of two seeds that differ much sees nothing: what then lies far from the published mean
    does not match because of it. Nor do one or two seeds, whatever they are.

    Args:
        ours: (seeds,) losses.
        paper: The published mean and standard deviation.
        seeds: Of how many seeds those are.
    """
    p, mean = p_against(ours, *paper, seeds), statistics.fmean(ours)
    side = "lower" if mean < paper[0] else "higher"
    away = [abs(distance(loss, paper)) for loss in ours if (loss < paper[0]) == (side == "lower")]
    if p < LEVEL:
        word = f"{side} than published"
    elif abs(distance(mean, paper)) <= NEAR:
        word = "matches" if len(ours) >= ENOUGH else "compatible"
    elif len(away) == len(ours) and min(away) > FAR:
        word = f"far {side}, few seeds"
    else:
        word = "undecided"
    return f"{word}, p {said(p)}"


def size(ours: Numbers, paper: tuple[float, float]) -> str:
    """Return plain words on a mean over settings and its spread, which is what the settings do."""
    same = abs(distance(ours.mean, paper)) <= 1.0
    ratio = (ours.std / ours.mean) / (paper[1] / paper[0])
    spread = "a spread alike" if 0.5 <= ratio <= 2.0 else f"{ratio:.1f} times the spread"
    return f"{'of the same size' if same else 'of another size'}, {spread}"


def of_seeds(pattern: str, seeds: Sequence[int], folder: Path) -> list[Result]:
    """Return the results of the paper's seeds whose names match a pattern with `*` for the seed."""
    return [result for result in read_all(pattern, folder) if result["seed"] in seeds]


def compared(ours: Sequence[Result], paper: Published, seeds: int) -> list[str]:
    """Return the columns that compare results with a row of the paper, which has so many seeds."""
    if not ours:
        trained = "-" if paper.train is None else with_spread(*paper.train)
        return [str(paper), "not run", "0", "-", "-", trained, "not run", "-"]
    test = Numbers(tuple(result["as_published"]["test_loss"] for result in ours))
    train = Numbers(tuple(result["as_published"]["train_loss"] for result in ours))
    columns = [
        str(paper),
        str(test),
        str(len(ours)),
        f"{distance(test.mean, paper.test):+.1f} σ",
        verdict(test.values, paper.test, seeds),
    ]
    if paper.train is None:
        return columns
    return [
        *columns,
        with_spread(*paper.train),
        str(train),
        f"{distance(train.mean, paper.train):+.1f} σ",
    ]


COMPARED = (
    "paper: test loss", "ours", "seeds", "difference", "verdict",
    "paper: train loss", "ours", "difference",
)  # fmt: skip


def report_table1(folder: Path) -> list[str]:
    """Return Table 1 as published."""
    rows, partial = [], []
    for dataset, dataset_title in DATASETS.items():
        for regularization in table1.REGULARIZATIONS:
            for method, title in METHODS.items():
                paper = published("1", dataset_title, regularization, title)
                if paper is None:
                    continue
                pattern = f"table1_{dataset}_{regularization}_{method}_[0-9]*.json"
                ours = of_seeds(pattern, table1.SEEDS, folder)
                if len(ours) < len(table1.SEEDS):
                    partial.append(len(ours))
                rows.append(
                    [
                        dataset_title,
                        regularization,
                        title,
                        *compared(ours, paper, len(table1.SEEDS)),
                    ]
                    + [f"{paper.steps:,}", *steps_of(ours)]
                )
    titles = ["data", "regularization", "method", *COMPARED]
    return [
        "## Table 1, as published",
        "",
        "Cross-entropy on the authors' 1,600 fixed images. Population Descent: the member of the "
        "lowest test loss; the others: the lowest of either loss, L2 penalty included; ESGD on "
        "validation images. Steps: published, ours as the paper counts, and all (with fine-tuning "
        "and the last training of the chosen model).",
        "",
        *table([*titles, "paper: steps", "counted", "all"], rows),
        "",
        *remarks(len(rows), partial, len(table1.SEEDS)),
    ]


def steps_of(ours: Sequence[Result]) -> list[str]:
    """Return the columns of gradient steps: as the paper counts, and all."""
    if not ours:
        return ["-", "-"]
    full = statistics.fmean(result["all_steps"] for result in ours)
    return [f"{ours[0]['counted_steps']:,}", f"{full:,.0f}"]


def remarks(rows: int, partial: Sequence[int], seeds: int) -> list[str]:
    """Return how much is there, in words.

    Args:
        rows: Number of rows.
        partial: Numbers of seeds of the rows that have fewer than the paper.
        seeds: The paper's number.
    """
    if not partial:
        return [f"All {rows} rows with all {seeds} seeds.", ""]
    missing = sum(not count for count in partial)
    return [
        f"Of {rows} rows, {rows - len(partial)} have the paper's {seeds} seeds, "
        f"{len(partial) - missing} have fewer, {missing} were not run.",
        "",
    ]


def report_fair(folder: Path) -> list[str]:
    """Return Table 1's methods under the fair protocol."""
    rows, partial = [], []
    for dataset, dataset_title in DATASETS.items():
        for regularization in table1.REGULARIZATIONS:
            reference = fair_results(dataset, regularization, "popdescent", folder)
            for method, title in METHODS.items():
                if published("1", dataset_title, regularization, title) is None:
                    continue
                ours = fair_results(dataset, regularization, method, folder)
                if len(ours) < len(table1.SEEDS):
                    partial.append(len(ours))
                if not ours:
                    rows.append([dataset_title, regularization, title, "not run", *"--0--"])
                    continue
                losses = [result["fair"]["test_loss"] for result in ours]
                accuracy = statistics.fmean(result["fair"]["test_accuracy"] for result in ours)
                full = statistics.fmean(result["all_steps"] for result in ours)
                others = [result["fair"]["test_loss"] for result in reference]
                own = summary(losses)
                known = own.count > 1
                rows.append(
                    [
                        dataset_title,
                        regularization,
                        title,
                        with_spread(own.mean, own.sd if known else None),
                        f"{own.low:.3f} to {own.high:.3f}" if known else "-",
                        f"{accuracy:.1%}",
                        len(ours),
                        f"{full:,.0f}",
                        "-" if method == "popdescent" else above(losses, others),
                    ]
                )
    titles = [
        "data", "regularization", "method", "test loss", "95 % interval", "accuracy", "seeds",
        "all steps", "loss above Population Descent's, 95 % interval (Welch's p)",
    ]  # fmt: skip
    return [
        "## Table 1, fair",
        "",
        "The same network for all; cross-entropy without penalties; the model of the lowest loss "
        "on all 5,000 validation images, on all 5,000 test images; all steps counted. The methods "
        "keep the numbers of steps that they were published with, which differ. Here ± has the "
        "divisor n - 1, in the other tables n.",
        "",
        *table(titles, rows),
        "",
        *remarks(len(rows), partial, len(table1.SEEDS)),
    ]


def fair_results(dataset: str, regularization: str, method: str, folder: Path) -> list[Result]:
    """Return the results of a method under the fair protocol."""
    name = table1.name(dataset, regularization, method, 0, "fair").removesuffix("_0")
    return of_seeds(f"{name}_[0-9]*.json", table1.SEEDS, folder)


def above(losses: Sequence[float], others: Sequence[float]) -> str:
    """Return the difference of means with its interval and Welch's p."""
    if not others:
        return "-"
    found = welch(losses, others)
    if min(len(losses), len(others)) < 2:
        return f"{found.difference:+.3f} (too few seeds)"
    return f"{found.difference:+.3f}, {found.low:+.3f} to {found.high:+.3f} (p {said(found.p)})"


def report_table2(folder: Path) -> list[str]:
    """Return Table 2."""
    rows, partial = [], []
    for number, row in table2.ROWS.items():
        regularization = "with" if row.regularized else "without"
        paper = published_ablation(number)
        ours = of_seeds(f"table2_row{number}_*.json", table2.SEEDS, folder)
        if len(ours) < len(table2.SEEDS):
            partial.append(len(ours))
        rows.append(
            [regularization, _on(row.randomization), _on(row.cv_selection)]
            + [*compared(ours, paper, len(table2.SEEDS)), *steps_of(ours)]
        )
    titles = ["regularization", "randomization", "CV selection", *COMPARED, "counted", "all"]
    return [
        "## Table 2: ablation",
        "",
        "10,000 training images of Fashion-MNIST, population 10, 5 elites, 35 iterations.",
        "",
        *table(titles, rows),
        "",
        *remarks(len(rows), partial, len(table2.SEEDS)),
    ]


def published_ablation(number: str) -> Published:
    """Return a row of the paper's Table 2."""
    row = table2.ROWS[number]
    switches = f"randomization={_on(row.randomization)}; cv_selection={_on(row.cv_selection)}"
    regularization = "with" if row.regularized else "without"
    paper = published("2", "FMNIST-10k", regularization, METHODS["popdescent"], switches)
    if paper is None:
        raise LookupError(f"Row {number} of Table 2 is not in {PAPER.name}.")
    return paper


def _on(switch: bool) -> str:
    return "on" if switch else "off"


# Number of the table -> (its module, method, what its rows' descriptions contain, title)
SENSITIVITY = {
    "3": (
        table3,
        "Population Descent",
        {"learning_rate": "lr in {", "iterations": "iterations in {"},
        "Table 3: sensitivity of Population Descent",
    ),
    "4": (
        table4,
        "ESGD",
        {"learning_rate": "lr in {", "iterations": "generations in {"},
        "Table 4: sensitivity of ESGD",
    ),
}


def report_sensitivity(number: str, folder: Path) -> list[str]:
    """Return Table 3 or 4."""
    module, method, descriptions, title = SENSITIVITY[number]
    rows, incomplete = [], []
    for varied, description in descriptions.items():
        paper = published(number, "CIFAR-10", "without", method, description)
        losses = []
        cells = []
        for setting in module.ROWS[varied]:
            found = read_all(f"{module.name(*setting, module.SEED)}.json", folder)
            cells.append(f"{setting[0]:g}, {setting[1]}: ")
            if found:
                losses.append(float(found[0]["as_published"]["test_loss"]))
                cells[-1] += f"{losses[-1]:.3f}"
            else:
                cells[-1] += "not run"
        whole = len(losses) == len(cells) and paper is not None
        if not whole:
            incomplete.append(varied.replace("_", " "))
        ours = Numbers(tuple(losses)) if whole else None
        rows.append(
            [
                varied.replace("_", " "),
                *cells,
                str(paper),
                str(ours) if ours else "-",
                f"{distance(ours.mean, paper.test):+.1f} σ" if ours and paper else "-",
                f"{paper.test[1] / paper.test[0]:.0%}" if paper else "-",
                f"{ours.std / ours.mean:.0%}" if ours else "-",
                size(ours, paper.test) if ours and paper else "incomplete",
            ]
        )
    titles = ["varied", "setting 1", "setting 2", "setting 3"]
    return [
        f"## {title}",
        "",
        f"CIFAR-10 without regularization, seed {module.SEED}; a setting is learning rate, "
        f"{'iterations' if number == '3' else 'generations'}: test loss. Mean ± standard deviation "
        "over the three settings: σ says how much the setting matters, and a mean within it is no "
        "more than of the same size. What the table is about is σ as a part of the mean; half to "
        "twice the paper's is called alike.",
        "",
        *table(
            [*titles, "paper", "ours", "difference", "paper: σ / mean", "ours", "verdict"], rows
        ),
        "",
        *(["Incomplete: " + "; ".join(incomplete) + ".", ""] if incomplete else []),
    ]


def report_figure1(folder: Path, output: Path) -> tuple[list[str], list[Path]]:
    """Return Figure 1's section, and the picture."""
    curves = {
        title: [
            result["curve"]
            for result in read_all(_curve_pattern(method), folder)
            if result["seed"] in figure1.SEEDS or method not in figure1.LONGER
        ]
        for method, title in METHODS.items()
    }
    path = drawing.figure1(curves, output / "figure1.png")
    counts = ", ".join(f"{title} {len(found)}" for title, found in curves.items())
    return [
        "## Figure 1: progress on Fashion-MNIST without regularization",
        "",
        f"![The lowest loss over gradient steps, ours over the paper's]({path.name})",
        "",
        "Black: the paper's raw curves, one a seed. In colour: ours. Grid search's loss is on test "
        "images, ESGD's on all of them, as published; ESGD's is measured after each generation. "
        "Grid search and RandomSearch are Table 1's runs, whatever their seeds. "
        f"Seeds of ours (the paper has 6): {counts}. "
        f"The picture ends at a loss of {drawing.TOP:g}.",
        "",
        *table(
            ["method", "gradient steps", "paper: a seed's mean loss there", "ours"],
            [row for title, found in curves.items() for row in thirds(title, found)],
        ),
        "",
    ], [path]


def thirds(title: str, curves: Sequence[drawing.Curve]) -> list[list[str]]:
    """Return rows on a method's curves, one for each third of the steps.

    Args:
        title: The method, as the paper calls it.
        curves: Ours, one a seed.
    """
    theirs = drawing.paper_curves()[title]
    steps = [step for curve in theirs for step, _ in curve]
    own = [step for curve in curves for step, _ in curve] or steps
    # From where both have points: an earlier one, of a loss that still falls fast, moves a mean.
    first, last = max(min(steps), min(own)), max(max(steps), max(own))
    ends = [first + third * (last - first) / 3 for third in range(4)]
    return [
        [title, f"{low:,.0f} to {high:,.0f}"]
        + [_range(drawing.mean_between(some, low, high)) for some in (theirs, curves)]
        for low, high in pairwise(ends)
    ]


# Update rule -> what c is under it.
RULES = {
    "loss_scale": "a factor on the loss (released)",
    "learning_rate": "the learning rate",
    "initial_learning_rate": "the first learning rate, which children keep",
    "both": "that, and a factor on the loss, which moves",
    "none": "nothing",
}


def report_rules(folder: Path) -> list[str]:
    """Return what the update rules give in the experiments that were run under them."""
    rows, progress = [], []
    known = read_all("rules_*.json", folder)
    possible = len(rules.RULES) * sum(map(len, rules.EXPERIMENTS.values()))
    for experiment, seeds in rules.EXPERIMENTS.items():
        for rule, title in RULES.items():
            ours = of_seeds(f"{_under(rule, experiment)}_[0-9]*.json", seeds, folder)
            if not ours:
                continue
            if experiment == "figure1":
                curves = [result["curve"] for result in ours]
                count = [title, str(len(ours))]
                progress += [count + row[1:] for row in thirds(METHODS["popdescent"], curves)]
                continue
            paper = published_of(experiment)
            rows.append([experiment.replace("_", " "), title, *compared(ours, paper, len(seeds))])
    return [
        "## Which update rule",
        "",
        "What a member's number c is changed several times in the authors' code, and which state a "
        "table used is not recorded. Population Descent as published, under other rules beside the "
        f"released one. {len(known)} of the {possible} runs that `run rules` has were done; what "
        "has no row was not run.",
        "",
        *table(["experiment", "c is", *COMPARED], rows),
        "",
        *table(
            [
                "Figure 1: c is",
                "seeds",
                "gradient steps",
                "paper: a seed's mean loss there",
                "ours",
            ],
            progress,
        ),
        "",
    ]


def _under(rule: str, experiment: str) -> str:
    """Return the names of an experiment's runs under a rule, but for the seed."""
    if rule != "loss_scale":
        return rules.name(rule, experiment, 0).removesuffix("_0")
    return f"{experiment}_popdescent" if not experiment.startswith("table2") else experiment


def published_of(experiment: str) -> Published:
    """Return the paper's row of an experiment of Tables 1 and 2."""
    kind, *cell = experiment.split("_")
    if kind == "table2":
        return published_ablation(cell[0].removeprefix("row"))
    paper = published("1", DATASETS[cell[0]], cell[1], METHODS["popdescent"])
    if paper is None:
        raise LookupError(f"{experiment} is not in {PAPER.name}.")
    return paper


def _range(numbers: Sequence[float]) -> str:
    """Return the least and the largest of some numbers; a dash for none."""
    if not numbers:
        return "-"
    return " to ".join(dict.fromkeys(f"{end:.3f}" for end in (min(numbers), max(numbers))))


def _curve_pattern(method: str) -> str:
    return figure1.name(method, 0).removesuffix("_0") + "_[0-9]*.json"


def machines(folder: Path) -> list[str]:
    """Return on what the results were made."""
    results = read_all("*.json", folder)
    devices = sorted({str(result["device"]) for result in results})
    hours = sum(float(result["seconds"]) for result in results) / 3600
    kinds = sorted({f"Keras {result['versions'].get('keras', '?')}" for result in results})
    return [
        "## Where these were made",
        "",
        f"{len(results)} runs, {hours:.1f} hours of wall time in their last starts, beside other "
        f"work; {'; '.join(devices) or 'nowhere'}; {', '.join(kinds) or 'no Keras'}.",
        "",
    ]


def write(folder: Path | None = None, output: Path | None = None) -> list[Path]:
    """Write RESULTS.md and the pictures, and return their paths.

    Args:
        folder: Folder of the results. Defaults to `reproduce/results`.
        output: Folder to write to. Defaults to `reproduce`.
    """
    folder, output = folder or RESULTS, output or FOLDER
    output.mkdir(parents=True, exist_ok=True)
    progress, pictures = report_figure1(folder, output)
    head = [
        "# Results",
        "",
        "Made by `python -m reproduce report` from the files in `results/` and the paper's numbers "
        "in `paper/`. σ is the paper's standard deviation. Verdicts are those of Welch's t-test "
        "between our seeds and the published mean, σ and number of seeds: *matches* is "
        f"p >= {LEVEL:g}, no difference that can be seen with so many seeds, and a mean within "
        f"{NEAR:g} σ; *compatible* is the same with under {ENOUGH} seeds, which match nothing; "
        f"*undecided* is p >= {LEVEL:g} farther away, and *far* where every seed is more than "
        f"{FAR:g} σ away. One seed is taken to spread like the paper's.",
        "",
    ]
    lines = [
        *head,
        *report_table1(folder),
        *report_fair(folder),
        *report_table2(folder),
        *report_sensitivity("3", folder),
        *report_sensitivity("4", folder),
        *progress,
        *report_rules(folder),
        *machines(folder),
    ]
    path = output / "RESULTS.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [path, *pictures]
