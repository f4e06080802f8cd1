"""The process that llama.cpp runs in says why it could not start, also what llama.cpp's own thread logs late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from quietmind.engine import llamacpp_child

FAILING = """
import sys, threading, time

class CommonParams:
    pass

def log():
    time.sleep(0.1)
    sys.stderr.write("0 E load: tensor data is corrupted or incomplete\\n")
    sys.stderr.flush()

def Server(params):
    threading.Thread(target=log).start()
    raise RuntimeError("Failed to init server")
"""


def test_what_is_logged_late_stands_before_what_was_raised(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text(FAILING)
    log = tmp_path / "log"
    wanted = {"values": {}, "environment": {}, "name": "a model", "key": "k", "socket": "s"}
    with log.open("wb") as errors:
        ended = subprocess.run(
            [sys.executable, "-m", llamacpp_child.__name__],
            input=json.dumps(wanted).encode() + b"\n",
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert log.read_text().splitlines() == [
        "0 E load: tensor data is corrupted or incomplete",
        "0 E RuntimeError: Failed to init server",
    ]
