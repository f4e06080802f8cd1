"""Several models on one machine: one budget, rows of their own, the main model in what the others leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.card import ModelCard, Tensor
from quietmind.plan import Ask, plan, render
from quietmind.plan.coresident import Resident, plan_together

MakeCard = Callable[..., ModelCard]
GIB = 1 << 30


def machine_with(ram: int, *devices: Device) -> Machine:
    return Machine("m", (Device("cpu", "CPU", ram, ram, 1e11), *devices), (), Host("Linux", "CPU", 8, 16, 8))


GPU = Device("cuda", "GPU", 12 * GIB, 12 * GIB, 1e12, 1e14, "cuda0")


def large(card_of: MakeCard) -> ModelCard:
    tensors = [Tensor("token_embd.weight", (1024, 1000), "f16", GIB), Tensor("output.weight", (1,), "f16", GIB)]
    tensors += [Tensor(f"blk.{layer}.ffn_up.weight", (1024, 3072), "f16", GIB // 2) for layer in range(12)]
    return card_of(name="Large", layers=12, tensors=tuple(tensors))


def test_every_model_has_its_own_rows_under_one_budget(card_of: MakeCard) -> None:
    machine = machine_with(64 * GIB, GPU)
    embedder, main = card_of(name="Embedder"), large(card_of)
    found = plan_together(machine, [Resident("main", main, Ask(4096)), Resident("embedder", embedder, Ask(2048))])
    assert (found.model, found.context) == ("Large", 4096)
    assert found.ledger.component("embedder: weights") == embedder.weight_bytes + embedder.tensors[0].bytes  # tied copy
    assert found.ledger.component("weights") == main.weight_bytes
    alone = plan(machine, embedder, Ask(2048))
    assert [companion.ledger for companion in found.companions] == [alone.ledger]
    for use in found.devices:
        assert use.needed_bytes == found.ledger.total(use.device)
        assert use.free_bytes == {"cpu": 64 * GIB, "cuda0": 12 * GIB}[use.device]
    assert "embedder: KV cache" in render(found)


def test_the_main_model_gives_way(card_of: MakeCard) -> None:
    machine = machine_with(64 * GIB, GPU)
    main = Resident("main", large(card_of), Ask(4096))
    alone = plan_together(machine, [main])
    beside = plan_together(machine, [main, Resident("second", large(card_of), Ask(4096))])
    assert alone.placement is not None
    assert beside.placement is not None
    assert alone.placement.dense.count("cuda0") == 12
    assert beside.placement.dense.count("cuda0") < 12
    assert beside.verdict == "fits"  # together below nine tenths, not each of what the other left


def test_too_many_models_do_not_fit(card_of: MakeCard) -> None:
    small = machine_with(12 * GIB)
    assert plan(small, large(card_of), Ask(4096)).verdict == "fits"
    main = Resident("main", large(card_of), Ask(4096))
    assert plan_together(small, [main, Resident("second", large(card_of), Ask(4096))]).verdict == "does not fit"


def test_a_draft_shares_the_process_and_the_context(card_of: MakeCard) -> None:
    machine = machine_with(64 * GIB, GPU)
    residents = [Resident("main", large(card_of), Ask(8192)), Resident("draft", card_of(), Ask(256, kv_type="q8_0"))]
    found = plan_together(machine, residents)
    assert found.companions[0].context == 8192
    assert sum(row.component.endswith(("engine overhead", "engine context")) for row in found.ledger.rows) == 2
    assert found.flags[-8:] == ("-md", "small.gguf", "-ngld", "5", "-ctkd", "q8_0", "-ctvd", "q8_0")


@pytest.mark.parametrize(
    "roles", [(), ("embedder",), ("main", "main"), ("main", "draft", "draft"), ("main", "judge")], ids=str
)
def test_casts_that_make_no_sense_are_refused(card_of: MakeCard, roles: tuple[str, ...]) -> None:
    residents = [Resident(role, card_of()) for role in roles]  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        plan_together(machine_with(64 * GIB), residents)
