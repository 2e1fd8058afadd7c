"""What a benchmark writes down: one JSON file for each benchmark and backend, and accelerator.

A record is `{"benchmark", "backend", "machine", "rows", "not_run"}`: `rows` are flat dicts with the
raw numbers of every repetition, `not_run` are sentences. `report.py` makes the tables from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]
# What decides how fast things are, where it is installed.
PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "keras-tuner", "optuna", "ray")


def options(doc: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return a benchmark's command-line options.

    Args:
        doc: The module's docstring, whose first line is the description.
        arguments: The command line; None for the process's own.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add_options(parser)
    return parser.parse_args(arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument(
        "--quick", action="store_true", help="small and few, to see that it runs; writes no results"
    )
    parser.add_argument("--full", action="store_true", help="also what takes hours")
    parser.add_argument(
        "--results", type=Path, help="folder of the JSON files, also with --quick (default: here)"
    )


def folder_of(chosen: argparse.Namespace) -> Path | None:
    """Return where results go, None where they are only shown."""
    if chosen.results is not None:
        return Path(chosen.results)
    return None if chosen.quick else RESULTS


def record(
    benchmark: str, backend: str, rows: Sequence[Record], not_run: Sequence[str] = ()
) -> Record:
    """Return a benchmark's record."""
    return {
        "benchmark": benchmark,
        "backend": backend,
        "machine": machine(backend),
        "rows": list(rows),
        "not_run": list(not_run),
    }


def save(result: Record, folder: Path | None) -> None:
    """Write a record, or nothing where there is no folder for it."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(result["benchmark"], result["backend"], result["machine"]["device"])
    path = folder / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def file_name(benchmark: str, backend: str, where: str) -> str:
    """Return the name of a file of results: what an accelerator gave stands beside the CPU's."""
    parts = [benchmark, backend, *([] if on_cpu(where) else [where.lower().replace(" ", "-")])]
    return "_".join(parts) + ".json"


def on_cpu(where: str) -> bool:
    """Whether the name of a device is that of no accelerator."""
    return where.lower() in ("cpu", "unknown")


def earlier(benchmark: str, backend: str, folder: Path | None) -> list[Record]:
    """Return the rows of an earlier run, none where there was no such run."""
    path = None if folder is None else folder / file_name(benchmark, backend, device(backend))
    return list(read(path)["rows"]) if path is not None and path.exists() else []


def load(folder: Path = RESULTS) -> list[Record]:
    """Return all records in a folder, by name."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def read(path: Path) -> Record:
    """Return the record in a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and "rows" in content:
        return content
    # A list of rows under a name such as `memory_tensorflow`.
    name, _, backend = path.stem.rpartition("_")
    rows = content if isinstance(content, list) else [content]
    return {"benchmark": name or path.stem, "backend": backend, "rows": rows}


def machine(backend: str) -> dict[str, Any]:
    """Return what a reader needs to know of the machine; nothing that names it."""
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": device(backend),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions(),
    }


def device(backend: str) -> str:
    """Return the device that models run on."""
    if backend == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend == "tensorflow":
        import tensorflow as tf

        return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    return "unknown"


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """Return the most resident memory that this process has had, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
