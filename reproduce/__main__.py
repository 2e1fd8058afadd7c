"""`python -m reproduce`: data, run, report.

python -m reproduce data
python -m reproduce run table1 --dataset cifar10 --regularization without --seeds 5 15 24
"""

from __future__ import annotations

import argparse

from reproduce import data, report, table1


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m reproduce", description="The paper's results.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("data", help="prepare Fashion-MNIST and CIFAR-10")
    run = commands.add_parser("run", help="do runs; a finished one is skipped")
    run.add_argument("table", choices=["table1"])
    run.add_argument("--dataset", choices=list(table1.DATASETS), required=True)
    run.add_argument("--regularization", choices=["with", "without"], required=True)
    run.add_argument("--method", choices=list(table1.METHODS), default="popdescent")
    run.add_argument("--seeds", type=int, nargs="+", default=list(table1.SEEDS))
    run.add_argument("--smoke", action="store_true", help="a small slice, to see that all runs")
    commands.add_parser("report", help="write RESULTS.md from the results")
    arguments = parser.parse_args()
    if arguments.command == "report":
        print(report.write())
        return
    if arguments.command == "data":
        for name in data.CHECKSUMS:
            arrays = data.load(name)
            print(f"{name}: {', '.join(str(array.shape) for array in arrays)}")
        return
    for path in table1.run(
        arguments.dataset,
        arguments.regularization,
        arguments.method,
        arguments.seeds,
        arguments.smoke,
    ):
        print(path.name)


if __name__ == "__main__":
    main()
