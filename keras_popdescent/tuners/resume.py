"""How a tuner's search goes on in a new process: its directory, and the trials of its members.

The population itself is in the snapshots (`population/checkpointing.py`). KerasTuner's files of
trials are written at other moments and may be ahead of the newest snapshot, or cut off: what they
say is taken back to the snapshot, and what they lack is told again from the history.
"""

from __future__ import annotations

import functools
import glob
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_popdescent.checkpoint import CheckpointWarning, FolderLock
from keras_popdescent.errors import ProjectError, describe
from keras_popdescent.history import BirthRecord, History, MemberRecord
from keras_popdescent.population.checkpointing import CheckpointPlan, Checkpoints

if TYPE_CHECKING:
    from keras_popdescent.tuners.oracle import PopulationOracle

FOLDER = "checkpoint"
# What a trial says about its member beside the hyperparameters.
PARENT = "popdescent/parent_trial"
BIRTH = "popdescent/birth_iteration"
INHERITED = "popdescent/inherited_steps"
# What reading a file of KerasTuner's raises that is cut off or holds something else.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class CheckpointChoice:
    """A tuner's arguments about checkpoints.

    Attributes:
        checkpoint: Whether a search is saved at all.
        every: See `CheckpointPlan`.
        max_disk_mb: See `CheckpointPlan`.
    """

    checkpoint: bool = True
    every: int | None = None
    max_disk_mb: float | None = None

    def __post_init__(self) -> None:
        CheckpointPlan("", self.every, self.max_disk_mb)

    def plan(self, project: str | Path, execution: int) -> CheckpointPlan:
        """Return where an execution is saved."""
        number = f"_{execution}" if execution else ""
        return CheckpointPlan(
            Path(project) / f"{FOLDER}{number}",
            self.every,
            self.max_disk_mb,
            Path(project) / f"history{number}.jsonl",
            project,
        )


@contextmanager
def checkpoints_of(
    choice: CheckpointChoice, project: str | Path, executions: int
) -> Iterator[list[Checkpoints]]:
    """Yield the checkpoints of all executions for the length of a block; none where none are made.

    Those of an earlier search with more executions are among them, at the end: their trials are
    in the project. All know the seconds of all: each counts those of the executions before it.

    Args:
        choice: The tuner's arguments.
        project: The project directory.
        executions: How many executions the search has.

    Raises:
        ProjectError: If what is in a directory cannot be read.
    """
    if not choice.checkpoint:
        yield []
        return
    while Path(choice.plan(project, executions).directory).is_dir():
        executions += 1
    with ExitStack() as stack:
        plans = [choice.plan(project, execution) for execution in range(executions)]
        opened = [stack.enter_context(Checkpoints(plan)) for plan in plans]
        used = max(checkpoints.seconds_used for checkpoints in opened)
        for checkpoints in opened:
            checkpoints.seconds_used = used
        yield opened


def refuse_if_in_use(project: str | Path) -> None:
    """Refuse to delete a project directory that a search of another process is in.

    Raises:
        ProjectError: If another process has it.
    """
    if Path(project).is_dir():
        with FolderLock(project):
            pass


