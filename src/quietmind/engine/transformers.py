"""Hugging Face transformers with Accelerate behind the engine port, in a child of ours that serves it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import quietmind
from quietmind.base.errors import EngineMissing, EngineStartFailed
from quietmind.engine.openai_engine import OpenAIEngine
from quietmind.engine.openai_server import Serving, Way, start_server

LOG_NAME = "transformers.log"

INSTALL = "pip install 'quietmind[transformers]'"

# -P: without it, a json.py in the folder that the person happens to be in would be run.
PROGRAM = (sys.executable, "-P", "-m", "quietmind.engine.transformers_child")


def start(serving: Serving) -> OpenAIEngine:
    """Start our child with the words of ``serving.command``, which begin with those of PROGRAM or of another Python.

    Modules that the plan puts on the disk and that are stored there otherwise than computed with go to a folder beside
    the log. Raises EngineMissing where transformers is not installed for that Python, else as ``start_server`` does.
    """
    if not (serving.folder / "config.json").is_file():
        raise EngineStartFailed(
            f"{serving.name}: {serving.folder} holds no config.json; fetch the model's safetensors form"
        )
    sources = str(Path(quietmind.__file__).parents[1])  # another Python has to find us

    def words(socket: Path, _port: int | None, _secret: Path) -> tuple[str, ...]:
        offload = (serving.log or socket).parent / "transformers-offload"
        return (f"offload_folder={offload}", f"name={serving.name}", f"socket={socket}")

    way = Way(
        title="transformers",
        words=words,
        environment=lambda _: {
            "PYTHONPATH": os.pathsep.join(filter(None, (sources, os.environ.get("PYTHONPATH")))),
            "TOKENIZERS_PARALLELISM": "false",  # it forks no worker pools beside torch's threads
        },
        stdin=lambda key: f"{key}\n",
        extra={"return_progress": True},  # the sign of life of a long prompt
    )
    try:
        return start_server(way, serving)
    except EngineStartFailed as error:
        if "No module named" in str(error):
            raise EngineMissing(f"transformers is not installed here ({INSTALL}), or not whole: {error}") from error
        raise
