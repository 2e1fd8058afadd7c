"""Checkpoints of a population: when to save, and how a search goes on in a new process."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import numpy as np

from keras_popdescent.arguments import check_number, check_whole
from keras_popdescent.checkpoint import (
    CheckpointWarning,
    Folder,
    FolderLock,
    differences,
    listing,
    pack,
)
from keras_popdescent.errors import (
    ArgumentError,
    DamagedError,
    PopDescentError,
    ProjectError,
    describe,
)
from keras_popdescent.history import History
from keras_popdescent.population.budget import Budget
from keras_popdescent.population.loop import Loop
from keras_popdescent.population.settings import Settings
from keras_popdescent.population.state import MemberState, to_arrays

_MEGABYTE = 1_000_000
# Without `every`, saving may take this part of the time.
_TIME_SHARE = 0.05


@dataclass(frozen=True)
class CheckpointPlan:
    """Where and how often a search is saved.

    Paths are made absolute, so that they mean the same after `os.chdir`.

    Attributes:
        directory: Where the snapshots are.
        every: Iterations from one snapshot to the next, at least 1; None for as often as takes no
            more than about a twentieth of the time. The end is always saved.
        max_disk_mb: Most that the directory's files may hold, in megabytes (10**6 bytes); None for
            no bound.
        history: The history's file; None for one in the directory.
        project: The directory that `max_disk_mb` is for; None for `directory` itself.
    """

    directory: str | Path
    every: int | None = None
    max_disk_mb: float | None = None
    history: str | Path | None = None
    project: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("directory", "history", "project"):
            path = getattr(self, name)
            # Not `Path.resolve`, which raises where links go in a circle.
            object.__setattr__(self, name, path if path is None else Path(os.path.realpath(path)))
        object.__setattr__(self, "every", check_whole("checkpoint_every", self.every))
        check_number("max_disk_mb", self.max_disk_mb, 0.0, above=True)


class Checkpoints:
    """Saves one search into a directory, and takes up what is there; a context manager.

    Within the block the directory belongs to this process. The order of calls: `entropy` and
    `settings`, then `attach`, then `Loop.start(setup, checkpoints.restore)`, then `Loop.run`.

    Args:
        plan: Where and how often.

    Attributes:
        seconds_used: Seconds that earlier processes have spent on the search.

    Raises:
        ProjectError: On entering, if another process uses the directory, or what is there cannot be
            read.
    """

    def __init__(self, plan: CheckpointPlan) -> None:
        self.plan = plan
        bound = None if plan.max_disk_mb is None else int(plan.max_disk_mb * _MEGABYTE)
        self.folder = Folder(plan.directory, bound, plan.history, plan.project)
        # name -> what returns some more JSON-able state to be saved with the search
        self.extras: dict[str, Callable[[], Any]] = {}
        self._stack = ExitStack()
        self._attached: Loop | None = None
        self._saved: dict[str, Any] | None = None
        # Whether more was done already than the budget holds.
        self._exceeded = False
        self._stopped = False
        self._done: tuple[int, int] | None = None
        self._last_end = 0.0
        self._last_seconds = 0.0
        # When the present budget began.
        self._began = time.perf_counter()
        self.seconds_used = 0.0

    def __enter__(self) -> Checkpoints:
        self._stack.enter_context(FolderLock(self.plan.directory))
        try:
            newest = self.folder.newest()
        except BaseException:
            self._stack.close()
            raise
        self._saved = None if newest is None else newest.tree
        self.seconds_used = float((self._saved or {}).get("seconds_used", 0.0))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if self._attached is not None:
            # Without the lock nothing may be written.
            self._attached.history.path = None
            self._attached.checkpoint = None

    @property
    def _loop(self) -> Loop:
        if self._attached is None:
            raise ProjectError(describe("The checkpoints are attached to no search."))
        return self._attached

    @property
    def resumes(self) -> bool:
        """Whether the directory holds a search to go on with."""
        return self._saved is not None

    def extra(self, name: str) -> Any:
        """Return what was saved under a name in `extras`, None where nothing was."""
        return None if self._saved is None else self._saved.get("extras", {}).get(name)

    def root(self, seed: np.random.SeedSequence) -> np.random.SeedSequence:
        """Return the root of all randomness: the given one, or that of the search on disk."""
        entropy = seed.entropy if self._saved is None else self._saved["entropy"]
        return np.random.SeedSequence(entropy, spawn_key=seed.spawn_key)

    def settings(self, settings: Settings, budget: Budget) -> Settings:
        """Return the settings for what is left of a budget, which counts from the first iteration.

        The deadline is one from which earlier seconds are taken (`Budget.after`). A search keeps
        the batches an iteration that it began with: a larger budget then means more iterations.
        """
        self._began = budget.began
        if self._saved is None:
            return settings
        state, batches = self._saved["loop"], int(self._saved["batches_per_iteration"])
        if budget.given and budget.batches_per_iteration != batches:
            self._refuse(
                [f"batches_per_iteration: was {batches}, is {budget.batches_per_iteration}"]
            )
        done, left = int(state["iteration"]), budget.total_batches - int(state["batches_done"])
        self._exceeded = left < 0
        more = max(-(-left // batches), 0)
        late = settings.deadline is not None and time.perf_counter() >= settings.deadline
        if done and late:
            more = 0
        return replace(
            settings,
            iterations=done + more,
            batches_per_iteration=batches,
            last_batches=left - (more - 1) * batches if more else None,
        )

    def attach(
        self, loop: Loop, signature: dict[str, Any], seed: np.random.SeedSequence
    ) -> Callable[[], None] | None:
        """Compare a search with the one on disk, if there is one, and save it from now on.

        Args:
            loop: The search, not yet started.
            signature: What it is told by.
            seed: Root of its randomness.

        Returns:
            What restores the search, for `Loop.start`; None where the directory is empty.

        Raises:
            ProjectError: If another search is in the directory; the message shows what differs.
            DamagedError: If the history does not fit the snapshot.
        """
        self._attached, self._signature, self._seed = loop, signature, seed
        loop.checkpoint = self._save
        if self._saved is None:
            self.folder.clear_history()
            loop.history.records.clear()
            loop.history.path = self.folder.history
            return None
        self._compare(self._saved["signature"], signature)
        self._take_history(loop.history, self._saved["history"])
        return self._restore

    def _compare(self, saved: dict[str, Any], given: dict[str, Any]) -> None:
        lines = differences(saved, given)
        if lines:
            hint = ""
            if saved.get("executor") != given.get("executor"):
                name = str(saved.get("executor")).removesuffix("Executor").lower()
                hint = (
                    "Executors agree but for rounding errors, so a search keeps its own: "
                    f'pass `executor="{name}"` to go on ("auto" chooses by backend and device).'
                )
            self._refuse(lines, hint)

    def _refuse(self, lines: list[str], hint: str = "") -> None:
        raise ProjectError(
            describe(
                "The directory holds a search that differs from this one.",
                f"Changed: {listing(lines)}." + (f" {hint}" if hint else ""),
                "Pass what it began with to go on with it, or begin anew in another directory.",
                directory=str(self.plan.directory),
            )
        )

    def _take_history(self, history: History, mark: dict[str, Any]) -> None:
        self.folder.cut_history(mark)
        history.records[:] = History.load(self.folder.history).records
        history.path = self.folder.history

    def _restore(self) -> None:
        if self._saved is None:
            return
        loop, state = self._loop, self._saved["loop"]
        try:
            loop.set_state(state)
        except PopDescentError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DamagedError(
                describe(
                    "The snapshot does not hold what a search needs.",
                    fix="Begin anew in another directory.",
                    directory=str(self.plan.directory),
                    reason=repr(error)[:200],
                )
            ) from error
        self._saved = {**self._saved, "loop": None}
        closing = loop.strategy.closing.rounds
        iterations, where = loop.settings.iterations, self.plan.directory
        if loop.iteration < iterations:
            # It may have been closed at the end of a smaller budget.
            loop.rounds_closed = 0
            note = f"resuming iteration {loop.iteration + 1} of {iterations} from {where}"
        elif loop.rounds_closed < closing and not self._exceeded:
            note = f"resuming the training after iteration {iterations} from {where}"
        else:
            loop.rounds_closed = closing
            note = f"all {iterations} iterations are done, in {where}; more need a larger budget"
        loop.notes.insert(0, note)
        self._done = self._progress()
        self._last_end = time.perf_counter()

    def _progress(self) -> tuple[int, int]:
        return self._loop.iteration, self._loop.rounds_closed

    def _save(self, last: bool) -> None:
        """Save the search if it is time; what goes wrong on the disk ends the saving only."""
        loop = self._loop
        if self._stopped or self._progress() == self._done:
            return
        if loop.history.path is None:
            self._stop("the history cannot be written")
        elif self._done is not None and not self.folder.has_room():
            self._stop("`max_disk_mb` is reached")
        elif last or self._due():
            began = time.perf_counter()
            try:
                self._write()
            except OSError as error:
                self._stop(error.strerror or str(error))
            self._last_end = time.perf_counter()
            self._last_seconds = self._last_end - began

    def _due(self) -> bool:
        if self._done is None:
            return True
        if self.plan.every is not None:
            return self._loop.rounds_closed > 0 or self._loop.iteration % self.plan.every == 0
        waited = time.perf_counter() - self._last_end
        return waited * _TIME_SHARE >= self._last_seconds

    def _write(self) -> None:
        loop = self._loop
        packed = pack(
            {
                "written_by": {"keras": keras.__version__, "numpy": np.__version__},
                "entropy": self._seed.entropy,
                "seconds_used": self.seconds_used + time.perf_counter() - self._began,
                "signature": self._signature,
                "batches_per_iteration": loop.settings.batches_per_iteration,
                "history": self.folder.history_mark(),
                "extras": {name: state() for name, state in self.extras.items()},
                "loop": loop.get_state(),
            }
        )
        if self._done is None:
            self._say_need(packed.num_bytes)
        if self.folder.write(packed):
            self._done = self._progress()
        else:
            self._stop("`max_disk_mb` is reached")

    def _say_need(self, num_bytes: int) -> None:
        """Estimate what the search will need on the disk, before it trains."""
        loop = self._loop
        states = [loop.executor.capture(member.slot) for member in loop.members]
        largest = max(states, key=MemberState.num_bytes)
        if self.plan.project is not None:
            # The best member's weights come into the project too, at the end.
            self.folder.margin += 2 * largest.num_bytes()
        # No member is among the best yet.
        whole = num_bytes + loop.settings.num_kept * pack(to_arrays(largest)).num_bytes
        bound = self.folder.max_bytes
        # One snapshot stays while the next is written; two stay where there is room for three.
        least = 2 * whole + self.folder.used_bytes() + self.folder.margin
        if bound is not None and bound < least:
            raise ArgumentError(
                describe(
                    "`max_disk_mb` is too small for the snapshots of this population.",
                    f"Expected at least {least / _MEGABYTE:.3g}: room for two snapshots of about "
                    f"{whole / _MEGABYTE:.3g} MB.",
                    "Raise it, or search without checkpoints.",
                    max_disk_mb=self.plan.max_disk_mb,
                )
            )
        loop.notes.append(
            f"checkpoints in {self.plan.directory}: two of about {whole / _MEGABYTE:.3g} MB each"
            + ("" if bound is None else f", at most {bound / _MEGABYTE:.3g} MB in all")
        )

    def _stop(self, reason: str) -> None:
        self._stopped = True
        done = "none" if self._done is None else f"that of iteration {self._done[0]}"
        # What would follow in the history has no snapshot.
        self._loop.history.path = None
        warnings.warn(
            f"No more checkpoints in {self.plan.directory}: {reason}. The search goes on; the last "
            f"snapshot is {done}.",
            CheckpointWarning,
            stacklevel=2,
        )
