"""What an error in each part of a cache costs, by gradients: exact where noise through the engine says little.

The engine tells no gradients, so that the same weights are run once more, in transformers (engine/gradients.py), on the
notes that the basis is learned from: on facts, on lines to be written out and on notes that go on. Whether it is the
same model is checked by its V, which must be those that the engine has saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import EngineRefused
from quietmind.base.units import format_bytes
from quietmind.engine.gradients import INSTALL, Context, Gradients, Run, bytes_needed, gradients, installed
from quietmind.engine.port import Engine, Prompt, Segment
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import Sensitivity
from quietmind.kvstore.grades import FIRST, NEWEST
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import rows
from quietmind.workspace.damage import completing
from quietmind.workspace.facts import Fact, facts_of, lines_of
from quietmind.workspace.layout import Layout
from quietmind.workspace.sampling import blocks_within
from quietmind.workspace.sensitivity import BANDS, smoothed
from quietmind.workspace.trial import Trial

CONTEXTS = 3  # pieces of notes, of which the beginnings are looked at
_FACTS, _LINES, _NOTES = 32, 12, 6  # that follow each
_LONGEST_VALUE, _LONGEST_NOTE = 12, 48  # tokens
_ALIKE = 0.9  # correlation of V: quantized weights are widened and computed with otherwise there
_LEAST = 1e-4  # of the mean: no head is held to cost less, since a step may not grow beyond all bounds


@dataclass(frozen=True)
class ByGradients:
    """The weights of the model that the engine runs, to be run once more: the file ``model`` of ``parameters``."""

    model: Path
    parameters: int
    threads: int | None = None

    def prevented(self, free: int | None) -> str:
        """Say why it cannot be done here with ``free`` bytes of memory; nothing where it can."""
        if not installed():
            return f"not all of torch, transformers and gguf are installed ({INSTALL})"
        needed = bytes_needed(self.parameters)
        if free is not None and needed > free:
            return (
                f"its weights as 32-bit floats take {format_bytes(needed)} of memory, and {format_bytes(free)} are free"
            )
        return ""

    def sensitivity(self, trial: Trial, pieces: Sequence[Layout], tokens: int, rotation: Rotation) -> Sensitivity:
        """Return what a unit of error variance costs in each part, from the first ``tokens`` of some of ``pieces``.

        ``trial`` is of the first of them, cut in the same way. Raises EngineMissing, EngineStartFailed and
        EngineCrashed as ``gradients`` does, EngineRefused where transformers makes another cache of the same tokens.
        """
        chosen = sorted({len(pieces) * number // CONTEXTS for number in range(CONTEXTS)})
        contexts = [_context(trial.engine, pieces[at], blocks_within(pieces[at], tokens)) for at in chosen]
        found = gradients(self.model, contexts, (FIRST, NEWEST), trial.file.parent, self.threads)
        return _sensitivity(found, _order(found, trial, rotation, self.model.name), rotation)


def _context(engine: Engine, layout: Layout, blocks: int) -> Context:
    """Return the first ``blocks`` of ``layout`` with what may follow: values, halves of lines, and the notes behind."""
    texts = [block.passage.text for block in layout.blocks[:blocks]]

    def run(fact: Fact) -> Run:
        before = engine.tokenize(Prompt(completing(layout, fact.begun)))
        value = engine.tokenize(Prompt([Segment(f" {fact.value}", trusted=False)]))[:_LONGEST_VALUE]
        return Run((*before, *value[:-1]), len(before) - 1)

    behind = layout.tokens[blocks + 1 :][:_NOTES]
    return Context(
        tuple(layout.prefix_tokens(blocks)),
        {
            "facts": tuple(map(run, facts_of(texts, _FACTS))),
            "lines": tuple(map(run, lines_of(texts, _LINES))),
            "notes": tuple(Run(tokens[:_LONGEST_NOTE], 0) for tokens in behind),
        },
    )


def _order(found: Gradients, trial: Trial, rotation: Rotation, name: str) -> NDArray[np.intp]:
    """Return which channel of K in transformers each of the engine's is, for a head.

    The converter to GGUF puts the two channels of a pair side by side for some architectures, and transformers puts
    them back. Raises EngineRefused for another model's cache.
    """
    content = trial.file.read_bytes()
    keys, values = trial.rows.keys, trial.rows.values
    shape = found.last_keys.shape[1:]
    layers = {len(each) for each in (*found.keys.values(), *found.values.values())}
    if layers != {len(keys)} or {plane.width for plane in (*keys, *values)} != {shape[0] * shape[1]} or not values:
        raise EngineRefused(f"{name}: transformers gives its cache another shape than the engine")
    alike = _alike(found.last_values, rows(content, values[-1]))
    if alike < _ALIKE:
        raise EngineRefused(f"{name}: transformers computes another cache than the engine (V are {alike:.2f} alike)")
    engines = rows(content, keys[-1])
    turning, channels = rotation.dimensions, np.arange(rotation.head_length)
    beside = np.concatenate([channels[:turning].reshape(2, -1).T.ravel(), channels[turning:]])
    return max(channels, beside, key=lambda order: _alike(found.last_keys[..., order], engines))


def _alike(ours: Floats, engines: Floats) -> float:
    """Return how closely two arrays of the same numbers go together: 1 for the same."""
    return float(np.corrcoef(ours[: len(engines)].ravel(), engines.ravel())[0, 1])


def _sensitivity(found: Gradients, order: NDArray[np.intp], rotation: Rotation) -> Sensitivity:
    """Return the sensitivity that the gradients tell of; each kind of what follows has the same say.

    Raises EngineRefused where they are no numbers.
    """
    totals = {kind: float(found.keys[kind].sum() + found.values[kind].sum()) for kind in found.keys}
    if not all(math.isfinite(total) and total > 0 for total in totals.values()):
        raise EngineRefused("transformers computes gradients that are no numbers, or all 0")
    unit = 0.5 * sum(totals.values()) / len(totals) ** 2  # the divergence is half of the squared gradient
    keys, values = (
        np.sum([unit / totals[kind] * each for kind, each in of.items()], axis=0) for of in (found.keys, found.values)
    )
    keys = keys[..., order]
    least = _LEAST * (keys.mean() + values.mean())
    of_heads = smoothed(np.maximum([keys.mean(axis=2), values.mean(axis=2)], least))
    turning = keys[..., : rotation.dimensions]
    split = (2, -1) if rotation.pairs is Pairs.HALVES else (-1, 2)
    pairs = turning.reshape(*turning.shape[:2], *split).mean(axis=2 if split[0] == 2 else 3)
    profile = _profile(np.maximum(pairs, least))
    return Sensitivity([weights[:, None] * profile for weights in of_heads[0]], list(of_heads[1]))


def _profile(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a pair costs beside the mean of all, from [layers, heads, pairs], in bands: float64 [pairs]."""
    each = np.exp(np.log(pairs).mean(axis=(0, 1)))
    bands = np.array_split(each, min(BANDS, len(each)))
    of_bands = smoothed([band.mean() for band in bands])
    found: NDArray[np.float64] = np.repeat(of_bands, [len(band) for band in bands])
    found /= found.mean()
    return found
