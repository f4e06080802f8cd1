"""Saved caches: of the real engine with the small model, and made from arrays."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quietmind.base.errors import ModelNotFound
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Request
from quietmind.kvstore.codec import loops
from quietmind.model.locate import locate

MadeSlot = Callable[..., bytes]
SavedSlot = Callable[..., bytes]

TEXT = """The sluice opens when the river rises above the third mark, and the keeper writes the hour into the book.
The sluice closes when the river falls below the second mark, and the keeper writes the hour into the book. """


@pytest.fixture(scope="module", params=["numpy", "compiled"])
def loops_of_both(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the innermost loops made by NumPy, and then by Numba."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(loops, "_found", None)
        changed.setattr(loops, "_WORTH_S", math.inf if request.param == "numpy" else 0.0)
        if request.param == "compiled":
            loops.prepare(1.0)
            if loops.found() is None:
                pytest.skip("Numba is not here: install quietmind[compiled]")
        yield


@pytest.fixture(scope="session")
def model_path() -> Path:
    try:
        return locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")


@pytest.fixture(scope="session")
def saved_slot(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> SavedSlot:
    """Have the engine, run with more words of its command line, save what it has read; each run is made once."""
    known: dict[tuple[str, ...], bytes] = {}

    def save(*words: str, kv_type: str = "f16") -> bytes:
        key = (kv_type, *words)
        if key not in known:
            options = LlamaCppOptions(model_path, context=512, kv_type=kv_type, threads=1)
            with LlamaCpp.run((*options.words, *words)) as engine:
                for _ in engine.generate(Request(TEXT * 4, max_tokens=1)):
                    pass
                file = tmp_path_factory.mktemp("slots") / "cache"
                engine.save(file)
                known[key] = file.read_bytes()
        return known[key]

    return save


@pytest.fixture(scope="session")
def made_slot() -> MadeSlot:
    """Make an engine's file of arrays [layers, cells, width], K and V, in a 16-bit or 32-bit type."""
    return _made


def _made(
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    *,
    kind: str = "f16",
    transposed: bool = False,
    positions: Sequence[int] | None = None,
) -> bytes:
    layers, cells, width = keys.shape
    number = {"f32": 0, "f16": 1, "bf16": 30}[kind]
    size = 4 if kind == "f32" else 2

    def raw(plane: NDArray[np.float32]) -> bytes:
        if kind == "bf16":
            return (np.ascontiguousarray(plane).view(np.uint32) >> 16).astype("<u2").tobytes()
        return np.ascontiguousarray(plane).astype("<f4" if kind == "f32" else "<f2").tobytes()

    parts: list[Any] = [struct.pack("<3I", 0x67677371, 4, cells), np.arange(cells, dtype="<i4").tobytes()]
    parts.append(struct.pack("<2I", 1, cells))
    at = range(cells) if positions is None else positions
    parts += [struct.pack("<iIi", position, 1, 0) for position in at]
    if cells:
        parts.append(struct.pack("<4I", transposed, layers, 0, 0))
        parts += [struct.pack("<iQ", number, width * size) + raw(plane) for plane in keys]
        if transposed:
            parts += [struct.pack("<iII", number, size, width) + raw(plane.T) for plane in values]
        else:
            parts += [struct.pack("<iQ", number, width * size) + raw(plane) for plane in values]
    return b"".join(parts)
