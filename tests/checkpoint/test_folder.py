"""A directory of snapshots: whole at any moment, bounded, of one process at a time."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_popdescent.checkpoint import CheckpointWarning, Folder, FolderLock, lock, pack
from keras_popdescent.checkpoint import folder as folders
from keras_popdescent.errors import DamagedError, PopDescentError, ProjectError


def content(number):
    return {"number": number, "array": np.full(100, number)}


def fill(directory, count=2):
    folder = Folder(directory)
    for number in range(count):
        assert folder.write(pack(content(number)))
    return folder


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_two_stay(tmp_path):
    folder = fill(tmp_path, 5)
    assert names(tmp_path) == ["snapshot-00000004.safetensors", "snapshot-00000005.safetensors"]
    assert folder.newest().tree["number"] == 4
    assert Folder(tmp_path / "nothing").newest() is None


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was(name, error, tmp_path, monkeypatch):
    folder = fill(tmp_path)
    before = names(tmp_path)

    def fail(*arguments):
        raise error

    monkeypatch.setattr(folders.os, name, fail)
    with pytest.raises(type(error)):
        folder.write(pack(content(9)))
    monkeypatch.undo()
    assert names(tmp_path) == before
    assert Folder(tmp_path).newest().tree["number"] == 1


def test_a_directory_that_is_gone_does_not_come_back(tmp_path):
    (tmp_path / "search").mkdir()
    folder = fill(tmp_path / "search")
    (tmp_path / "search").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        folder.write(pack(content(2)))
    assert names(tmp_path) == ["moved"]


def test_a_history_that_has_become_shorter(tmp_path):
    folder = Folder(tmp_path)
    folder.history.write_bytes(b"12345")
    folder.history_mark()
    folder.history.write_bytes(b"123")
    with pytest.raises(OSError, match="become shorter"):
        folder.history_mark()


def test_files_of_others_are_left_alone(tmp_path):
    others = ["snapshot-1.safetensors", "snapshot-x.safetensors", "snapshot-00000001.npz", "notes"]
    others += ["snapshot-000000009.safetensors", "snapshot-\u0661\u0662345678.safetensors"]
    for name in others:
        (tmp_path / name).write_text("mine")
    fill(tmp_path, 4)
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    assert Folder(tmp_path).newest().number == 4


def test_a_snapshot_that_is_a_directory(tmp_path):
    fill(tmp_path)
    path = tmp_path / "snapshot-00000002.safetensors"
    path.unlink()
    path.mkdir()
    with pytest.raises(ProjectError, match="cannot be read"):
        Folder(tmp_path).newest()


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_gives_the_one_before_or_an_error(data, tmp_path_factory):
    """Either file or both: cut, flipped, emptied, removed. Good ones stay whole: 200 cases."""
    directory = tmp_path_factory.mktemp("damaged")
    fill(directory)
    paths = sorted(directory.iterdir())
    hurt = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True))
    for path in hurt:
        whole = path.read_bytes()
        kind = data.draw(st.sampled_from(["cut", "flip", "empty", "remove"]))
        if kind == "cut":
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        elif kind == "flip":
            place = data.draw(st.integers(0, len(whole) - 1))
            flipped = whole[place] ^ (1 << data.draw(st.integers(0, 7)))
            path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        elif kind == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
    before = {path: path.read_bytes() for path in directory.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            found = Folder(directory).newest()
        except PopDescentError as error:
            assert isinstance(error, DamagedError)
            assert set(hurt) >= set(before)
        else:
            good = [number for number, path in enumerate(paths) if path not in hurt]
            assert (None if found is None else found.tree["number"]) == max(good, default=None)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_history_is_what_it_was_or_an_error(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("history")
    folder = Folder(directory)
    lines = b'{"objective": "loss"}\n{"iteration": 1}\n'
    folder.history.write_bytes(lines)
    mark = folder.history_mark()
    place = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "later"]))
    if kind == "cut":
        damaged = lines[:place]
    elif kind == "flip":
        flipped = lines[place] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = lines[:place] + bytes([flipped]) + lines[place + 1 :]
    else:
        damaged = lines + data.draw(st.binary(max_size=50))
    folder.history.write_bytes(damaged)
    if kind == "later":
        Folder(directory).cut_history(mark)
        assert folder.history.read_bytes() == lines
    else:
        with pytest.raises(DamagedError, match="does not fit the snapshot"):
            Folder(directory).cut_history(mark)
        assert folder.history.read_bytes() == damaged


def test_a_bound(tmp_path):
    size = pack(content(0)).num_bytes
    folder = Folder(tmp_path, max_bytes=2 * size + folders._MIN_MARGIN)
    assert all(folder.write(pack(content(number))) for number in range(4))
    assert folder.newest().tree["number"] == 3
    assert folder.used_bytes() <= 2 * size
    (tmp_path / "other").write_bytes(bytes(size))
    # Not even with one snapshot: the newest stays.
    assert not folder.write(pack(content(4)))
    assert Folder(tmp_path).newest().tree["number"] == 3


# --- The lock --------------------------------------------------------------------------------

HOLD = """
import sys, time
from keras_popdescent.checkpoint import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_another_process_has_it_until_it_dies(holder, tmp_path):
    message = rf"in use by process {holder.pid} on '.*'.*one search at a time.*choose another"
    with pytest.raises(ProjectError, match=message), FolderLock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    # Its file is still there, and says nothing any more.
    assert str(holder.pid) in (tmp_path / "lock").read_text()
    with FolderLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_one_process_twice(tmp_path):
    def enter():
        try:
            with FolderLock(tmp_path / "." / "inner"):
                pass
        except ProjectError as error:
            seen.append(str(error))

    seen: list[str] = []
    with FolderLock(tmp_path / "inner"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert "in use by another search in this process" in seen[0]
        with FolderLock(tmp_path / "other"):
            pass
    enter()
    assert len(seen) == 1


def test_a_relative_directory_is_free_again_after_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FolderLock("runs"):
        (tmp_path / "elsewhere").mkdir()
        os.chdir(tmp_path / "elsewhere")
    with FolderLock(tmp_path / "runs"):
        pass


@pytest.mark.parametrize("name", ["file", "file/below", "circle", "taken"])
def test_what_cannot_be_a_directory(name, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "taken" / "lock").mkdir(parents=True)
    with pytest.raises(ProjectError, match="directory cannot be used: .*Received: directory="):
        FolderLock(tmp_path / name).__enter__()


class NoRoom(io.FileIO):
    """A file on a full disk."""

    def write(self, content):
        raise OSError(28, "No space left on device")


def test_a_full_disk_does_not_hinder_the_lock(tmp_path, monkeypatch):
    """What it says is information only."""
    monkeypatch.setattr(lock, "open", lambda path, *_, **__: NoRoom(path, "a+"), raising=False)
    with FolderLock(tmp_path):
        assert (tmp_path / "lock").read_bytes() == b""
        with pytest.raises(ProjectError, match="in use"), FolderLock(tmp_path):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_worker_that_outlives_its_process_holds_nothing(tmp_path):
    """The lock is the process's, not that of what it has forked."""
    pid = os.fork()
    if not pid:
        with FolderLock(tmp_path):
            if not os.fork():
                os.execvp("sleep", ["sleep", "5"])
            os._exit(0)
    os.waitpid(pid, 0)
    with FolderLock(tmp_path):
        pass
