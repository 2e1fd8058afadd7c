"""Several runs at once, each in a process of its own: for a GPU that one run leaves mostly idle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from reproduce.runs import Run, is_done, result_path, work_folder

PROGRAM = (sys.executable, "-m", "reproduce")
# Lines of a failed process's output that are shown.
_LAST_LINES = 15
_SECONDS_BETWEEN_LOOKS = 0.2


def do_all(
    todo: Sequence[Run], arguments: Sequence[str], jobs: int, smoke: bool = False
) -> list[Path]:
    """Do the runs that have no result yet, some at once, and return the paths of all results.

    Args:
        todo: The runs.
        arguments: The command line that asks for them; with `--only NAME` it asks for one.
        jobs: How many at once.
        smoke: Whether these are runs on a small slice.

    Raises:
        RuntimeError: After all others are done, if one failed; its last lines were printed.
    """
    waiting = [run for run in todo if not is_done(run, smoke)]
    print(f"{len(todo) - len(waiting)} of {len(todo)} runs were done before", flush=True)
    running: dict[str, _Process] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0).name
                running[name] = _Process(name, [*arguments, "--only", name], smoke)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for name in [name for name, process in running.items() if process.has_ended()]:
                process = running.pop(name)
                print(f"{name}: {process.outcome()}", flush=True)
                if process.failed():
                    failed.append(name)
    finally:
        for process in running.values():
            process.end()
    if failed:
        raise RuntimeError(f"These runs failed: {', '.join(failed)}.")
    return [result_path(run.name, smoke) for run in todo]


class _Process:
    """A run in a process of its own; what it prints is in a file beside its work folder.

    Args:
        name: The run's name.
        arguments: The command line.
        smoke: Whether it is a run on a small slice.
    """

    def __init__(self, name: str, arguments: Sequence[str], smoke: bool) -> None:
        # Names have dots in them, which are no suffixes.
        self._log_path = work_folder(f"{name}.log", smoke)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = self._log_path.open("wb")
        self._began = time.perf_counter()
        # JAX would take three quarters of a GPU's memory at once.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        self._process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def has_ended(self) -> bool:
        """Whether it is over, well or not."""
        return self._process.poll() is not None

    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self._process.returncode != 0

    def outcome(self) -> str:
        """Return in words how it ended."""
        self._log.close()
        seconds = time.perf_counter() - self._began
        if not self.failed():
            self._log_path.unlink()
            return f"done in {seconds:.0f} s"
        lines = self._log_path.read_text("utf-8", errors="replace").splitlines()
        last = "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])
        return f"failed after {seconds:.0f} s\n{last}"

    def end(self) -> None:
        """End it; the run goes on from what it has saved when it is asked for again."""
        self._process.terminate()
        self._process.wait()
        self._log.close()
