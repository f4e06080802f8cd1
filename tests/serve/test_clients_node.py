"""The libraries for JavaScript that editors and chat programs are built on ask the address: see clients.mjs.

They are no dependency of the tests. $QUIETMIND_TEST_NODE names a folder in which some of them are installed:
`npm install openai @langchain/openai @langchain/core @langchain/ollama @continuedev/openai-adapters ai @ai-sdk/openai`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serve.conftest import Here

FOLDER = os.environ.get("QUIETMIND_TEST_NODE", "")
SCRIPT = Path(__file__).with_name("clients.mjs")

pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="$QUIETMIND_TEST_NODE names no folder with the libraries"),
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
]


def answers(here: Here, model: str, question: str) -> dict[str, Any]:
    """Return what each library that is installed says."""
    copied = Path(FOLDER) / "quietmind-clients.mjs"  # node looks for libraries beside the script
    shutil.copyfile(SCRIPT, copied)
    try:
        words = ["node", str(copied), here.url, model, question, "fake-model"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    finally:
        copied.unlink()
    found = {name: said for name, said in json.loads(done.stdout).items() if said is not None}
    assert found, "none of the libraries is installed there"
    return found


def test_each_library_hears_the_model(served: Here) -> None:
    for name, said in answers(served, "fake-model", "hello there").items():
        assert said.get("stream") == "You said: hello there", (name, said)
        assert said.get("whole", said["stream"]) == said["stream"], name
        assert said.get("vectors", [[1, 0]] * 2) == [[1, 0]] * 2, name


def test_each_library_hears_the_notes_with_their_sources(served: Here) -> None:
    for name, said in answers(served, "archive", "How does the hub pair with a sensor?").items():
        assert "Sources:" in said["stream"], (name, said)
        assert said.get("whole", said["stream"]) == said["stream"], name
