"""`kill -9` at any moment, also in the middle of writing a snapshot: nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the searches are forked")
@pytest.mark.parametrize("search", ["population", "tuner"])
def test_killed_searches_end_as_if_nothing_had_happened(search, tmp_path):
    script = Path(__file__).with_name("killed.py")
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, str(script), search, str(tmp_path), "24", "0"],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["wrong"] == []
    assert sum(told["kills"].values()) >= 24
    assert told["kills"]["in a snapshot"] >= 2
    stages = {name for name in told["kills"] if name.startswith("at ")}
    assert stages == {"at fsync", "at replace", "at unlink"}
