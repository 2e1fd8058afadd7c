"""A directory of snapshots: two of them, replaced in turn, within a bound; and the history."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_popdescent.checkpoint.archive import Packed, read
from keras_popdescent.errors import DamagedError, ProjectError, describe

HISTORY = "history.jsonl"
_NAME = re.compile(r"snapshot-(\d{8,})\.safetensors")
_WRITING = "writing.tmp"
# So many snapshots stay: the newest, and one before it in case the newest gets damaged.
_NUM_KEPT = 2
# For the lines that the history gets between two looks at the bound.
_MIN_MARGIN = 16 * 1024


class CheckpointWarning(UserWarning):
    """Checkpoints are not, or no longer, what they should be; the search itself goes on."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that was read.

    Attributes:
        number: Its place in the order of snapshots.
        tree: What was saved.
    """

    number: int
    tree: dict[str, Any]


class Folder:
    """The files of one search.

    A snapshot is written beside, brought to the disk (`fsync`) and then renamed, so that at any
    moment, whatever happens, the newest one under its name is whole. The process that writes holds
    the directory's `FolderLock`.

    Args:
        directory: The directory. It is not made here: one that is gone would come back without
            what was in it.
        max_bytes: The files of the directory never hold more; None for no bound.
        history: The history's file; by default one within the directory.
        measured: The directory that the bound is for, with all that is in it; by default the
            directory itself.
    """

    def __init__(
        self,
        directory: str | Path,
        max_bytes: int | None = None,
        history: str | Path | None = None,
        measured: str | Path | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.measured = self.directory if measured is None else Path(measured)
        # Room that is left below the bound for what others write: lines of the history, mostly.
        self.margin = _MIN_MARGIN
        self.max_bytes = max_bytes
        self.history = self.directory / HISTORY if history is None else Path(history)
        # Numbers of the snapshots that are known to be whole, the oldest first.
        self._whole: list[int] = []
        self._hashed = 0
        self._digest = hashlib.sha256()

    def newest(self) -> Snapshot | None:
        """Return the newest snapshot that is whole, None where there is none at all.

        Where the newest is damaged, the one before it is returned, with a warning: the search then
        repeats the iterations between the two.

        Raises:
            DamagedError: If there are snapshots and none of them is whole.
            ProjectError: If one cannot be read, or is of a newer version.
        """
        with suppress(OSError):
            (self.directory / _WRITING).unlink()
        failed: DamagedError | None = None
        for number in reversed(self._numbers()):
            try:
                tree = read(self._path(number))
            except DamagedError as error:
                failed = failed or error
                continue
            if failed is not None:
                warnings.warn(
                    f"The newest snapshot in {self.directory} is damaged; the one before it is "
                    "used. Some iterations are repeated.",
                    CheckpointWarning,
                    stacklevel=2,
                )
            self._whole = [number]
            return Snapshot(number, tree)
        if failed is not None:
            raise failed
        return None

    def write(self, packed: Packed) -> bool:
        """Write a snapshot, unless the bound leaves no room for it.

        Args:
            packed: What to write.

        Returns:
            Whether it was written. If not, the snapshots from before are still there.

        Raises:
            OSError: If the disk is full, or the directory cannot be written to or is gone.
        """
        if not self.has_room(packed.num_bytes):
            # The one before the newest can go: the newest is whole.
            self._drop_all_but(self._whole[-1:])
            if not self.has_room(packed.num_bytes):
                return False
        numbers = self._numbers()
        number = max(numbers, default=0) + 1
        beside = self.directory / _WRITING
        try:
            with beside.open("wb") as file:
                for chunk in packed.chunks():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path(number))
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        _sync_directory(self.directory)
        self._whole = [*self._whole, number][-_NUM_KEPT:]
        self._drop_all_but(self._whole)
        return True

    def history_mark(self) -> dict[str, Any]:
        """Bring the history to the disk and return its length and checksum, for a snapshot.

        Raises:
            OSError: If it is gone, or shorter than it was.
        """
        with self.history.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._hashed:
                raise OSError("the history has become shorter")
            file.seek(self._hashed)
            while chunk := file.read(1 << 20):
                self._digest.update(chunk)
                self._hashed += len(chunk)
            os.fsync(file.fileno())
        return {"bytes": self._hashed, "sha256": self._digest.hexdigest()}

    def cut_history(self, mark: dict[str, Any]) -> None:
        """Cut the history to what it was at a snapshot; what came later will be repeated.

        Args:
            mark: What `history_mark` returned then.

        Raises:
            DamagedError: If the history does not begin as it did then.
        """
        length = int(mark["bytes"])
        self._hashed, self._digest = 0, hashlib.sha256()
        try:
            with self.history.open("r+b") as file:
                while self._hashed < length:
                    chunk = file.read(min(1 << 20, length - self._hashed))
                    if not chunk:
                        break
                    self._digest.update(chunk)
                    self._hashed += len(chunk)
                if self._hashed == length and self._digest.hexdigest() == mark["sha256"]:
                    file.truncate(length)
                    return
        except OSError as error:
            raise ProjectError(
                describe(
                    f"The history cannot be read: {error.strerror or error}.",
                    fix="Copy it back from elsewhere, or begin anew in another directory.",
                    file=str(self.history),
                )
            ) from error
        raise DamagedError(
            describe(
                "The history does not fit the snapshot: it was changed or cut.",
                fix="Copy it back from elsewhere, or begin anew in another directory.",
                file=str(self.history),
            )
        )

    def clear_history(self) -> None:
        """Remove a history that has no snapshot: of a search that was killed at its very start.

        Raises:
            ProjectError: If it holds iterations; then somebody took the snapshots away.
        """
        try:
            lines = self.history.read_bytes().count(b"\n")
            # A header and the birth of the first members.
            if lines <= 2:
                self.history.unlink()
                return
        except FileNotFoundError:
            return
        except OSError as error:
            raise ProjectError(
                describe(
                    f"The history cannot be replaced: {error.strerror or error}.",
                    fix="Choose another directory.",
                    file=str(self.history),
                )
            ) from error
        raise ProjectError(
            describe(
                "There is a history without the snapshot that the search could go on from.",
                fix="Choose another directory, or move the history away.",
                file=str(self.history),
                records=lines - 1,
            )
        )

    def has_room(self, num_bytes: int = 0) -> bool:
        """Whether the bound leaves room for some more bytes, and then some lines of history."""
        if self.max_bytes is None:
            return True
        return self.used_bytes() + num_bytes + self.margin <= self.max_bytes

    def used_bytes(self) -> int:
        """Return how many bytes the files of the measured directory hold."""
        total = 0
        for folder, _, names in os.walk(self.measured):
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name), follow_symlinks=False).st_size
        return total

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ProjectError(
                describe(
                    f"The directory cannot be read: {error.strerror or error}.",
                    fix="Check its permissions, or pass another one.",
                    directory=str(self.directory),
                )
            ) from error
        found = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(number for number in found if self._path(number).name in names)

    def _path(self, number: int) -> Path:
        return self.directory / f"snapshot-{number:08d}.safetensors"

    def _drop_all_but(self, numbers: list[int]) -> None:
        for number in self._numbers():
            if number not in numbers:
                with suppress(OSError):
                    self._path(number).unlink()


def _sync_directory(directory: Path) -> None:
    """Bring a rename to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
