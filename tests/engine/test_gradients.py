"""Gradients through a real model: what they say of small errors is what these do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quietmind.base.errors import EngineCrashed, EngineMissing
from quietmind.engine import gradients as asked
from quietmind.engine.gradients import Context, Gradients, Run, gradients
from quietmind.model.open import open_card

needs_transformers = pytest.mark.skipif(not asked.installed(), reason="torch, transformers or gguf is not installed")

TOKENS = tuple(range(100, 260))
CONTEXT = Context(TOKENS, {"facts": (Run((5, 6, 7), 1), Run((8, 9), 0)), "notes": (Run((10, 11, 12, 13), 0),)})


@pytest.fixture(scope="module")
def found(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Gradients:
    return gradients(model_path, [CONTEXT, CONTEXT], (32, 16), (1, 3), tmp_path_factory.mktemp("gradients"), threads=2)


@needs_transformers
def test_every_layer_and_head_has_its_squares(model_path: Path, found: Gradients) -> None:
    card = open_card(str(model_path))
    for parts in (found.keys, found.values):
        assert set(parts) == {"facts", "notes"}
        for each in parts.values():
            assert each.shape == (card.layers, card.kv_heads[0], card.key_length)
            assert (each > 0).all()
    assert found.last_keys.shape == (len(TOKENS), card.kv_heads[0], card.key_length)


@needs_transformers
def test_token_by_token_they_come_to_the_same(model_path: Path, found: Gradients) -> None:
    card = open_card(str(model_path))
    for kind in ("facts", "notes"):
        each = [context.squares[kind].astype(np.float64) for context in found.contexts]
        assert {part.shape for part in each} == {(2, card.layers, card.kv_heads[0], len(TOKENS) - 48)}
        for part, total in enumerate((found.keys[kind], found.values[kind])):
            by_tokens = sum(context[part].sum(axis=2) for context in each)
            assert np.allclose(by_tokens / by_tokens.sum(), total.sum(axis=2) / total.sum(), rtol=1e-4)


@needs_transformers
def test_k_and_v_of_layers_that_were_asked_for_come_back(model_path: Path, found: Gradients, tmp_path: Path) -> None:
    card = open_card(str(model_path))
    assert found.contexts[0].keys.shape == (2, len(TOKENS), card.kv_heads[0], card.key_length)
    last = gradients(model_path, [CONTEXT], (32, 16), (card.layers - 1, card.layers), tmp_path)
    assert np.array_equal(last.contexts[0].keys[0], last.last_keys)
    assert np.array_equal(last.contexts[0].values[0], last.last_values)


@needs_transformers
def test_what_gradients_say_of_small_noise_is_what_it_does(model_path: Path, found: Gradients) -> None:
    """Half of the squared gradients times the variance is the divergence, to a third: it is one draw of noise."""
    import torch
    from transformers import DynamicCache

    from quietmind.engine.gradients_child import _Model

    copy = _Model(model_path)
    held = copy.read(TOKENS)
    run = CONTEXT.runs["notes"][0]

    def told(shaken: Any) -> Any:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(shaken):
            cache.update(keys, values, layer)
        with torch.no_grad():
            logits = copy._model(torch.tensor([run.tokens]), past_key_values=cache, use_cache=True).logits[0]
        return torch.log_softmax(logits.double(), -1)

    size, seeds = 0.002, 6
    generator = torch.Generator().manual_seed(1)
    before, costs = told([(k.clone(), v.clone()) for k, v in held]), []
    for _ in range(seeds):
        shaken = []
        for keys, values in held:
            parts = []
            for part in (keys, values):
                noise = torch.zeros_like(part)
                noise[:, :, 32:-16] = size * torch.randn(part[:, :, 32:-16].shape, generator=generator)
                parts.append(part + noise)
            shaken.append(tuple(parts))
        after = told(shaken)
        costs.append(float((before.exp() * (before - after)).sum(1).mean()))
    said = 0.5 * size**2 * float(found.keys["notes"].sum() + found.values["notes"].sum())
    assert np.mean(costs) == pytest.approx(said, rel=0.5)


@needs_transformers
def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 60)
    with pytest.raises(EngineCrashed, match=r"broken\.gguf: transformers ended with exit status 1"):
        gradients(broken, [CONTEXT], (32, 16), (0, 1), tmp_path)


def test_without_transformers_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "find_spec", lambda _name: None)
    with pytest.raises(EngineMissing, match=r"pip install 'quietmind\[gradients\]'"):
        gradients(Path("m.gguf"), [CONTEXT], (32, 16), (0, 1), tmp_path)


def test_runs_see_the_context_and_themselves() -> None:
    from quietmind.engine.gradients_child import each_alone

    seen = each_alone(3, [2, 1]) == 0
    assert seen.tolist() == [
        [True, True, True, True, False, False],
        [True, True, True, True, True, False],
        [True, True, True, False, False, True],
    ]
