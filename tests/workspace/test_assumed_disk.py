"""Models past all memory, on machines of the catalogue: a speed, and what it is assumed of the disk."""

from __future__ import annotations

import pytest

from quietmind.model.open import open_card
from quietmind.plan import Ask, plan
from quietmind.plan.hardware import hardware, render_hardware
from quietmind.workspace.lineup import machine_named, machines_named

MODEL = "qwen3-coder-480b-a35b"


@pytest.mark.parametrize("name", ["rtx-pro-6000-128", "mac-studio-m2-ultra-192"])
def test_experts_on_the_disk_have_a_speed_and_the_disk_is_called_assumed(name: str) -> None:
    machine = machine_named(name)
    planned = plan(machine, open_card(MODEL, "Q4_K_M"), Ask(context=32_768))
    assert planned.speed is not None
    assert machine.disk is not None
    (warning,) = [said for said in planned.warnings if "read from the disk" in said]
    assert f"(assumed: {machine.disk.path}, " in warning


def test_hardware_says_which_machines_read_from_an_assumed_disk() -> None:
    machines = machines_named(["rtx-pro-6000-128", "2x-epyc-9575f-1.5tb"])
    answer = hardware(open_card(MODEL, "Q4_K_M"), Ask(context=32_768), 1.0, None, machines)
    rows = {name: line for line in render_hardware(answer).splitlines() for name in line.split() if "-" in name}
    assert rows["rtx-pro-6000-128"].endswith("GiB read from an assumed disk")
    assert "disk" not in rows["2x-epyc-9575f-1.5tb"]
