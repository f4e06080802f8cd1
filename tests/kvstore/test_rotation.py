"""K are freed of their positions, as the engine shows: the first layer's K depend on the token alone."""

from __future__ import annotations

import io
import json
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import SnapshotDamaged, SnapshotNotUnderstood
from quietmind.kvstore.floats import Floats
from quietmind.kvstore.rotation import Pairs, Rotation, rotation_of
from quietmind.kvstore.slots import parse, rows
from quietmind.model.card import LayerKind, ModelCard, Rope, Tensor
from quietmind.model.gguf import read_card
from quietmind.plan.yarn import Yarn

SavedSlot = Callable[..., bytes]

PLAIN = Rotation(Pairs.NEIGHBOURS, 64, 64, 100_000.0)
ROTATIONS = [
    PLAIN,
    replace(PLAIN, pairs=Pairs.HALVES),
    replace(PLAIN, pairs=Pairs.HALVES, dimensions=32),
    replace(PLAIN, dimensions=16, scale=0.125),
    replace(PLAIN, scale=0.25, extrapolation=1.0, magnitude=1.14, original_context=2048),
    replace(PLAIN, factors=tuple(1.0 + pair / 4 for pair in range(32))),
]


def spread(keys: Floats, tokens: list[int]) -> float:
    """Return how far K of the same token lie apart at most, relative to the largest."""
    places = defaultdict(list)
    for place, token in enumerate(tokens):
        places[token].append(place)
    alike = [keys[each] for each in places.values() if len(each) > 4]
    assert len(alike) > 10
    return float(max(np.ptp(each, axis=0).max() for each in alike) / np.abs(keys).max())


