import os
import shutil
import signal
import subprocess

import pytest

# So that a law that a strategy breaks shows the values in question; before anything imports it.
for suite in ("bindings", "executors", "strategies"):
    pytest.register_assert_rewrite(f"keras_popdescent.testing.{suite}")

# A shell that starts tests in the background has them ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_disk(tmp_path):
    """Return what makes a file system of so many bytes; it needs the rights to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")

    def make_disk(num_bytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            pytest.skip(f"no file system can be mounted here: {told.stderr.strip()}")
        return folder

    yield make_disk
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
