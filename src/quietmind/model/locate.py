"""Finds model files where people already have them: our folder, the Hugging Face cache, LM Studio, Ollama."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import ModelNotFound, UsageError
from quietmind.base.paths import expanded, models_folder, shown_path
from quietmind.model.catalogue import CATALOGUE
from quietmind.model.gguf import part_paths

_LARGEST_MANIFEST = 1 << 20
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_OLLAMA_WEIGHTS = "application/vnd.ollama.image.model"
_REPOSITORY_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Installed:
    """A model file that was found. ``name`` is what :func:`locate` takes; ``bytes`` counts all parts that are there."""

    name: str
    path: Path
    source: str
    bytes: int


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, written ``hf:OWNER/NAME/FILE``."""

    repository: str
    filename: str


def locate(name: str, extra: Sequence[Path] = ()) -> Path:
    """Return the file of a model.

    ``name`` is the path of any file, a short name of the catalogue ("tiny"), ``hf:OWNER/NAME/FILE``, an Ollama name
    ("qwen3:8b"), or a file name with or without ``.gguf``, looked for in our folder, the Hugging Face cache, LM
    Studio's folders, Ollama's store and the folders of ``extra``, in this order. Of a split model it is the first part.
    Raises ModelNotFound, which says where it looked and what to do; UsageError for an empty or malformed name.
    """
    if not name.strip() or "\0" in name:
        raise UsageError("no model was named; give a path to a .gguf, or a name such as tiny")
    if name.startswith("hf:"):
        return _locate_hub_file(parse_hub_name(name))
    given = expanded(name)
    there = local_path(name)
    known = CATALOGUE.get(name)
    # Only a .gguf of that very name wins over a short name of the catalogue.
    if there is not None and there.is_file() and (known is None or there.suffix == ".gguf"):
        return there
    wanted = (known.filename if known else given.name).casefold()
    if known or len(given.parts) == 1:
        for model in _found(extra):
            names = {model.name, model.path.name, model.path.stem, _whole_stem(model.path)}
            if wanted in {candidate.casefold() for candidate in names}:
                return model.path
    if there is not None and there.is_dir():
        raise ModelNotFound(f"{shown_path(name)}: is a folder; name the model file in it")
    folders = [*(folder for _, folder in _folders()), _ollama_folder(), *extra]
    places = ", ".join(shown_path(folder) for folder in folders)
    if known:
        raise ModelNotFound(f"{name}: {known.filename} is not in {places}; run `quietmind pull {name}`")
    raise ModelNotFound(
        f"{shown_path(name)}: no such file, and no model of that name in {places}; give the path of a .gguf, "
        "or fetch one with `quietmind pull tiny` or `quietmind pull hf:OWNER/NAME/FILE.gguf`"
    )


def local_path(name: str) -> Path | None:
    """Return the file or folder that ``name`` is the path of, None when there is none.

    Raises UsageError for a home folder that is not known, ModelNotFound for a path that cannot be looked at.
    """
    given = expanded(name)
    try:
        return given if given.exists() else None
    except OSError as error:
        if len(given.parts) == 1:  # a name, to be looked for elsewhere
            return None
        raise ModelNotFound(
            f"{shown_path(name)}: cannot be looked at ({error.strerror}); check the name and its permissions"
        ) from error


def installed(extra: Sequence[Path] = ()) -> list[Installed]:
    """Return every model file that :func:`locate` would find, place by place, each file once."""
    seen: set[Path] = set()
    models = []
    for model in _found(extra):
        real = model.path.resolve()
        if real not in seen:
            seen.add(real)
            models.append(model)
    return models


def parse_hub_name(name: str) -> HubFile:
    """Read ``hf:OWNER/NAME/FILE.gguf``; FILE may lie in folders. Raises UsageError."""
    parts = name.removeprefix("hf:").split("/")
    if len(parts) < 3 or not all(_REPOSITORY_PART.fullmatch(part) for part in parts) or not parts[-1].endswith(".gguf"):
        raise UsageError(f"{shown_path(name)} does not name a file of a repository; write hf:OWNER/NAME/FILE.gguf")
    return HubFile("/".join(parts[:2]), "/".join(parts[2:]))


def hub_folder(models: Path, file: HubFile) -> Path:
    """Return the folder of ours that files of that repository are kept in."""
    return models / file.repository


def _locate_hub_file(file: HubFile) -> Path:
    ours = hub_folder(models_folder(), file) / file.filename
    if _is_file(ours):
        return ours
    cache = _hub_cache()
    snapshots = cache / f"models--{file.repository.replace('/', '--')}" / "snapshots"
    for snapshot in sorted(_entries(snapshots)):
        if _is_file(snapshot / file.filename):
            return snapshot / file.filename
    raise ModelNotFound(
        f"hf:{file.repository}/{file.filename}: not in {shown_path(ours.parent)} nor in {shown_path(cache)}; "
        f"run `quietmind pull hf:{file.repository}/{file.filename}`"
    )


def _folders() -> Iterator[tuple[str, Path]]:
    """Yield the folders that programs keep .gguf files in, somewhere below, each with what to call it."""
    yield "quietmind", models_folder()
    yield "Hugging Face cache", _hub_cache()
    yield "LM Studio", expanded("~/.lmstudio/models")
    yield "LM Studio", expanded("~/.cache/lm-studio/models")


def _found(extra: Sequence[Path]) -> Iterator[Installed]:
    for source, folder in _folders():
        yield from _files_below(folder, source)
    yield from _ollama_models()
    for folder in extra:
        yield from _files_below(folder, "folder")


def _files_below(folder: Path, source: str) -> Iterator[Installed]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(root, file)
            # mmproj: the eye of a multimodal model, no language model of its own
            if path.suffix != ".gguf" or file.startswith("mmproj"):
                continue
            parts = part_paths(path)
            if path == parts[0] and _is_file(path):
                size = sum(part.stat().st_size for part in parts if _is_file(part))
                yield Installed(_whole_stem(path), path, source, size)


def _whole_stem(path: Path) -> str:
    """Return the name without .gguf and, of a split model, without the number of the part."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)


def _hub_cache() -> Path:
    """Return where huggingface_hub keeps files, by the same environment variables, without importing it."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return expanded(given)
    if given := os.environ.get("HF_HOME"):
        return expanded(given) / "hub"
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _ollama_folder() -> Path:
    given = os.environ.get("OLLAMA_MODELS")
    return expanded(given or "~/.ollama/models")


def _ollama_models() -> Iterator[Installed]:
    """Yield the models of Ollama's store: manifests/HOST/NAMESPACE/MODEL/TAG name a blob by its digest."""
    store = _ollama_folder()
    try:
        manifests = sorted(store.glob("manifests/*/*/*/*"))
    except OSError:  # the folder of another user
        return
    for manifest in manifests:
        digest = _weights_digest(manifest)
        if digest is None:
            continue
        blob = store / "blobs" / f"sha256-{digest}"
        if _is_file(blob):
            _, namespace, model, tag = manifest.parts[-4:]
            name = model if namespace == "library" else f"{namespace}/{model}"
            yield Installed(name if tag == "latest" else f"{name}:{tag}", blob, "Ollama", blob.stat().st_size)


def _weights_digest(manifest: Path) -> str | None:
    try:
        if not manifest.is_file() or manifest.stat().st_size > _LARGEST_MANIFEST:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        for layer in layers:
            if layer["mediaType"] == _OLLAMA_WEIGHTS and (match := _DIGEST.fullmatch(layer["digest"])):
                return match[1]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # somebody else's file, not ours to complain about
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder on the way that we may not enter
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
