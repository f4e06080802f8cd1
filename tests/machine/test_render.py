"""What is shown of a machine."""

from __future__ import annotations

import json
from dataclasses import replace

from quietmind.machine.load import load_machine
from quietmind.machine.machine import Device, Disk, Host, Machine
from quietmind.machine.render import rate, render, to_json


def test_a_machine_of_unknowns_says_so_and_how_to_find_out() -> None:
    machine = Machine("bare", (Device("cpu", "Some CPU"),), (), Host("Linux", "Some CPU"), Disk("/models"))
    shown = render(machine)
    assert shown.count("unknown") >= 8
    assert "quietmind machine --measure" in shown


def test_equal_links_are_one_line() -> None:
    lines = [line for line in render(load_machine("8x-h200-141gb")).splitlines() if line.startswith("link")]
    assert lines == [
        "link          cpu-cuda0 and 7 more: 63.0 GB/s one way",
        "link          cuda0-cuda1 and 27 more: 450 GB/s one way",
    ]


def test_where_numbers_are_from_is_shown_and_what_they_take_for_granted() -> None:
    lines = render(load_machine("rtx-pro-6000-192")).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("source"))
    assert lines[first] == (
        "source        AMD Ryzen 9 9950X product page (16 cores, base 4.3 GHz, 2 channels of DDR5-5600)"
    )
    assert lines[first + 1].strip().startswith("four dual-rank modules are specified for DDR5-3600 only")
    assert lines[-1].endswith("(memory 1792 GB/s; FP16 tensor with FP32 accumulation, dense)")


def test_unified_and_measured_memory_are_marked() -> None:
    machine = load_machine("mac-studio-m2-ultra-192")
    shown = render(replace(machine, devices=(replace(machine.cpu, measured=True), *machine.accelerators)))
    cpu, metal = (line for line in shown.splitlines() if line.startswith(("cpu ", "metal ")))
    assert cpu.endswith("bandwidth measured")
    assert metal.endswith("its memory is part of the cpu's")


def test_columns_stand_in_line() -> None:
    lines = render(load_machine("rtx-pro-6000-192")).splitlines()[2:5]
    for header in ("memory", "bandwidth", "compute"):
        end = lines[0].index(header) + len(header)
        assert all(line[end - 1] != " " and line[end] == " " for line in lines), header


def test_json_says_it_all_in_bytes() -> None:
    document = json.loads(json.dumps(to_json(load_machine("rtx-3090"))))
    assert document["devices"][0]["memory_bytes"] == 64 << 30
    assert document["devices"][1]["bandwidth_bytes_per_s"] == 936e9
    assert document["links"][0]["target"] == "cuda0"
    assert document["host"]["instructions"]


def test_rates_keep_their_significant_digits() -> None:
    assert [rate(value) for value in (1792e9, 89.6e9, 0.24e9, None)] == [
        "1,792 GB/s",
        "89.6 GB/s",
        "0.24 GB/s",
        "unknown",
    ]
