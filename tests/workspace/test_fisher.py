"""Gradients become weights of heads and pairs in the engine's own order, or are refused where they are another's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietmind.base.errors import EngineRefused
from quietmind.engine.gradients import Gradients, Tokens, bytes_needed, installed
from quietmind.kvstore.arrays import Shape, layout_of, write
from quietmind.kvstore.gathering import Sensitivity, _of_channels, vectors
from quietmind.kvstore.grades import FIRST, NEWEST
from quietmind.kvstore.rotation import Pairs, Rotation
from quietmind.kvstore.slots import SlotLayout
from quietmind.workspace import fisher
from quietmind.workspace.calibrate import losses_told
from quietmind.workspace.fisher import ByGradients, Told
from quietmind.workspace.levels import BOUNDS, NEAR, SMALL

LAYERS, TOKENS, HEADS, LENGTH = 3, 40, 2, 8
HALVES = Rotation(Pairs.HALVES, LENGTH, LENGTH, 1e4)
NEIGHBOURS = Rotation(Pairs.NEIGHBOURS, LENGTH, LENGTH, 1e4)
# Channel 2i of the engine and its neighbour are channels i and i + 4 in transformers.
BESIDE = [0, 4, 1, 5, 2, 6, 3, 7]

Squares = NDArray[np.float64]


@dataclass(frozen=True)
class Read:
    """As much of a trial as is looked at."""

    file: Path
    rows: SlotLayout


def a_context(seed: int = 0) -> tuple[Any, Any]:
    found = np.random.default_rng(seed).standard_normal((2, TOKENS, HEADS, LENGTH)).astype(np.float32)
    return found[0], found[1]


def read(folder: Path, keys: Any, values: Any) -> Any:
    """Return a trial whose last layer holds ``keys`` and ``values``."""
    file = folder / "cache"
    width = HEADS * LENGTH
    rows = (keys.reshape(TOKENS, width), values.reshape(TOKENS, width))
    with file.open("wb") as sink:
        shape = Shape(TOKENS, TOKENS, "f16", ((width, width),) * LAYERS)
        write(sink, shape, range(TOKENS), range(TOKENS), (rows for _ in range(LAYERS)))
    with file.open("rb") as source:
        return Read(file, layout_of(source))


def gradients(seed: int = 1, **kinds: float) -> Gradients:
    """Return gradients that differ a hundredfold, of each kind so many times larger."""
    draw = np.random.default_rng(seed)

    def squares() -> Squares:
        return draw.lognormal(0, 2, (LAYERS, HEADS, LENGTH))

    sizes = kinds or {"facts": 1.0}
    keys, values = a_context()
    return Gradients(
        {kind: size * squares() for kind, size in sizes.items()},
        {kind: size * squares() for kind, size in sizes.items()},
        keys,
        values,
        [],
    )


def weighed(found: Gradients, rotation: Rotation = HALVES) -> Sensitivity:
    return fisher._weights(found, np.arange(LENGTH), rotation).sensitivity


def of_tokens(seed: int, *kinds: str, count: int = 300) -> Tokens:
    """Return a context whose tokens cost the more the larger the first number of their V in the first layer is."""
    draw = np.random.default_rng(seed)
    keys, values = draw.standard_normal((2, 2, count, HEADS, LENGTH)).astype(np.float32)
    costs = np.exp2(2 * values[0, FIRST : count - NEWEST, 0, 0])
    squares = np.broadcast_to(costs, (2, LAYERS, HEADS, len(costs))).astype(np.float32)
    return Tokens(keys, values, dict.fromkeys(kinds, squares))


def test_the_order_of_channels_is_found_by_what_the_engine_has_saved(tmp_path: Path) -> None:
    keys, values = a_context()
    as_it_is = read(tmp_path, keys, values)
    assert list(fisher._order(gradients(), as_it_is, HALVES, "m")) == list(range(LENGTH))
    beside = read(tmp_path, keys[..., BESIDE], values)
    assert list(fisher._order(gradients(), beside, NEIGHBOURS, "m")) == BESIDE


def test_a_model_with_other_values_is_refused(tmp_path: Path) -> None:
    other = read(tmp_path, *a_context(seed=5))
    with pytest.raises(EngineRefused, match=r"m\.gguf: transformers computes another cache"):
        fisher._order(gradients(), other, HALVES, "m.gguf")


def test_a_cache_of_another_shape_is_refused(tmp_path: Path) -> None:
    trial = read(tmp_path, *a_context())
    found = gradients()
    fewer = Gradients({"facts": found.keys["facts"][:2]}, found.values, found.last_keys, found.last_values, [])
    with pytest.raises(EngineRefused, match="another shape"):
        fisher._order(fewer, trial, HALVES, "m")


@pytest.mark.parametrize("rotation", [HALVES, NEIGHBOURS])
def test_heads_weigh_what_half_of_their_mean_square_says_but_less_far_apart(rotation: Rotation) -> None:
    found = gradients(facts=1.0)
    told = weighed(found, rotation)
    weights = np.array([*(each.mean(axis=1) for each in told.keys), *told.values])
    squares = np.concatenate([found.keys["facts"], found.values["facts"]]).mean(axis=2) / 2
    said = np.log(squares) - np.log(squares).mean()
    assert np.allclose(np.log(weights) - np.log(squares).mean(), 0.85 * said)


def test_every_kind_has_the_same_say() -> None:
    one = weighed(gradients(facts=1.0, lines=1.0))
    two = weighed(gradients(facts=1.0, lines=1000.0))
    assert np.allclose(np.array(two.values) / np.mean(two.values), np.array(one.values) / np.mean(one.values))


@pytest.mark.parametrize(("rotation", "channels"), [(HALVES, [1, 5]), (NEIGHBOURS, [2, 3])])
def test_a_pair_that_matters_more_weighs_more(rotation: Rotation, channels: list[int]) -> None:
    found = gradients()
    found.keys["facts"][...] = 1.0
    found.keys["facts"][..., channels] = 9.0
    told = weighed(found, rotation)
    assert told.keys[0].shape == (HEADS, LENGTH // 2)
    assert int(told.keys[0][0].argmax()) == 1


@given(dead=st.sets(st.integers(0, LAYERS * HEADS - 1)))
def test_no_head_weighs_nothing(dead: set[int]) -> None:
    found = gradients()
    for each in (found.keys["facts"], found.values["facts"]):
        each.reshape(-1, LENGTH)[sorted(dead)] = 0.0
    found.values["facts"][0, 0, 0] = 1.0
    told = weighed(found)
    assert all((each > 0).all() for each in (*told.keys, *told.values))


def test_gradients_that_are_no_numbers_are_refused() -> None:
    found = gradients()
    found.keys["facts"][1, 1, 1] = np.nan
    with pytest.raises(EngineRefused, match="no numbers"):
        weighed(found)


def test_too_little_memory_is_said_in_numbers() -> None:
    if not installed():
        pytest.skip("torch, transformers or gguf is not installed")
    large = ByGradients(Path("m.gguf"), 30 * 10**9, HALVES)
    assert "and 24.00 GiB are free" in large.prevented(24 << 30)
    assert not large.prevented(bytes_needed(30 * 10**9))


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fisher, "installed", lambda: False)
    assert "pip install 'quietmind[gradients]'" in ByGradients(Path("m.gguf"), 10, HALVES).prevented(1 << 40)


def test_what_tokens_matter_is_told_by_their_vectors() -> None:
    contexts = [of_tokens(seed, "facts") for seed in range(4)]
    found = replace(gradients(), contexts=contexts)
    weights = fisher._weights(found, np.arange(LENGTH), HALVES)
    importance, graded = fisher._importance(1, found, weights, np.arange(LENGTH), HALVES)
    assert importance is not None
    other = of_tokens(9)
    told = importance.scores(fisher._vectors(other, np.arange(LENGTH), HALVES))
    assert importance.group == 1
    assert np.corrcoef(told, other.values[0, FIRST:-NEWEST, 0, 0])[0, 1] > 0.95
    assert [len(each) for each in graded] == [300 - FIRST - NEWEST] * 4


def test_errors_cost_less_where_tokens_are_graded_by_what_they_matter() -> None:
    found = replace(gradients(facts=1.0, notes=1.0), contexts=[of_tokens(seed, "facts", "notes") for seed in range(4)])
    weights = fisher._weights(found, np.arange(LENGTH), HALVES)
    _, graded = fisher._importance(0, found, weights, np.arange(LENGTH), HALVES)
    alike = fisher._told(found, weights, [np.zeros_like(each) for each in graded])
    told = fisher._told(found, weights, graded)
    assert told.facts < 0.6 * alike.facts
    assert told.prose < 0.6 * alike.prose


def test_a_context_that_nothing_follows_or_that_is_all_ends_tells_nothing_of_its_tokens() -> None:
    found = replace(gradients(), contexts=[of_tokens(1), of_tokens(2, "facts", count=48), of_tokens(3, "facts")])
    weights = fisher._weights(found, np.arange(LENGTH), HALVES)
    importance, graded = fisher._importance(0, found, weights, np.arange(LENGTH), HALVES)
    assert importance is None
    assert [len(each) for each in graded] == [300 - FIRST - NEWEST, 0, 300 - FIRST - NEWEST]
    assert not any(each.any() for each in graded)
    assert fisher._told(found, weights, graded).facts == pytest.approx(weights.of_loss("facts"))


@pytest.mark.parametrize("rotation", [HALVES, NEIGHBOURS])
def test_vectors_are_as_the_codec_takes_them_from_the_engines_file(rotation: Rotation, tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    keys, values = draw.standard_normal((2, LAYERS, 60, HEADS, LENGTH)).astype(np.float32)
    order = np.array(BESIDE if rotation is NEIGHBOURS else range(LENGTH))
    file, width = tmp_path / "cache", HEADS * LENGTH
    planes = [(k.reshape(60, -1), v.reshape(60, -1)) for k, v in zip(keys[..., order], values, strict=True)]
    with file.open("wb") as sink:
        write(sink, Shape(60, 60, "f16", ((width, width),) * LAYERS), range(60), range(60), planes)
    with file.open("rb") as source:
        engines = vectors(source, 0, layout_of(source), rotation, (1, 3), FIRST, 60 - NEWEST)
    assert np.allclose(fisher._vectors(Tokens(keys[1:], values[1:], {}), order, rotation), engines)


@pytest.mark.parametrize("rotation", [HALVES, NEIGHBOURS])
def test_what_a_loss_costs_is_what_the_gradients_say_of_errors_laid_out_so(rotation: Rotation) -> None:
    found = gradients(facts=3.0, lines=1.0, notes=20.0)
    weights = fisher._weights(found, np.arange(LENGTH), rotation)
    told = fisher._told(found, weights, [])
    channels = _of_channels(weights.sensitivity, ((HEADS * LENGTH, HEADS * LENGTH),) * LAYERS, rotation)
    order = BESIDE if rotation is HALVES else list(range(LENGTH))  # a basis has the two of a pair side by side
    for kind, said in (("facts", told.facts), ("notes", told.prose)):
        divergence = loss = 0.0
        for keys, values, scales in zip(found.keys[kind], found.values[kind], channels, strict=True):
            squares, errors = np.concatenate([keys[:, order].ravel(), values.ravel()]), 1e-6 / scales
            divergence += 0.5 * float(squares @ errors)
            loss += float(scales @ errors)
        assert said == pytest.approx(divergence / loss)


def test_the_losses_of_levels_are_shares_of_what_facts_and_prose_allow() -> None:
    by_facts = losses_told(Told(facts=2.0, prose=1.0))
    assert by_facts == pytest.approx([0.23 * 0.0005 / 2, 0.12 * 0.005 / 2])
    by_prose = losses_told(Told(facts=1.0, prose=20.0))
    assert by_prose == pytest.approx([0.23 * BOUNDS[NEAR].prose / 20, 0.12 * BOUNDS[SMALL].prose / 20])
