"""`python -m benchmarks [names] [--quick]`: run benchmarks, then write RESULTS.md.

Each runs in a process of its own, once for each backend that it is for. `report` alone writes
RESULTS.md from the JSON files that are there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import records, report


def names() -> list[str]:
    """Return the benchmarks that are there."""
    return [
        name
        for name in report.BENCHMARKS
        if importlib.util.find_spec(f"benchmarks.{name}") is not None
    ]


def command(name: str, chosen: argparse.Namespace) -> list[str]:
    """Return the command line of one benchmark."""
    line = [sys.executable, "-m", f"benchmarks.{name}"]
    if chosen.quick:
        line.append("--quick")
    if chosen.full:
        line.append("--full")
    if chosen.results is not None:
        line += ["--results", str(chosen.results)]
    return line


def run(name: str, backend: str, chosen: argparse.Namespace) -> bool:
    """Run one benchmark on one backend; return whether it went well."""
    print(f"\n== {name} on {backend}", flush=True)
    if importlib.util.find_spec(backend) is None:
        print(f'Not run: {backend} is not installed (pip install "keras-popdescent[{backend}]").')
        return True
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.run(command(name, chosen), env=environment, check=False).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(names())}; or report (default: all)"
    )
    parser.add_argument("--backend", help="only this one")
    records.add_options(parser)
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in (*names(), "report")]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    todo = [
        (name, backend)
        for name in chosen.names or names()
        for backend in report.BENCHMARKS.get(name, ())
        if chosen.backend in (None, backend)
    ]
    failed = [f"{name} on {backend}" for name, backend in todo if not run(name, backend, chosen)]
    folder = records.folder_of(chosen)
    if folder is not None:
        path = report.TABLES if chosen.results is None else Path(folder) / report.TABLES.name
        report.write(folder, path)
        print(f"\nTables: {path}")
    if failed:
        print(f"\nFailed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
