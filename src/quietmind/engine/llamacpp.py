"""llama.cpp in a child process of ours, around the prebuilt ``xllamacpp`` wheel."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

from quietmind.base.errors import UsageError
from quietmind.engine.llama_engine import LlamaEngine, Serving, slots_folder
from quietmind.engine.llamacpp_params import Params, params_of
from quietmind.engine.meeting_place import MeetingPlace
from quietmind.engine.program import Program
from quietmind.plan import kv
from quietmind.plan.engines import ENGINES

LOG_NAME = "llamacpp.log"

# What the wheel cannot do of what llama.cpp can, as long as it takes no overrides of metadata: see llamacpp_params.
CAPABILITIES = replace(ENGINES["llama.cpp"].capabilities, experts_override=False, yarn=False)


@dataclass(frozen=True)
class LlamaCppOptions:
    """How to run a model on the processor, said by hand rather than by a plan.

    ``context`` is in tokens; llama.cpp rounds it up to a multiple of 256 and down to the model's own limit.
    ``kv_type`` is the type of the KV cache, one of ``plan.kv.KV_TYPES``. ``threads`` None leaves the
    choice to llama.cpp: one a physical core.

    ``batch`` tokens of prompt are computed between two looks at the connection: cancelling a prefill, and the sign of
    life that a prefill gives, are as coarse as that. More than ``micro_batch`` gains only where layers are split over
    several GPUs: on a CPU 2,048 and 512 prefill equally fast, and cancelling takes 9.7 s against 2.0 s.

    For the two limits of time see :class:`quietmind.engine.llama_engine.Serving`; ``memory_limit`` is in bytes.
    """

    model_path: Path
    context: int
    kv_type: str = "f16"
    threads: int | None = None
    batch: int = 512
    micro_batch: int = 512
    flash_attention: Literal["auto", "on", "off"] = "auto"
    start_timeout_s: float = 900.0
    silence_timeout_s: float = 300.0
    sealed: bool = True
    memory_limit: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words of llama.cpp's command line that say so. Raises UsageError for an unknown KV type."""
        kind = kv.kv_type(self.kv_type).name
        return (
            *("-m", str(self.model_path)),
            *("-c", str(self.context)),
            *("-b", str(self.batch)),
            *("-ub", str(self.micro_batch)),
            *("-ctk", kind, "-ctv", kind),
            *("-fa", self.flash_attention),
            *(("-t", str(self.threads)) if self.threads else ()),
            *("-np", "1"),
            *("--cache-ram", "0"),
            *("-fit", "off"),
        )


class LlamaCpp(LlamaEngine):
    """A running llama.cpp of the ``xllamacpp`` wheel."""

    @classmethod
    def start(cls, options: LlamaCppOptions, log_folder: Path | None = None) -> Self:
        """Start the child and wait until it serves.

        Its log goes to ``llamacpp.log`` in ``log_folder`` (the run before is kept as ``llamacpp.log.1``), or to a
        temporary file. Raises UsageError for an unknown KV type, EngineMissing or EngineStartFailed.
        """
        return cls.run(
            options.words,
            log_folder,
            start_timeout_s=options.start_timeout_s,
            silence_timeout_s=options.silence_timeout_s,
            sealed=options.sealed,
            memory_limit=options.memory_limit,
        )

    @classmethod
    def run(
        cls,
        words: Sequence[str],
        log_folder: Path | None = None,
        *,
        start_timeout_s: float = Serving.start_timeout_s,
        silence_timeout_s: float = Serving.silence_timeout_s,
        sealed: bool = True,
        memory_limit: int | None = None,
    ) -> Self:
        """Start the child as the ``words`` of a plan say (its flags), and wait until it serves.

        Raises UsageError for words that are not understood, EngineTooOld for those that the wheel cannot do,
        EngineMissing or EngineStartFailed.
        """
        params = params_of(words)
        if "model.path" not in params.values:
            raise UsageError("no word says which model to load: give -m FILE")
        path = Path(params.values["model.path"])
        params.values["model.path"] = str(path.absolute())
        serving = Serving(
            title="llama.cpp",
            model_path=path,
            capabilities=CAPABILITIES,
            build=f"xllamacpp {_version()}",
            log=log_folder / LOG_NAME if log_folder else None,
            start_timeout_s=start_timeout_s,
            silence_timeout_s=silence_timeout_s,
        )
        return cls.launch(serving, lambda place, key: _program(params, path.stem, place, key, sealed, memory_limit))


def _program(
    params: Params, name: str, place: MeetingPlace, key: str, sealed: bool, memory_limit: int | None
) -> Program:
    params.values["slot_save_path"] = f"{slots_folder(place)}/"  # the server joins names to it as they are
    wanted = asdict(params) | {"name": name, "key": key, "socket": str(place.socket)}
    return Program(
        # -P: without it, a json.py in the folder that the person happens to be in would be run.
        words=(sys.executable, "-P", "-m", "quietmind.engine.llamacpp_child"),
        sealed=sealed,
        socket=place.socket,
        memory_limit=memory_limit,
        stdin=json.dumps(wanted) + "\n",
    )


def _version() -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("xllamacpp")
    return "that is not installed"
