"""What a launch file is written from, and the words and environment that it starts its engine with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from quietmind.base.errors import UsageError
from quietmind.base.units import GIB
from quietmind.engine.llamacpp_params import params_of
from quietmind.engine.sealed import SWITCHES
from quietmind.model.card import ModelCard
from quietmind.plan.engines import engine_kind
from quietmind.plan.plan import Plan

PORT = 8087  # of no well-known server, so that a launch file and another engine can run side by side

OFFLOADING = ("llama.cpp", "llama-server")  # the engines that take llama-server's words
_MODEL_OPTIONS = {"llama.cpp": "-m", "llama-server": "-m", "sglang": "--model-path"}  # vLLM's stands first, bare
OUR_SERVER = ("-P", "-m", "quietmind.engine.xllamacpp_server")
# No hub, no web page, no list of slots, which shows prompts; a llama-server that lacks one of them has not the thing.
_QUIET = ("--offline", "--no-webui", "--no-slots")
# As for our own children (engine.child): threads that wait for each other leave the cores to other programs.
_GOOD_NEIGHBOUR = {"GOMP_SPINCOUNT": "1000"}
# Left alone, the processes of one engine meet each other at the machine's address in the network.
_MEET_ON_LOOPBACK = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}

# The processes of an engine that shards are estimated in the ledger; twice that has to be enough.
_ESTIMATES_DOUBLED = 2


class Slot(Enum):
    """A word that is not known before the file runs; each form writes it in its own way."""

    MODEL = "the model's path"
    HOST = "the address to listen on"
    PORT = "the port to listen on"
    KEY_FILE = "the file that holds the key"
    KEY_CONFIG = "the file that holds the key as a YAML setting"


Word = str | Slot

_OPTION = re.compile(r"--?[a-zA-Z]")  # a negative number is a value


def usual_program(engine: str) -> tuple[str, ...]:
    """Return the words that start an engine where it is installed in the usual way, for a machine that is not here."""
    if engine == "llama.cpp":
        return ("python3", *OUR_SERVER)
    return engine_kind(engine).program


@dataclass(frozen=True)
class Launch:
    """A planned run that is to become a file.

    ``program`` are the words before the plan's flags: the path of ``llama-server``, ``vllm serve``. ``version`` is the
    installed engine's, None where none was found; ``known`` are the options that it has, empty where that is not known.
    ``command`` is the command line that the file is written by.
    """

    plan: Plan
    card: ModelCard
    program: tuple[str, ...]
    version: str | None = None
    known: frozenset[str] = frozenset()
    command: str = "quietmind launch"
    port: int = PORT

    @property
    def engine(self) -> str:
        """The engine's key in ``plan.engines.ENGINES``."""
        return self.plan.engine_key

    @property
    def nodes(self) -> int:
        """The machines that run it together."""
        return self.plan.split.nodes if self.plan.split else 1

    @property
    def model(self) -> str:
        """What the plan points the engine to: a file, or the folder of a checkpoint."""
        return self.plan.flags[self._model_at]

    @property
    def words(self) -> tuple[Word, ...]:
        """The plan's flags, the model's path left open."""
        flags, at = self.plan.flags, self._model_at
        return (*flags[:at], Slot.MODEL, *flags[at + 1 :])

    @property
    def _model_at(self) -> int:
        option = _MODEL_OPTIONS.get(self.engine)
        return self.plan.flags.index(option) + 1 if option else 0


