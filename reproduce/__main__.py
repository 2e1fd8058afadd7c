"""`python -m reproduce`: data, run, report.

python -m reproduce data
python -m reproduce run table1 --dataset cifar10 --regularization without --method popdescent
python -m reproduce report
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduce import data, figure1, processes, report, rules, table1, table2, table3, table4
from reproduce.runs import Run, do_all

SENSITIVITY = {"table3": table3, "table4": table4}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    chosen = parser().parse_args(arguments)
    if chosen.command == "report":
        for path in report.write(chosen.results, chosen.output):
            print(path.name)
    elif chosen.command == "data":
        for name in data.CHECKSUMS:
            arrays = data.load(name)
            print(f"{name}: {', '.join(str(array.shape) for array in arrays)}")
    else:
        for path in results(chosen, sys.argv[1:] if arguments is None else arguments):
            print(path.name)


def results(chosen: argparse.Namespace, arguments: Sequence[str]) -> list[Path]:
    """Do what a command line asks for, in one process or in several."""
    runs = todo(chosen)
    if chosen.only is not None:
        runs = [run for run in runs if run.name == chosen.only]
    elif chosen.jobs > 1:
        return processes.do_all(runs, arguments, chosen.jobs, chosen.smoke)
    return do_all(runs, chosen.smoke)


def parser() -> argparse.ArgumentParser:
    """Return the parser; whatever is not chosen means all that the paper has."""
    top = argparse.ArgumentParser(prog="python -m reproduce", description="The paper's results.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("data", help="prepare Fashion-MNIST and CIFAR-10")
    run = commands.add_parser("run", help="do runs; a finished one is skipped")
    what = run.add_subparsers(dest="what", required=True)

    first = _experiment(what, "table1", "benchmark comparison", table1.SEEDS)
    first.add_argument("--dataset", choices=table1.DATASETS, nargs="+", default=table1.DATASETS)
    first.add_argument(
        "--regularization",
        choices=table1.REGULARIZATIONS,
        nargs="+",
        default=table1.REGULARIZATIONS,
    )
    first.add_argument("--method", choices=table1.METHODS, nargs="+", default=table1.METHODS)
    first.add_argument(
        "--protocol",
        choices=table1.PROTOCOLS,
        default=table1.PROTOCOLS[0],
        help="fair: the same network for all, and selection on validation, in the baselines too",
    )
    second = _experiment(what, "table2", "ablation", table2.SEEDS)
    second.add_argument("--row", choices=list(table2.ROWS), nargs="+", default=list(table2.ROWS))
    for name, table in SENSITIVITY.items():
        sensitivity = _experiment(what, name, "sensitivity", (table.SEED,))
        sensitivity.add_argument(
            "--vary", choices=list(table.ROWS), nargs="+", default=list(table.ROWS)
        )
    figure = _experiment(what, "figure1", "progress over gradient steps", figure1.SEEDS)
    figure.add_argument("--method", choices=figure1.METHODS, nargs="+", default=figure1.METHODS)
    under = _experiment(what, "rules", "what a member's number c does, other than as released", ())
    under.add_argument("--rule", choices=rules.RULES, nargs="+", default=rules.RULES)
    under.add_argument(
        "--experiment",
        choices=list(rules.EXPERIMENTS),
        nargs="+",
        default=list(rules.EXPERIMENTS),
    )

    written = commands.add_parser("report", help="write RESULTS.md and pictures from the results")
    written.add_argument("--results", type=Path, default=None, help="folder of the results")
    written.add_argument("--output", type=Path, default=None, help="folder to write to")
    return top


def _experiment(
    what: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    title: str,
    seeds: tuple[int, ...],
) -> argparse.ArgumentParser:
    experiment = what.add_parser(name, help=title)
    experiment.set_defaults(all_seeds=list(seeds))
    experiment.add_argument("--seeds", type=int, nargs="+", help=f"default: {list(seeds) or 'all'}")
    experiment.add_argument(
        "--jobs", type=int, default=1, help="how many runs at once, in processes (default: 1)"
    )
    experiment.add_argument("--only", help=argparse.SUPPRESS)
    experiment.add_argument(
        "--smoke", action="store_true", help="a small slice and one seed, to see that all runs"
    )
    return experiment


def seeds_of(chosen: argparse.Namespace) -> list[int]:
    """Return the seeds that a command line asks for: the paper's, or for a smoke run one."""
    if chosen.seeds is not None:
        return list(chosen.seeds)
    return chosen.all_seeds[:1] if chosen.smoke else list(chosen.all_seeds)


def todo(chosen: argparse.Namespace) -> list[Run]:
    """Return the runs that a command line asks for."""
    seeds = seeds_of(chosen)
    if chosen.what == "table1":
        return table1.runs(
            chosen.dataset,
            chosen.regularization,
            chosen.method,
            seeds,
            chosen.protocol,
            chosen.smoke,
        )
    if chosen.what == "table2":
        return table2.runs(chosen.row, seeds, chosen.smoke)
    if chosen.what == "figure1":
        return figure1.runs(chosen.method, seeds, chosen.smoke)
    if chosen.what == "rules":
        return rules.runs(chosen.rule, chosen.experiment, seeds, chosen.smoke)
    return SENSITIVITY[chosen.what].runs(chosen.vary, seeds, chosen.smoke)


if __name__ == "__main__":
    main()
