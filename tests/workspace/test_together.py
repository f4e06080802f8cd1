"""Several models under one memory budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import DoesNotFit, ModelNotFound, UsageError
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.open import open_card
from quietmind.plan.ask import Ask
from quietmind.plan.plan import plan
from quietmind.workspace.launch import Start
from quietmind.workspace.together import asked_of, together

GIB = 1 << 30


def start(model: str, memory: int, ask: Ask | None = None) -> Start:
    machine = Machine(
        "a computer",
        (Device("cpu", "Xeon", memory_bytes=memory, free_bytes=memory),),
        (),
        Host("Linux x86_64", "Xeon", physical_cores=8, usable_cores=8),
    )
    card, ask = open_card(model, "Q4_K_M"), ask or Ask(context=4096)
    return Start(machine, card, plan(machine, card, ask), ask)


def test_each_has_the_plan_of_its_share_and_all_have_one_budget() -> None:
    both = together([start("qwen3-30b-a3b", 64 * GIB), start("qwen3-32b", 64 * GIB)])
    shares = [sum(use.needed_bytes for use in each.plan.devices) for each in both.starts]
    assert sum(shares) == sum(use.needed_bytes for use in both.plan.devices)
    assert [each.plan.model for each in both.starts] == [each.card.name for each in both.starts]
    for each in both.starts:
        each.plan.ledger.prove({use.device: use.needed_bytes for use in each.plan.devices}, {})


def test_models_that_fit_alone_and_not_together_are_refused_with_the_ledger_of_all() -> None:
    starts = [start("qwen3-30b-a3b", 24 * GIB), start("qwen3-32b", 24 * GIB)]
    for each in starts:
        together([each])
    with pytest.raises(DoesNotFit, match=r"together take .* fewer or smaller models") as caught:
        together(starts)
    assert "second: weights" in caught.value.ledger


def test_two_models_of_one_name_are_refused() -> None:
    one = start("qwen3-32b", 64 * GIB)
    with pytest.raises(UsageError, match="could not tell them"):
        together([one, replace(one)])


def test_two_quantizations_of_one_model_are_told_apart_by_their_files() -> None:
    one = start("qwen3-30b-a3b", 96 * GIB)
    files = [replace(one, card=replace(one.card, path=Path(name))) for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf")]
    assert [each.served_name for each in together(files).starts] == ["a-Q4_K_M", "a-Q8_0"]


def test_runs_are_compared_by_what_they_are_asked_for_whatever_the_order(tmp_path: Path) -> None:
    files = []
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
        files.append(str(tmp_path / name))
    assert asked_of(files, Ask()) == asked_of(files[::-1], Ask())
    assert asked_of(files, Ask()) != asked_of(files, Ask(context=1024))
    assert asked_of(files, Ask()) != asked_of(files[:1], Ask())
    with pytest.raises(UsageError, match="named twice"):
        asked_of([files[0], files[0]], Ask())
    with pytest.raises(ModelNotFound):
        asked_of(["no-such-model"], Ask())