@dataclass(frozen=True)
class Serving:
    """How the engine is started. ``words`` are the program and its arguments, none of which a shell may change.

    The key reaches it through a file (Slot.KEY_FILE or Slot.KEY_CONFIG among the words) or through the environment
    variable ``key_variable``. A key among the words would stand in every list of processes.
    """

    program: tuple[str, ...]
    words: tuple[Word, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    key_variable: str | None = None


def serving(launch: Launch, *, several: bool = False) -> Serving:
    """Return how the engine of ``launch`` is started, on the loopback, without a hub, with a key.

    Raises UsageError for an engine that no file can start, for words that no file can hold, and for several machines
    unless the form is for ``several``; EngineTooOld for words that the llama.cpp of our child does not know.
    """
    if launch.nodes > 1 and not several:
        raise UsageError("only --as shell can be told which of several machines it runs on; use that")
    if launch.engine not in (*OFFLOADING, "vllm", "sglang"):
        raise UsageError(f"no launch file can be written for {launch.engine}; `quietmind up` starts it")
    refuse_unwritable(launch.model)
    planned = launch.words
    listen = ("--host", Slot.HOST, "--port", Slot.PORT)
    if launch.program[1:] == OUR_SERVER:
        params_of(launch.plan.flags)  # which refuses what the wheel cannot do
    if launch.engine in OFFLOADING:
        quiet = (flag for flag in _QUIET if not launch.known or flag in launch.known)
        words = (*planned, "--alias", Path(launch.model).stem, *listen, "--api-key-file", Slot.KEY_FILE, *quiet)
        return _checked(Serving(launch.program, words, {**SWITCHES, **_GOOD_NEIGHBOUR}))
    name = ("--served-model-name", Path(launch.model).name)
    environment = dict(SWITCHES) if launch.nodes > 1 else {**SWITCHES, **_MEET_ON_LOOPBACK}
    if launch.engine == "vllm":
        return _checked(Serving(launch.program, (*planned, *name, *listen), environment, key_variable="VLLM_API_KEY"))
    return _checked(Serving(launch.program, (*planned, *name, *listen, "--config", Slot.KEY_CONFIG), environment))


def _checked(found: Serving) -> Serving:
    for word in (*found.program, *found.words, *found.environment.values()):
        if isinstance(word, str):
            refuse_unwritable(word)
    return found


def refuse_unwritable(word: str) -> None:
    """Raise UsageError for a word with control characters or bytes that are no text: no file form carries all of them.

    What is left is refused nowhere: spaces, quotes, ``$``, ``%``, backslashes and every script.
    """
    bad = next(
        (c for c in word if ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c in "\u2028\u2029\ufeff\ufffe\uffff"), None
    )
    bad = bad or next((c for c in word if 0xD800 <= ord(c) <= 0xDFFF), None)
    if bad is not None:
        shown = word.encode("unicode_escape").decode("ascii")
        raise UsageError(
            f"{shown}: a launch file cannot hold the character {bad.encode('unicode_escape').decode('ascii')}; "
            "rename the file or folder"
        )


def arguments(words: tuple[Word, ...]) -> list[tuple[Word, ...]]:
    """Return ``words`` in groups for people: an option with its values, or what stands before the first option."""
    groups: list[list[Word]] = []
    for word in words:
        if not groups or (isinstance(word, str) and _OPTION.match(word)):
            groups.append([word])
        else:
            groups[-1].append(word)
    return [tuple(group) for group in groups]


def require_whole_path(launch: Launch) -> None:
    """Raise UsageError where the model has no path of its own yet: for forms that cannot be told it when they run."""
    if not launch.model.startswith("/"):
        raise UsageError(
            f"{launch.model}: this form needs the whole path that the weights will have; give it with --weights"
        )


def options(launch: Launch) -> list[str]:
    """Return the options that the engine of ``launch`` has to know. Raises as ``serving`` does."""
    groups = arguments(serving(launch, several=True).words)
    return [first for first, *_ in groups if isinstance(first, str) and _OPTION.match(first)]


def memory_limit(launch: Launch) -> int | None:
    """Return the bytes of the host's memory that the engine may take, None where the ledger does not know them all.

    That is the host's part of the ledger, with an eighth or 2 GiB beside it for what a driver maps and for reading the
    file; what else is read of the file lies in the page cache, which gives way.
    """
    held = next((use.needed_bytes for use in launch.plan.devices if use.device == "cpu"), None)
    if held is None:
        return None
    return held + max(2 * GIB, held // 8) if launch.engine in OFFLOADING else _ESTIMATES_DOUBLED * held
