"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more about the other programs of the machine than about ours.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

# What a shell starts in the background ignores Ctrl-C, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class QdrantHere:
    """Qdrant's engine behind its REST on the loopback, in a process of its own (tests/qdrant_here.py).

    A server of Qdrant itself takes its place where $QUIETMIND_TEST_QDRANT names one. ``key`` is what it asks for.
    """

    key = "a-key-of-the-tests"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.address = os.environ.get("QUIETMIND_TEST_QDRANT", "")
        self.foreign = bool(self.address)
        if self.foreign:
            self.key = os.environ.get("QUIETMIND_TEST_QDRANT_KEY", "")
        self.start()

    def start(self) -> None:
        """Start it, on another port than before."""
        if self.foreign:
            return
        self._folder.mkdir(exist_ok=True)
        script = Path(__file__).with_name("qdrant_here.py")
        command = [sys.executable, str(script), str(self._folder), self.key]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def close(self) -> None:
        """End it as kill -9 does. Calling it again does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="session")
def qdrant_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantHere]:
    """A Qdrant that tests share; each has collections of its own."""
    with closing(_qdrant(tmp_path_factory.mktemp("qdrant"))) as server:
        yield server


@pytest.fixture
def mortal_qdrant(tmp_path: Path) -> Iterator[QdrantHere]:
    """A Qdrant of the test's own, which it may kill and start again."""
    with closing(_qdrant(tmp_path / "qdrant")) as server:
        if server.foreign:
            pytest.skip("the server that $QUIETMIND_TEST_QDRANT names is not ours to kill")
        yield server


def _qdrant(folder: Path) -> QdrantHere:
    pytest.importorskip("qdrant_client", reason="the client of Qdrant is not installed (extra `qdrant`)")
    if "QUIETMIND_TEST_QDRANT" not in os.environ:
        pytest.importorskip("qdrant_edge", reason="no Qdrant to test against: install qdrant-edge-py, its engine")
    return QdrantHere(folder)
