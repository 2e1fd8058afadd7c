"""One process a directory: a lock that the system itself lifts when its process dies."""

from __future__ import annotations

import json
import os
import socket
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_popdescent.errors import ProjectError, describe

NAME = "lock"
# Folders that this process has locked: a lock on a file says nothing within one process.
_HELD: set[str] = set()
_GUARD = threading.Lock()


class FolderLock:
    """Holds a directory for the length of a `with` block.

    The lock belongs to the process, not to the file `lock`, which only says who has it: a process
    that is killed, even with `kill -9`, leaves nothing behind that would have to be removed, and a
    process that it has forked inherits nothing.

    Args:
        directory: The directory; it is made if it is not there.

    Raises:
        ProjectError: On entering, if somebody else has it (the message says who), or it cannot be a
            directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._file: Any = None
        # The directory by its whole path, while it is held.
        self._key = ""

    def __enter__(self) -> FolderLock:
        # Not on leaving: a relative path would mean another one after `os.chdir`.
        key = os.path.realpath(self.directory)
        with _GUARD:
            if key in _HELD:
                raise self._taken("another search in this process")
            file = self._open()
            try:
                self._acquire(file)
            except BaseException:
                file.close()
                raise
            self._file, self._key = file, key
            _HELD.add(key)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _GUARD:
            _HELD.discard(self._key)
            # Closing lifts the lock. The file stays: a removed one could be locked twice.
            self._file.close()
            self._file = None

    def _open(self) -> Any:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Never truncated before it is ours: it says whose it is. Without a buffer, which would
            # be written once more when the file is closed.
            return open(self.directory / NAME, "a+b", buffering=0)
        except OSError as error:
            raise ProjectError(
                describe(
                    f"The directory cannot be used: {error.strerror or error}.",
                    "Expected a path where a directory is, or can be made and written to.",
                    directory=str(self.directory),
                )
            ) from error

    def _acquire(self, file: Any) -> None:
        try:
            _lock(file)
        except BlockingIOError:
            raise self._taken(_owner(file)) from None
        except OSError as error:
            warnings.warn(
                f"The directory {self.directory} cannot be locked ({error.strerror or error}): "
                "take care that no other process uses it.",
                stacklevel=4,
            )
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        # For information only: a full disk is no reason not to search.
        with suppress(OSError):
            file.seek(0)
            file.truncate()
            file.write(json.dumps(who).encode())

    def _taken(self, who: str) -> ProjectError:
        return ProjectError(
            describe(
                f"The directory is in use by {who}.",
                "Expected one search at a time in a directory.",
                "Wait for the other one to end, or choose another directory.",
                directory=str(self.directory),
            )
        )


def _owner(file: Any) -> str:
    try:
        file.seek(0)
        who = json.loads(file.read())
        return f"process {int(who['pid'])} on {str(who['host'])[:80]!r}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"


def _lock(file: Any) -> None:
    """Lock a file or raise BlockingIOError if another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError(*error.args) from error
        return
    try:
        # Not `flock`: a forked worker that outlives its killed parent would go on holding it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # some systems say EACCES where others say EAGAIN
        raise BlockingIOError(*error.args) from error