def alone_in_project(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a tuner's method run only while no other process uses the project directory."""

    @functools.wraps(method)
    def locked(tuner: keras_tuner.Tuner, *args: Any, **kwargs: Any) -> Any:
        with FolderLock(tuner.project_dir):
            return method(tuner, *args, **kwargs)

    return locked


def tolerant(write: Callable[[], Any], what: str) -> None:
    """Write a file of KerasTuner's; where the disk does not take it, warn and go on."""
    tensorflow = sys.modules.get("tensorflow")
    # With TensorFlow, KerasTuner writes through TensorFlow's file system, which has its own errors.
    errors = (OSError,) if tensorflow is None else (OSError, tensorflow.errors.OpError)
    try:
        write()
    except errors as error:
        why = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        warnings.warn(
            f"KerasTuner cannot write {what} ({why}); the search goes on.",
            CheckpointWarning,
            stacklevel=3,
        )


def reload_trials(oracle: keras_tuner.Oracle, project: str | Path) -> None:
    """Read the trials of a project; what cannot be read is left out, with a warning.

    Raises:
        ProjectError: If there are trials of another tuner: they are no members.
    """
    pattern = os.path.join(glob.escape(str(project)), "trial_*", "trial.json")
    for path in sorted(glob.glob(pattern)):
        try:
            trial = Trial.load(path)
            folder = os.path.basename(os.path.dirname(path))
            if folder != f"trial_{trial.trial_id}":
                # An id becomes the name of a folder that is written to.
                raise ValueError(f"trial {trial.trial_id!r} in {folder!r}")
        except _UNREADABLE as error:
            warnings.warn(
                f"The trial in {path} cannot be read and is left out: {error!r:.200}",
                CheckpointWarning,
                stacklevel=3,
            )
            continue
        if BIRTH not in trial.hyperparameters.values:
            raise ProjectError(
                describe(
                    "The project holds trials of another tuner, which are no members.",
                    fix="Pass another `project_name` or `directory`, or `overwrite=True` to "
                    "delete them.",
                    directory=str(project),
                )
            )
        oracle.trials[trial.trial_id] = trial
    order_trials(oracle)


def order_trials(oracle: keras_tuner.Oracle) -> None:
    """Set the oracle's orders from its trials: ids count births."""
    oracle.start_order = sorted(oracle.trials, key=number_of)
    ended = (TrialStatus.COMPLETED, TrialStatus.FAILED, TrialStatus.INVALID)
    oracle.end_order = [id_ for id_ in oracle.start_order if oracle.trials[id_].status in ended]


def number_of(trial_id: str) -> int:
    """Return the number that a trial's id is; ids of one search may have different lengths."""
    return int(trial_id) if trial_id.isdecimal() else -1


def saved_trials(checkpoints: Checkpoints) -> list[str]:
    """Return the ids of the trials that belong to a snapshot, none where there is none."""
    return list((checkpoints.extra("trials") or {}).get("ids", []))


class TrialRecords:
    """The trials of one execution, in step with its snapshots.

    Args:
        oracle: The tuner's oracle.
        trials: member id -> its trial, filled by the execution.
        checkpoints: The execution's checkpoints.
        others: Ids of the trials that belong to the other executions.

    Raises:
        ProjectError: If trials of the snapshot belong to another execution too.
    """

    def __init__(
        self,
        oracle: PopulationOracle,
        trials: dict[int, Trial],
        checkpoints: Checkpoints,
        others: Iterable[str] = (),
    ) -> None:
        self._oracle = oracle
        self._trials = trials
        self._ids = saved_trials(checkpoints)
        if not set(self._ids).isdisjoint(others):
            raise ProjectError(
                describe(
                    "Two executions have the same trials: an earlier version has written one over "
                    "the other.",
                    fix="Begin anew with `overwrite=True` or another `project_name`.",
                    directory=str(checkpoints.plan.directory),
                )
            )
        saved: Any = checkpoints.extra("trials") or {}
        self._before = list(saved.get("before", oracle.trials))
        # Trials that are there whatever becomes of this execution.
        self.others = {*others, *(id_ for id_ in self._before if id_ in oracle.trials)}
        self._found: dict[str, Trial] = {}
        checkpoints.extras["trials"] = self.get_state

    def begin(self) -> None:
        """Take the oracle back to the snapshot: who was born after it will be born again."""
        known = dict(self._oracle.trials)
        self._found = {id_: known[id_] for id_ in self._ids if id_ in known}
        self._oracle.trials.clear()
        self._oracle.trials.update({id_: known[id_] for id_ in known if id_ in self.others})
        self._oracle.taken = self.others
        self._oracle.ongoing_trials.clear()
        order_trials(self._oracle)

    def get_state(self) -> dict[str, Any]:
        """Return which trials the members have, JSON-able."""
        ids = [self._trials[member].trial_id for member in sorted(self._trials)]
        return {"before": self._before, "ids": ids}

    def readmit(
        self,
        history: History,
        make: Callable[[BirthRecord, int, str], Trial],
        report: Callable[[MemberRecord], Mapping[str, float]],
        keys: Mapping[int, str],
    ) -> list[Trial]:
        """Give the members of a resumed search their trials back.

        Args:
            history: What has happened up to the snapshot.
            make: Makes a running trial for a member whose own was lost, from its birth, the
                iteration of that, and the trial's id.
            report: Returns the metrics that a member's record reports to its trial.
            keys: member id -> the oracle's key of the trial, for the members that live.

        Returns:
            The trials of dead members that were never ended.
        """
        births = {
            birth.member_id: (birth, record.iteration)
            for record in history.records
            for birth in record.births
        }
        reports: dict[int, dict[int, Mapping[str, float]]] = {}
        step, objective = 0, self._oracle.objective.name
        for record in history.records:
            step += bool(record.members)
            for member in record.members:
                metrics = report(member)
                if metrics:
                    reports.setdefault(member.member_id, {})[step] = metrics
            for birth in record.births:
                if birth.score is not None:
                    reports[birth.member_id] = {step: {objective: birth.score}}
        for member_id, id_ in enumerate(self._ids):
            told = reports.get(member_id, {})
            trial = self._found.get(id_)
            whole = trial is not None and _cut(trial, set(told))
            if trial is None or not whole:
                trial = make(*births[member_id], id_)
            self._trials[member_id] = self._oracle.trials[id_] = trial
            if member_id in keys:
                trial.status, trial.score, trial.message = TrialStatus.RUNNING, None, None
                self._oracle.ongoing_trials[keys[member_id]] = trial
            for step, metrics in () if whole else told.items():
                self._oracle.update_trial(id_, metrics, step=step)
        order_trials(self._oracle)
        dead = [trial for member_id, trial in self._trials.items() if member_id not in keys]
        return [trial for trial in dead if trial.status == TrialStatus.RUNNING]


def _cut(trial: Trial, steps: set[int]) -> bool:
    """Take back what was reported to a trial after the last of some steps.

    Returns:
        Whether all of them had been reported.
    """
    last = max(steps, default=0)
    try:
        config = trial.metrics.get_config()
        for metric in config["metrics"].values():
            metric["observations"] = [o for o in metric["observations"] if o["step"] <= last]
        config["metrics"] = {n: m for n, m in config["metrics"].items() if m["observations"]}
        trial.metrics = type(trial.metrics).from_config(config)
        seen = {o["step"] for m in config["metrics"].values() for o in m["observations"]}
    except _UNREADABLE:
        return False
    return seen == steps
