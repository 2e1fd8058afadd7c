"""One JSON file a run: settings, seed, losses, steps, wall time, versions."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("keras", "keras-tuner", "numpy", "tensorflow", "tensorflow-cpu", "jax")


def run_once(name: str, settings: dict[str, Any], run: Callable[[], dict[str, Any]]) -> Path:
    """Do a run unless its result is there, and return the path of the result.

    Args:
        name: Name of the result's file, without ending.
        settings: All settings of the run, for the file.
        run: Does it; returns losses and step counts.
    """
    path = RESULTS / f"{name}.json"
    if path.exists():
        print(f"{name}: done before")
        return path
    print(f"{name}: running")
    began = time.perf_counter()
    result = run()
    record = {
        "name": name,
        "settings": settings,
        **result,
        "seconds": round(time.perf_counter() - began, 1),
        "device": _device(),
        "versions": _versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
    return path


def _device() -> str:
    cores = os.cpu_count()
    return f"{keras.backend.backend()} on {platform.machine()}, {cores} cores"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
