"""The environment of a process as other programs see it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CODE = """
import os, subprocess, sys
from jobworker import environment
environment.hide()
started = subprocess.run(["/bin/sh", "-c", "echo $HUSH"], capture_output=True, text=True)
print(os.environ["HUSH"], started.stdout.strip(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it")
def test_hidden_environment_still_visible_to_process_and_children() -> None:
    environment = {**os.environ, "HUSH": "secret"}
    with subprocess.Popen(
        [sys.executable, "-c", _CODE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "secret secret\n"
        # Another user than root may not even open it.
        if os.geteuid() == 0:
            assert Path(f"/proc/{process.pid}/environ").read_bytes().strip(b"\0") == b""
        process.stdin.close()
