"""What a notebook takes on the disk is what the ledger says of the cache, and is only said where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quietmind.machine.machine import Machine
from quietmind.model.card import LayerKind, ModelCard
from quietmind.plan import Ask, plan
from quietmind.plan.render import render, to_json
from quietmind.plan.snapshots import snapshots_of

GIB = 1 << 30

Cards = Callable[..., ModelCard]
Machines = Callable[..., Machine]


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_notebook_takes_the_cache_of_one_sequence(card_of: Cards, machine_of: Machines, sequences: int) -> None:
    kept = snapshots_of(plan(machine_of(), card_of(), Ask(context=4096, sequences=sequences)), budget=GIB)
    assert kept is not None
    assert kept.bytes_per_token == 4 * 2 * 8 * 128 * 2
    assert kept.bytes == 4096 * kept.bytes_per_token
    assert kept.whole == GIB // kept.bytes == 16
    assert kept.engine_cache_off


def test_layers_whose_cache_does_not_grow_give_no_bytes_a_token(card_of: Cards, machine_of: Machines) -> None:
    kinds = (LayerKind.FULL, LayerKind.SLIDING) * 2
    kept = snapshots_of(plan(machine_of(), card_of(layer_kinds=kinds, sliding_window=512), Ask(context=8192)))
    assert kept is not None
    assert kept.bytes_per_token is None
    assert kept.bytes == 2 * (8192 + 1024) * 2 * 8 * 128 * 2
    assert kept.whole is None


def test_what_does_not_fit_or_cannot_be_kept_says_nothing(card_of: Cards, machine_of: Machines) -> None:
    fits = plan(machine_of(), card_of(), Ask(context=4096))
    assert snapshots_of(replace(fits, verdict="does not fit")) is None
    assert snapshots_of(replace(fits, engine_key="vllm")) is None
    assert "snapshots:" not in render(replace(fits, engine_key="vllm"))


def test_the_text_names_the_budget_only_where_the_disk_is_known(card_of: Cards, machine_of: Machines) -> None:
    planned = plan(machine_of(), card_of(), Ask(context=4096))
    said = render(planned)
    assert "a notebook of 4,096 tokens stores 64.0 MiB (16,384 B a token), before packing" in said
    assert "of the disk" not in said
    assert "prompt cache is off" in said
    assert "all together may take 1.00 GiB of the disk: 16 whole" in render(planned, snapshot_budget=GIB)
    assert "not one whole; raise the setting snapshot_gib" in render(planned, snapshot_budget=1 << 20)
    assert "prompt cache" not in render(replace(planned, flags=("-m", "x")))


def test_json_has_the_same_numbers(card_of: Cards, machine_of: Machines) -> None:
    planned = plan(machine_of(), card_of(), Ask(context=4096))
    assert to_json(planned, GIB)["snapshots"] == {
        "tokens": 4096,
        "bytes": 64 << 20,
        "bytes_per_token": 16_384,
        "budget_bytes": GIB,
        "whole": 16,
        "engine_cache_off": True,
    }
    assert to_json(planned)["snapshots"]["budget_bytes"] is None
    assert to_json(replace(planned, verdict="does not fit"))["snapshots"] is None
