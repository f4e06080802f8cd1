"""From whatever names a model to its card: a file, a folder, a public model of the catalogue, a file on a server."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from quietmind.base.errors import ModelNotFound
from quietmind.base.paths import shown_path
from quietmind.model import gguf, safetensors
from quietmind.model.card import ModelCard
from quietmind.model.catalogue import Entry, entries, entry
from quietmind.model.config import read_config
from quietmind.model.derive import DEFAULT_QUANTIZATION, derive_card, derive_stored_card, quantization, requantize_card
from quietmind.model.locate import local_path, locate
from quietmind.model.remote import is_remote, read_remote_card


def open_card(name: str, quant: str | None = None) -> ModelCard:
    """Return the card of the model that answers to ``name``; nothing of its weights is read.

    ``name`` is a path (a .gguf, a .safetensors or its index, a folder of a checkpoint, a config.json), a file found
    by :func:`locate`, a public model of the catalogue, ``hf:OWNER/NAME[/FILE]`` or a URL; only these last two, and
    only where no local file answers to them, ask the network. ``quant`` names the quantization that a card without
    weights is derived for (Q4_K_M where none is given and the model is published so), and another than a file's own
    asks for the same model quantized so.

    Raises UsageError for an unknown quantization, which lists the known ones; ModelNotFound, ModelError,
    ModelFileDamaged, ModelNotUnderstood; DownloadFailed from a server.
    """
    wanted = None if quant is None else quantization(quant)
    if is_remote(name):
        return _named_by_address(name, wanted)
    given = local_path(name) if name.strip() and "\0" not in name else None
    if given is not None:
        return _from_path(given, wanted)
    public = entry(name)
    if public is not None and wanted is not None:
        return _from_catalogue(public, wanted)
    try:
        found = locate(name)
    except ModelNotFound as missing:
        if public is None:
            raise ModelNotFound(f"{missing}{_nearest(name)}") from None
        return _from_catalogue(public, None)
    return _from_path(found, wanted)


def _nearest(name: str) -> str:
    """Return which models of the catalogue were perhaps meant."""
    spoken = {said.casefold(): public.name for public in entries() for said in (public.name, *public.aliases)}
    near = difflib.get_close_matches(name.casefold(), spoken, n=6, cutoff=0.7)
    names = dict.fromkeys(spoken[said] for said in near)
    return f"; of the catalogue (`quietmind models`) the nearest are {', '.join([*names][:3])}" if names else ""


def _named_by_address(name: str, wanted: str | None) -> ModelCard:
    if name.startswith("hf:") and name.endswith(".gguf"):
        try:
            return _from_path(locate(name), wanted)
        except ModelNotFound:
            pass  # not here: its header is read where it is
    return read_remote_card(name, wanted)


def _from_catalogue(public: Entry, wanted: str | None) -> ModelCard:
    usual = DEFAULT_QUANTIZATION if DEFAULT_QUANTIZATION in public.quantizations else public.quantizations[0]
    card = derive_card(public.shape, wanted or usual)
    return replace(card, documented_context=public.documented_context, basis=public.basis)


def _from_path(path: Path, wanted: str | None) -> ModelCard:
    if path.is_dir() or path.name.endswith((".safetensors", ".safetensors.index.json")):
        return _from_checkpoint(path, wanted)
    if path.suffix == ".json":
        shape = read_config(path)
        return derive_stored_card(shape) if wanted is None else derive_card(shape, wanted)
    card = gguf.read_card(path)
    return card if wanted in (None, card.quantization) else requantize_card(card, wanted)


def _from_checkpoint(path: Path, wanted: str | None) -> ModelCard:
    folder = path if path.is_dir() else path.parent
    if wanted is not None:
        return derive_card(read_config(folder / "config.json"), wanted)
    if path.is_dir() and not any((path / name).is_file() for name in (safetensors.INDEX, safetensors.SINGLE)):
        if (path / "config.json").is_file():
            return derive_stored_card(read_config(path / "config.json"))
        raise ModelNotFound(
            f"{shown_path(path)}: holds no checkpoint ({safetensors.SINGLE}, {safetensors.INDEX} or config.json); "
            "name a file"
        )
    return safetensors.read_card(path)
