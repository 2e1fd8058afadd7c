"""One JSON file a run: settings, seed, losses, steps, wall time, versions.

A finished run is skipped. An interrupted one goes on from what it keeps in its work folder, which
lies in the cache and is removed at the end.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from reproduce.data import cache_folder

if TYPE_CHECKING:
    from keras_popdescent import Population
    from keras_popdescent.tuners.result import SearchResult

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("keras", "keras-tuner", "numpy", "tensorflow", "tensorflow-cpu", "jax")


@dataclass(frozen=True)
class Run:
    """One run of one method.

    Attributes:
        name: Name of the result's file, without ending.
        settings: All settings, for the file.
        do: Does it, with a folder for what an interrupted run needs; returns losses and steps.
    """

    name: str
    settings: dict[str, Any]
    do: Callable[[Path], dict[str, Any]]


def do_all(todo: Sequence[Run], smoke: bool = False) -> list[Path]:
    """Do the runs that have no result yet, and return the paths of all results.

    Args:
        todo: The runs.
        smoke: Whether these are runs on a small slice, which are repeated each time and whose
            results stay in the cache.
    """
    paths = []
    for number, run in enumerate(todo, 1):
        path = result_path(run.name, smoke)
        paths.append(path)
        if is_done(run, smoke):
            print(f"[{number}/{len(todo)}] {run.name}: done before", flush=True)
            continue
        print(f"[{number}/{len(todo)}] {run.name}", flush=True)
        _do(run, path, smoke)
    return paths


def is_done(run: Run, smoke: bool = False) -> bool:
    """Whether a run has its result; one on a small slice is repeated each time."""
    return not smoke and result_path(run.name).exists()


def result_path(name: str, smoke: bool = False) -> Path:
    """Return where a run's result is."""
    return (cache_folder() / "smoke" if smoke else RESULTS) / f"{name}.json"


def work_folder(name: str, smoke: bool = False) -> Path:
    """Return where a run keeps what it needs to go on after an interrupt."""
    return cache_folder() / ("smoke_runs" if smoke else "runs") / name


def _do(run: Run, path: Path, smoke: bool) -> None:
    folder = work_folder(run.name, smoke)
    if smoke:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    starts = folder / "starts"
    with starts.open("a", encoding="utf-8") as file:
        file.write(f"{time.time():.0f} {device()}\n")
    began = time.perf_counter()
    result = run.do(folder)
    record = {
        "name": run.name,
        "settings": run.settings,
        **result,
        # Of the last start only; a run that was interrupted has more.
        "seconds": round(time.perf_counter() - began, 1),
        **_starts(starts),
        "versions": _versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
    shutil.rmtree(folder)


def _starts(path: Path) -> dict[str, Any]:
    """Return how often a run was started, and on what, in order."""
    lines = path.read_text("utf-8").splitlines()
    # An earlier version noted the time alone.
    devices = dict.fromkeys(line.partition(" ")[2] or "unknown" for line in lines)
    return {"starts": len(lines), "device": ", then ".join(devices)}


def read_all(pattern: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """Return the results whose names match a pattern, in the order of seeds."""
    found = [json.loads(path.read_text("utf-8")) for path in (folder or RESULTS).glob(pattern)]
    return sorted(found, key=lambda result: (int(result["seed"]), str(result["name"])))


def refuse_interrupted(ended: Population | SearchResult) -> None:
    """Let an interrupt that ended a `fit` or a `search` go on: what it left is no result.

    Args:
        ended: The population that was fitted, or what `search` returned.

    Raises:
        KeyboardInterrupt: If there was one.
    """
    if ended.interrupted:
        raise KeyboardInterrupt


def on_accelerator() -> bool:
    """Whether models train on an accelerator, under JAX."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return bool(jax.default_backend() != "cpu")


def device() -> str:
    """Return in words what this process runs on."""
    cores = os.cpu_count()
    where = f"{platform.machine()}, {cores} cores"
    if on_accelerator():
        import jax

        where = f"{jax.devices()[0].device_kind}, {where}"
    return f"{keras.backend.backend()} on {where}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
