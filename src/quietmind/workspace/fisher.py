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

_FACTS, _LINES, _NOTES = 32, 12, 6  # that follow each
_LONGEST_VALUE, _LONGEST_NOTE = 12, 48  # tokens
_ALIKE = 0.9  # correlation of V: quantized weights are widened and computed with otherwise there
_LEAST = 1e-4  # of the mean: no head is held to cost less, since a step may not grow beyond all bounds


@dataclass(frozen=True)
class Told:
    """What a loss of 1 costs in nats of divergence: ``facts`` where facts are said, ``prose`` where notes go on.

    A loss is a sum of error variances times their sensitivity; the errors are laid out as a codec does it, each
    channel's inversely to its sensitivity.
    """

    facts: float
    prose: float


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

    def costs(
        self, trial: Trial, pieces: Sequence[Layout], tokens: int, rotation: Rotation, contexts: int
    ) -> tuple[Sensitivity, Told]:
        """Return what errors cost, from the first ``tokens`` of ``contexts`` of ``pieces``, or of all of them.

        ``trial`` is of the first of them, cut in the same way. Raises EngineMissing, EngineStartFailed and
        EngineCrashed as ``gradients`` does, EngineRefused where transformers makes another cache of the same tokens.
        """
        chosen = sorted({len(pieces) * number // contexts for number in range(contexts)})
        looked_at = [_context(trial.engine, pieces[at], blocks_within(pieces[at], tokens)) for at in chosen]
        found = gradients(self.model, looked_at, (FIRST, NEWEST), trial.file.parent, self.threads)
        return _costs(found, _order(found, trial, rotation, self.model.name), rotation)


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


def _costs(found: Gradients, order: NDArray[np.intp], rotation: Rotation) -> tuple[Sensitivity, Told]:
    """Return what the gradients say; each kind of what follows has the same say in how parts are weighed.

    Raises EngineRefused where they are no numbers.
    """
    kinds = {kind: (found.keys[kind][..., order] / 2, found.values[kind] / 2) for kind in found.keys}
    totals = {kind: float(keys.sum() + values.sum()) for kind, (keys, values) in kinds.items()}
    if not all(math.isfinite(total) and total > 0 for total in totals.values()):
        raise EngineRefused("transformers computes gradients that are no numbers, or all 0")
    unit = sum(totals.values()) / len(totals) ** 2
    keys, values = (
        np.sum([unit / totals[kind] * parts[which] for kind, parts in kinds.items()], axis=0) for which in range(2)
    )
    least = _LEAST * (keys.mean() + values.mean())
    of_keys, of_values = smoothed(np.maximum([keys.mean(axis=2), values.mean(axis=2)], least))
    profile = _profile(np.maximum(_pairs(keys, rotation), least))
    sensitivity = Sensitivity([weights[:, None] * profile for weights in of_keys], list(of_values))

    def of_loss(*named: str) -> float:
        kind = next(kind for kind in (*named, *kinds) if kind in kinds)
        weighed = _pairs(kinds[kind][0], rotation) / (of_keys[..., None] * profile)
        return float(np.mean([weighed.mean(axis=2), kinds[kind][1].mean(axis=2) / of_values]))

    return sensitivity, Told(facts=of_loss("facts", "lines"), prose=of_loss("notes"))


def _pairs(channels: NDArray[np.float64], rotation: Rotation) -> NDArray[np.float64]:
    """Return the mean over the two channels of each pair: float64 [layers, heads, pairs]."""
    turning = channels[..., : rotation.dimensions]
    halves = rotation.pairs is Pairs.HALVES
    split = turning.reshape(*turning.shape[:2], *((2, -1) if halves else (-1, 2)))
    found: NDArray[np.float64] = split.mean(axis=2 if halves else 3)
    return found


def _profile(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a pair costs beside the mean of all, from [layers, heads, pairs], in bands: float64 [pairs]."""
    each = np.exp(np.log(pairs).mean(axis=(0, 1)))
    bands = np.array_split(each, min(BANDS, len(each)))
    of_bands = smoothed([band.mean() for band in bands])
    found: NDArray[np.float64] = np.repeat(of_bands, [len(band) for band in bands])
    found /= found.mean()
    return found
