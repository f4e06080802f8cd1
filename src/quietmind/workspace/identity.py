"""The fingerprint of a run: what has to be the same for what it has read to serve again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from quietmind.base.errors import EngineRefused, ModelNotFound
from quietmind.base.paths import shown_path
from quietmind.engine.port import Engine, Message, saving
from quietmind.kvstore.fingerprint import Fingerprint
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan.plan import Plan

# Of a weights file: its beginning, where the metadata stands (tokenizer and all), and stretches spread over the rest.
_BEGINNING = 32 << 20
_STRETCHES, _STRETCH = 256, 64 << 10

# What a template makes of this shows what it does to any conversation.
_PROBE = (Message("system", "q7 system"), Message("user", "q7 person\nПривет"))
_TEXT = "Ёлка costs 12,5 €; def f(x): return x\n\t[[link]] <tag> 🙂 12345678901234567890"


def fingerprint_of(engine: Engine, card: ModelCard, plan: Plan, adapters: Sequence[Path] = ()) -> Fingerprint:
    """Return the fingerprint of what ``engine`` reads, which runs ``card`` as ``plan`` says.

    Raises EngineRefused for an engine that cannot save, ModelNotFound for files that are gone.
    """
    return Fingerprint(
        weights=weights_digest(card.files or (card.path,)),
        tokenizer=f"{card.tokenizer} {card.vocabulary} {_digest(str(engine.tokenize(_TEXT)))}",
        template=_digest(repr(engine.render(_PROBE).segments)),
        rope=f"{card.rope} {_positions(plan.flags)}",
        kv=f"{plan.kv_type} {'-fa off' if _value(plan.flags, '-fa') == 'off' else '-fa on'}",
        engine=saving(engine).build,
        adapters=" ".join(weights_digest((adapter,)) for adapter in adapters),
        experts=str(plan.experts_used),
    )


def can_go_back(card: ModelCard) -> bool:
    """Say whether the engine can cut what it holds back to a shorter prefix: not a window, nor a recurrent state."""
    return set(card.layer_kinds) <= {LayerKind.FULL, LayerKind.LATENT}


def can_go_on(card: ModelCard) -> bool:
    """Say whether the engine goes on from what it has saved: not where layers attend within a sliding window.

    Of such a layer it saves the cells within the window, and its server wants one more before it uses them; it then
    prefills all of it again (``pos_min_thold`` in llama.cpp's server-context.cpp; tests hold the engine against this).
    """
    return LayerKind.SLIDING not in card.layer_kinds


def require_going_on(card: ModelCard) -> None:
    """Raise EngineRefused for a model of which reading ahead would serve nothing."""
    if not can_go_on(card):
        raise EngineRefused(
            f"{card.name} has layers with a sliding window, of which llama.cpp saves too little to go on from, so that "
            "reading ahead would serve nothing; ask without notebooks, or read with another model"
        )


def weights_digest(files: Sequence[Path]) -> str:
    """Return a digest of weights: their sizes, their beginnings and stretches spread evenly over them.

    Hashing 300 GB would take minutes each time. Files of two models differ in nearly every block, and a tokenizer or a
    template stands at the beginning. Raises ModelNotFound where a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as weights:
                size = os.fstat(weights.fileno()).st_size
                digest.update(size.to_bytes(8, "little"))
                digest.update(weights.read(_BEGINNING))
                for number in range(_STRETCHES):
                    weights.seek(size * number // _STRETCHES)
                    digest.update(weights.read(_STRETCH))
        except OSError as error:
            raise ModelNotFound(f"{shown_path(file)}: cannot be read ({error.strerror}); see where it is") from error
    return digest.hexdigest()


def _positions(flags: Sequence[str]) -> list[str]:
    """Return the words that say how positions are embedded."""
    named = ("--rope-scaling", "--rope-scale", "--yarn-orig-ctx", "--rope-freq-base", "--rope-freq-scale")
    return [word for name in named if name in flags for word in (name, _value(flags, name))]


def _value(flags: Sequence[str], name: str) -> str:
    return flags[flags.index(name) + 1] if name in flags else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
