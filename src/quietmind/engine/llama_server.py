"""The person's own ``llama-server``: a CUDA, Metal, ROCm or Vulkan build of llama.cpp, run as a child of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Self

from quietmind.base.errors import UsageError
from quietmind.engine.installed import Installed, find, knows, require_flags
from quietmind.engine.llama_engine import LlamaEngine, Serving, slots_folder
from quietmind.engine.meeting_place import MeetingPlace
from quietmind.engine.program import Program
from quietmind.plan.engines import ENGINES

LOG_NAME = "llama-server.log"

# Told to every server that knows them: nothing of the plan depends on them, and without them a server of an earlier
# time did the same. ``--sse-ping-interval`` -1: silence must mean silence, see EngineHung.
_WELCOME = (
    ("--offline",),
    ("--no-webui",),
    ("--no-slots",),  # GET /slots would show prompts
    ("--sse-ping-interval", "-1"),
    ("--ctx-checkpoints", "0"),  # no plan knows of its copies of windows and states, 32 a slot
)
_MODEL_FLAGS = ("-m", "--model")


class LlamaServer(LlamaEngine):
    """A running llama-server."""

    @classmethod
    def run(
        cls,
        words: Sequence[str],
        log_folder: Path | None = None,
        *,
        program: Path | Installed | None = None,
        start_timeout_s: float = Serving.start_timeout_s,
        silence_timeout_s: float = Serving.silence_timeout_s,
        sealed: bool = True,
        memory_limit: int | None = None,
    ) -> Self:
        """Start the server as the ``words`` of a plan say (its flags), and wait until it serves.

        ``program`` None: $QUIETMIND_LLAMA_SERVER, or the one on PATH. Its log goes to ``llama-server.log`` in
        ``log_folder``. Raises UsageError where no word names a model, EngineTooOld for a word that this version does
        not know, EngineMissing or EngineStartFailed.
        """
        installed = program if isinstance(program, Installed) else find("llama-server", program)
        path = _model(words)
        known = (*words, "--host", "--api-key-file", "--alias", "--slot-save-path")
        require_flags(installed, known)
        welcome = [word for flags in _WELCOME if knows(installed, flags[0]) and flags[0] not in words for word in flags]
        all_words = (*installed.program, *words, *welcome)
        serving = Serving(
            title="llama-server",
            model_path=path,
            # A server that has no slots to save is one that was built without them.
            capabilities=replace(ENGINES["llama-server"].capabilities, snapshots=knows(installed, "--slot-save-path")),
            build=f"llama-server {installed.version}",
            log=log_folder / LOG_NAME if log_folder else None,
            start_timeout_s=start_timeout_s,
            silence_timeout_s=silence_timeout_s,
        )
        return cls.launch(serving, lambda place, key: _program(all_words, path.stem, place, key, sealed, memory_limit))


def _program(
    words: tuple[str, ...], name: str, place: MeetingPlace, key: str, sealed: bool, memory_limit: int | None
) -> Program:
    key_file = place.secret("key", key + "\n")
    return Program(
        words=(
            *words,
            *("--alias", name),
            *("--host", str(place.socket)),
            *("--api-key-file", str(key_file)),
            *("--slot-save-path", f"{slots_folder(place)}/"),
        ),
        sealed=sealed,
        socket=place.socket,
        memory_limit=memory_limit,
    )


def _model(words: Sequence[str]) -> Path:
    for flag, value in pairwise(words):
        if flag in _MODEL_FLAGS:
            return Path(value)
    raise UsageError("no word says which model to load: give -m FILE")
