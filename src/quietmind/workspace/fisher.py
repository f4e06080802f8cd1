"""What an error in each part of a cache costs, by gradients: exact where noise through the engine says little.

The engine tells no gradients, so that the same weights are run once more, in transformers (engine/gradients.py), on the
notes that the basis is learned from: on facts, on lines to be written out and on notes that go on. Whether it is the
same model is checked by its V, which must be those that the engine has saved. What the tokens of these notes cost
tells what those of others matter, by what they are like (kvstore/importance.py).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quietmind.base.errors import EngineRefused
from quietmind.base.units import format_bytes
from quietmind.engine.gradients import INSTALL, Context, Gradients, Run, Tokens, bytes_needed, gradients, installed
from quietmind.engine.port import Engine, Prompt, Segment
from quietmind.kvstore.arrays import Shape, layout_of, write
from quietmind.kvstore.basis import grouped, widths_of
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.gathering import Sensitivity, vectors
from quietmind.kvstore.grades import FIRST, NEWEST, Grades, octaves
from quietmind.kvstore.importance import Importance, learned
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
    channel's inversely to its sensitivity, and each token's by its grade.
    """

    facts: float
    prose: float


@dataclass(frozen=True)
class Costs:
    """What errors cost: in which heads and channels, and, where gradients tell it, altogether and in which tokens."""

    sensitivity: Sensitivity
    told: Told | None
    importance: Importance | None


@dataclass(frozen=True)
class ByGradients:
    """The weights of the model that the engine runs, to be run once more: the file ``model`` of ``parameters``.

    ``rotation`` is how the file by itself says that K are rotated: the engine may have been told to stretch it.
    """

    model: Path
    parameters: int
    rotation: Rotation
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

    def costs(self, trial: Trial, pieces: Sequence[Layout], tokens: int, contexts: int, width: int) -> Costs:
        """Return what errors cost, from the first ``tokens`` of ``contexts`` of ``pieces``, or of all of them.

        ``trial`` is of the first of them, cut in the same way; ``width`` is the most channels of a group of layers.
        Raises EngineMissing, EngineStartFailed and EngineCrashed as ``gradients`` does, EngineRefused where
        transformers makes another cache of the same tokens.
        """
        chosen = sorted({len(pieces) * number // contexts for number in range(contexts)})
        looked_at = [_context(trial.engine, pieces[at], blocks_within(pieces[at], tokens)) for at in chosen]
        groups = list(enumerate(grouped(widths_of(trial.rows), width)))
        middle, layers = groups[len(groups) // 2]
        found = gradients(self.model, looked_at, (FIRST, NEWEST), layers, trial.file.parent, self.threads)
        order = _order(found, trial, self.rotation, self.model.name)
        weights = _weights(found, order, self.rotation)
        importance, graded = _importance(middle, found, weights, order, self.rotation)
        return Costs(weights.sensitivity, _told(found, weights, graded), importance)


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


@dataclass(frozen=True)
class _Weights:
    """What heads and pairs cost, of several kinds of what follows; ``kinds`` is what each does, by K and by V.

    Float64: ``keys`` and ``values`` [layers, heads], ``profile`` [pairs], those of ``kinds`` [layers, heads, channels].
    """

    keys: NDArray[np.float64]
    values: NDArray[np.float64]
    profile: NDArray[np.float64]
    kinds: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    rotation: Rotation

    @property
    def sensitivity(self) -> Sensitivity:
        """As a basis takes it."""
        return Sensitivity([weights[:, None] * self.profile for weights in self.keys], list(self.values))

    def of_loss(self, kind: str) -> float:
        """Return what a loss of 1 costs of a kind, all tokens alike."""
        keys, values = self.kinds[kind]
        weighed = _pairs(keys, self.rotation) / (self.keys[..., None] * self.profile)
        return float(np.mean([weighed.mean(axis=2), values.mean(axis=2) / self.values]))

    def of_tokens(self, tokens: Tokens) -> dict[str, NDArray[np.float64]]:
        """Return what a loss costs in each token between the ends, by kind and in a unit of its own."""
        heads = np.stack([self.keys, self.values])[..., None]
        return {kind: (squares / heads).sum(axis=(0, 1, 2)) for kind, squares in tokens.squares.items()}


def _weights(found: Gradients, order: NDArray[np.intp], rotation: Rotation) -> _Weights:
    """Return what the gradients say of heads and pairs; each kind of what follows has the same say.

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
    return _Weights(of_keys, of_values, _profile(np.maximum(_pairs(keys, rotation), least)), kinds, rotation)


def _importance(
    group: int, found: Gradients, weights: _Weights, order: NDArray[np.intp], rotation: Rotation
) -> tuple[Importance | None, list[Grades]]:
    """Return what tells of a token how much it matters, and the grades of each context by what the others tell.

    In a context, each kind of what follows it has the same say. All grades are 0 where nothing can be told.
    """
    costs = []
    for context in found.contexts:
        kinds = [each / each.mean() for each in weights.of_tokens(context).values() if each.size and each.any()]
        costs.append(np.sum(kinds, axis=0) if kinds else np.zeros(0))
    told = [at for at, each in enumerate(costs) if len(each)]
    graded = [np.zeros(max(0, context.keys.shape[1] - FIRST - NEWEST), np.int8) for context in found.contexts]
    made = learned(group, [_vectors(found.contexts[at], order, rotation) for at in told], [costs[at] for at in told])
    if made is None:
        return None, graded
    for at, grades in zip(told, made[1], strict=True):
        graded[at] = grades
    return made[0], graded


def _vectors(context: Tokens, order: NDArray[np.intp], rotation: Rotation) -> Floats:
    """Return a context's tokens between its ends as a codec sees them in the engine's file: float32 [tokens, width]."""
    layers, tokens = context.keys.shape[:2]
    keys = context.keys[..., order].reshape(layers, tokens, -1)
    values = context.values.reshape(layers, tokens, -1)
    shape = Shape(tokens, tokens, "f16", ((keys.shape[2], values.shape[2]),) * layers)
    file = io.BytesIO()
    write(file, shape, range(tokens), range(tokens), zip(keys, values, strict=True))
    file.seek(0)
    return vectors(file, 0, layout_of(file), rotation, (0, layers), FIRST, tokens - NEWEST)


def _told(found: Gradients, weights: _Weights, graded: Sequence[Grades]) -> Told:
    """Return what a loss costs with tokens ``graded`` so, for facts and prose or what comes closest."""

    def of_loss(*named: str) -> float:
        kind = next(kind for kind in (*named, *weights.kinds) if kind in weights.kinds)
        alike = finer = 0.0
        for context, grades in zip(found.contexts, graded, strict=True):
            costs = weights.of_tokens(context).get(kind)
            if costs is not None:
                alike += float(costs.sum())
                finer += float(costs @ np.exp2(-2 * octaves(grades)))
        return weights.of_loss(kind) * (finer / alike if alike > 0 else 1.0)

    return Told(facts=of_loss("facts", "lines"), prose=of_loss("notes"))


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
