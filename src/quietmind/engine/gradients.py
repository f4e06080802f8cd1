"""What errors in a cache cost, told by gradients: a model's weights once more, in transformers, in a child that ends.

A small error e in a number of the cache moves the next token's distribution by a KL divergence of 1/2 F e^2, where F is
the expected square of the derivative of log p with respect to that number, the token drawn from p itself: the diagonal
of the Fisher information (Kunstner et al., "Limitations of the empirical Fisher approximation", arXiv 1905.12558, on
why it must be drawn). One pass backwards gives it for all numbers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import quietmind
from quietmind.base.errors import EngineCrashed, EngineMissing
from quietmind.base.paths import shown_path
from quietmind.engine.child import Child
from quietmind.engine.program import Program

INSTALL = "pip install 'quietmind[gradients]'"

_NEEDED = ("torch", "transformers", "gguf")
_WIDE = 4  # bytes a weight, as 32-bit floats
_BESIDE = 1.15  # of the weights; and so many bytes for everything that has no matter with their size
_ALWAYS = 2 << 30
_LOOK_SECONDS = 1.0  # between two looks at whether the child is done


@dataclass(frozen=True)
class Run:
    """Tokens that follow a context; what is predicted from the one at ``first`` on is looked at."""

    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Context:
    """Tokens that are held in a cache, and by kind what may follow them: each run sees the context and itself alone."""

    tokens: tuple[int, ...]
    runs: Mapping[str, tuple[Run, ...]]


@dataclass(frozen=True)
class Tokens:
    """A context token by token: the K, rotated, and V of some layers, and the squared gradients of all.

    ``keys`` and ``values`` are float32 [layers, tokens, heads, head_length]; ``squares``, by kind and of the tokens
    between the ends alone, float32 [2, all layers, heads, tokens]: of K and of V, summed over a head's channels and
    over all predictions.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    squares: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Gradients:
    """Squared gradients, their mean over the predictions of a kind, summed over a context's tokens between its ends.

    ``keys`` and ``values`` are float64 [layers, heads, head_length] by kind: what a unit of error variance in that
    channel of every token costs is half of it, in nats. ``last_keys`` and ``last_values``, float32 [tokens, heads,
    head_length], are K, rotated, and V of the last layer for the first context: they tell whether somebody else runs
    this very model, and in what order that one keeps its channels. ``contexts`` are these token by token.
    """

    keys: Mapping[str, NDArray[np.float64]]
    values: Mapping[str, NDArray[np.float64]]
    last_keys: NDArray[np.float32]
    last_values: NDArray[np.float32]
    contexts: Sequence[Tokens]


def bytes_needed(parameters: int) -> int:
    """Return the memory that a model of so many weights takes here."""
    return int(_WIDE * _BESIDE * parameters) + _ALWAYS


def installed() -> bool:
    """Say whether everything is there that the child imports."""
    return all(find_spec(name) is not None for name in _NEEDED)


def gradients(
    model: Path,
    contexts: Sequence[Context],
    between: tuple[int, int],
    layers: tuple[int, int],
    folder: Path,
    threads: int | None = None,
) -> Gradients:
    """Return the gradients of ``contexts`` through the model in the GGUF ``model``.

    ``between`` has how many tokens at the beginning and the end of each context are left out; of the ``layers`` from
    the first to before the second, K and V themselves come back. What the child reads and writes lies in ``folder``
    meanwhile. Raises EngineMissing where transformers is not installed, EngineCrashed for a model that it does not load
    or has no memory for, EngineStartFailed.
    """
    if not installed():
        raise EngineMissing(f"gradients take {', '.join(_NEEDED)}: {INSTALL}")
    task, found = folder / "task.json", folder / "gradients.npz"
    task.write_text(
        json.dumps(
            {
                "model": str(model),
                "contexts": [asdict(context) for context in contexts],
                "between": between,
                "layers": layers,
                "threads": threads,
            }
        )
    )
    sources = str(Path(quietmind.__file__).parents[1])
    program = Program(
        # -P: without it, a json.py in the folder that the person happens to be in would be run.
        (sys.executable, "-P", "-m", "quietmind.engine.gradients_child", str(task), str(found)),
        environment={"PYTHONPATH": os.pathsep.join(filter(None, (sources, os.environ.get("PYTHONPATH"))))},
    )
    child = Child.run(program, folder / "gradients.log")
    try:
        while (ending := child.ending(_LOOK_SECONDS)) is None:
            pass
        if not found.is_file():
            said = "out of memory" if child.out_of_memory() else " ".join(child.log_tail(1))[:200]
            raise EngineCrashed(f"{shown_path(model)}: transformers ended {ending} ({said or 'no word of why'})")
    finally:
        child.end()
    return _loaded(found, len(contexts))


def _loaded(found: Path, contexts: int) -> Gradients:
    with np.load(found, allow_pickle=False) as arrays:
        kinds = [name.removeprefix("keys ") for name in arrays if name.startswith("keys ")]
        return Gradients(
            {kind: arrays[f"keys {kind}"] for kind in kinds},
            {kind: arrays[f"values {kind}"] for kind in kinds},
            arrays["last_keys"],
            arrays["last_values"],
            [
                Tokens(
                    arrays[f"seen keys {number}"],
                    arrays[f"seen values {number}"],
                    {kind: arrays[name] for kind in kinds if (name := f"tokens {kind} {number}") in arrays},
                )
                for number in range(contexts)
            ],
        )
