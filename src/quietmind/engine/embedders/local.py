"""Models whose files lie on this machine: where they are, what tells one from another, and texts that they can take."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quietmind.base.errors import EngineStartFailed, ModelNotFound
from quietmind.base.paths import models_folder, shown_path
from quietmind.model.locate import local_path

# Of a file in a model's folder: all of a short one, of a long one its beginning and stretches spread evenly over it.
# Files of two models differ in nearly every stretch, and hashing 16 GB before each search would take ten seconds.
_WHOLE = 8 << 20
_STRETCHES, _STRETCH = 256, 64 << 10
_WEIGHTS_ELSEWHERE = (".bin", ".h5", ".msgpack", ".ot", ".pb", ".onnx", ".onnx_data", ".xml")  # beside safetensors
_LARGEST_CONFIG = 1 << 20

# Read once each, by the library that is imported: nothing is fetched, and nothing drawn on the terminal.
_QUIET_AND_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def given_folder(model: str) -> Path | None:
    """Return the folder that ``model`` is the path of, with all links resolved; None for the name of a model.

    Raises UsageError for a home folder that is not known, ModelNotFound for a path that cannot be looked at.
    """
    there = local_path(model)
    return there.resolve() if there is not None and there.is_dir() else None


def folder_of(model: str) -> Path | None:
    """Return the folder that ``model`` names: a path, or OWNER/NAME below our models folder. Raises as given_folder."""
    return given_folder(model) or given_folder(str(models_folder() / model))


def config(folder: Path, name: str) -> Any:
    """Return what the JSON file ``name`` in ``folder`` says; None where there is none. Raises EngineStartFailed."""
    file = folder / name
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise EngineStartFailed(f"{shown_path(file)}: is too large for a configuration; fetch the model again")
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineStartFailed(f"{shown_path(file)}: cannot be read ({error}); fetch the model again") from error


def digest_of(folder: Path, *facts: str, weights: str | None = None) -> str:
    """Return a digest of the model in ``folder`` and of ``facts``.

    The model are its configurations and its weights: the file ``weights``, or all that are no copies for another
    library. Hidden files and documentation are left out. Raises ModelNotFound where a file cannot be read.
    """
    digest = hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass"))
    for name in _decisive(folder, weights):
        digest.update(repr(name).encode("utf-8", "surrogatepass"))
        try:
            _add_file(digest, folder / name)
        except OSError as error:
            raise ModelNotFound(
                f"{shown_path(folder / name)}: cannot be read ({error.strerror}); fetch the model again"
            ) from error
    return digest.hexdigest()


def _decisive(folder: Path, weights: str | None) -> list[str]:
    """Return the files, relative to ``folder``, that decide what the vectors look like."""
    found = []
    for at, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(at).relative_to(folder)
        found += [str(inside / name) for name in files if not name.startswith(".")]
    texts = [name for name in found if name.endswith((".json", ".txt", ".model"))]
    if weights is not None:
        return sorted({*texts, *(name for name in found if name.startswith(weights))})
    tensors = [name for name in found if name.endswith(".safetensors")]
    others = [name for name in found if name.endswith(_WEIGHTS_ELSEWHERE)]
    return sorted({*texts, *(tensors or others)})


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        digest.update(file.read(_WHOLE))
        if size > _WHOLE:
            for number in range(_STRETCHES):
                file.seek(size * number // _STRETCHES)
                digest.update(file.read(_STRETCH))


def plain(texts: Sequence[str]) -> list[str]:
    """Return ``texts`` as tokenizers in other languages take them: without NULs and without lone surrogates."""
    return [text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8") for text in texts]


@contextmanager
def offline(threads: int) -> Iterator[None]:
    """Import and load inside: libraries find themselves offline and quiet, and their OpenMP asleep while it waits.

    Threads of OpenMP spin otherwise, and on processors that others use too a query then took 38 s instead of 0.3 s.
    """
    with environment(_QUIET_AND_OFFLINE | waiting_asleep(threads)):
        yield


def waiting_asleep(threads: int) -> dict[str, str]:
    """Return what tells OpenMP, which reads it once, when it is loaded, to sleep while its threads wait."""
    return {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}


@contextmanager
def environment(wanted: dict[str, str]) -> Iterator[None]:
    """Have these variables set inside, and as they were afterwards."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