class TestAgainstTheEngine:
    @pytest.mark.parametrize(
        "yarn", [None, Yarn(4.0, 128), Yarn(3.3333333, 300)], ids=["plain", "yarn-4", "yarn-a-third"]
    )
    def test_the_same_token_has_the_same_k_wherever_it_stands(
        self, saved_slot: SavedSlot, model_path: Path, yarn: Yarn | None
    ) -> None:
        words: tuple[str, ...] = ()
        if yarn:
            words = (
                "--rope-scaling",
                "yarn",
                "--rope-scale",
                f"{yarn.factor:g}",
                "--yarn-orig-ctx",
                str(yarn.original),
            )
        content = saved_slot(*words)
        layout = parse(io.BytesIO(content))
        rotation = rotation_of(read_card(model_path), yarn)
        keys = rows(content, layout.keys[0]).reshape(layout.cells, -1, rotation.head_length)
        undone = rotation.undo(keys, layout.positions)
        assert spread(keys, list(layout.tokens)) > 0.5
        assert spread(undone, list(layout.tokens)) < 2e-3  # half floats hold 11 bits
        others = [replace(rotation, pairs=Pairs.HALVES)]
        others += [PLAIN, replace(rotation, beta_fast=8.0)] if yarn else [replace(rotation, base=1e4)]
        assert all(spread(other.undo(keys, layout.positions), list(layout.tokens)) > 0.01 for other in others)

    def test_yarn_makes_all_k_longer_by_its_magnitude(self, saved_slot: SavedSlot, model_path: Path) -> None:
        yarn = Yarn(4.0, 128)
        lengths = []
        for words in ((), ("--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "128")):
            content = saved_slot(*words)
            layout = parse(io.BytesIO(content))
            rotation = rotation_of(read_card(model_path), yarn if words else None)
            keys = rows(content, layout.keys[0]).reshape(layout.cells, -1, 64)
            lengths.append(np.linalg.norm(rotation.undo(keys, layout.positions)))
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


@pytest.mark.parametrize("rotation", ROTATIONS, ids=str)
class TestEveryRotation:
    @given(data=st.data())
    def test_what_is_undone_is_done_again(self, rotation: Rotation, data: st.DataObject) -> None:
        positions = data.draw(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=5))
        keys = np.random.default_rng(3).normal(size=(len(positions), 2, 64)).astype(np.float32)
        undone = rotation.undo(keys, positions)
        assert np.allclose(rotation.redo(undone, positions), keys, atol=1e-5)
        assert np.array_equal(undone[..., rotation.dimensions :], keys[..., rotation.dimensions :])
        assert np.allclose(
            np.linalg.norm(undone[..., : rotation.dimensions], axis=-1) * rotation.magnitude,
            np.linalg.norm(keys[..., : rotation.dimensions], axis=-1),
            rtol=1e-4,
        )

    def test_it_goes_through_json(self, rotation: Rotation) -> None:
        assert Rotation.from_json(json.loads(json.dumps(rotation.to_json()))) == rotation


@pytest.mark.parametrize(
    "wrong",
    [
        {"dimensions": 63},
        {"dimensions": 128},
        {"base": float("nan")},
        {"base": 0.5},
        {"scale": -1.0},
        {"magnitude": 0.0},
        {"factors": [1.0]},
        {"factors": [0.0] * 32},
        {"extrapolation": 1.0},
        {"head_length": "64"},
        {"pairs": "thirds"},
        {"colour": "red"},
        {"factors": None},
    ],
    ids=str,
)
def test_a_stored_rotation_without_sense_is_damage(wrong: dict[str, Any]) -> None:
    with pytest.raises(SnapshotDamaged):
        Rotation.from_json(PLAIN.to_json() | wrong)


def card(**changes: Any) -> ModelCard:
    facts: dict[str, Any] = {
        "name": "Small",
        "path": Path("small.gguf"),
        "arch": "qwen3",
        "layers": 2,
        "hidden": 1024,
        "heads": 16,
        "kv_heads": (8, 8),
        "key_length": 128,
        "value_length": 128,
        "feed_forward": 3072,
        "vocabulary": 1000,
        "native_context": 40_960,
        "layer_kinds": (LayerKind.FULL, LayerKind.FULL),
        "sliding_window": None,
        "experts": 0,
        "experts_used": 0,
        "tensors": (),
        "file_bytes": 0,
        "rope": Rope(1e6, 128),
    }
    return ModelCard(**facts | changes)


class TestOfACard:
    def test_what_the_file_says_is_taken(self) -> None:
        assert rotation_of(card()) == Rotation(Pairs.HALVES, 128, 128, 1e6)
        partial = card(arch="llama", rope=Rope(1e4, 32, "linear", 8.0))
        assert rotation_of(partial) == Rotation(Pairs.NEIGHBOURS, 128, 32, 1e4, scale=0.125)

    def test_yarn_of_the_file_and_of_the_run_are_alike(self) -> None:
        stated = card(rope=Rope(1e6, 128, "yarn", 4.0, 32_768))
        assert rotation_of(stated) == rotation_of(card(), Yarn(4.0, 32_768))
        assert rotation_of(stated).magnitude == pytest.approx(1.13863, abs=1e-5)

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"arch": "smollm3"}, "'smollm3' rotates K is not known"),
            ({"arch": "qwen3vl"}, "'qwen3vl' rotates K is not known"),
            ({"rope": None}, "not known"),
            ({"layer_kinds": (LayerKind.FULL, LayerKind.SLIDING)}, "other kinds"),
            ({"rope": Rope(1e6, 128, "longrope", 4.0)}, "'longrope'"),
            ({"tensors": (Tensor("rope_factors_long.weight", (64,), "f32", 256),)}, "LongRoPE"),
            ({"tensors": (Tensor("rope_freqs.weight", (64,), "f16", 128),)}, "cannot be read"),
        ],
        ids=str,
    )
    def test_what_is_not_known_is_refused_by_name(self, changes: dict[str, Any], why: str) -> None:
        with pytest.raises(SnapshotNotUnderstood, match=why):
            rotation_of(card(**changes))

    def test_llama_3s_factors_are_read_out_of_the_weights(self, tmp_path: Path) -> None:
        factors = tuple(1.0 + pair / 8 for pair in range(64))
        path = tmp_path / "llama3.gguf"
        name = b"rope_freqs.weight"
        header = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)
        header += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 64, 0, 0)
        header += bytes(-len(header) % 32)
        path.write_bytes(header + struct.pack("<64f", *factors))
        stated = Tensor("rope_freqs.weight", (64,), "f32", 256)
        assert rotation_of(card(arch="llama", path=path, tensors=(stated,))).factors == factors
