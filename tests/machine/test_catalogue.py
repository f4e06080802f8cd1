"""Every machine of the catalogue is a plausible computer, and says where its numbers are from."""

from __future__ import annotations

import math
import re
import tomllib

import pytest

from quietmind.machine.load import CATALOGUE, catalogue_names, load_machine
from quietmind.machine.render import render

GB, GIB = 1e9, 1 << 30

WANTED = {
    "rtx-pro-6000-128",
    "rtx-pro-6000-192",
    "rtx-pro-6000-512",
    "rtx-pro-6000-1tb",
    "8x-rtx-pro-6000",
    "rtx-5090",
    "rtx-4090",
    "rtx-3090",
    "a100-80gb",
    "h100-80gb",
    "h200-141gb",
    "mac-studio-m2-ultra-192",
    "mac-studio-m3-ultra-512",
    "2x-epyc-9575f-1.5tb",
    "2x-xeon-6-2tb",
    "laptop-32",
}


def test_the_machines_that_people_ask_about_are_there() -> None:
    assert set(catalogue_names()) >= WANTED


@pytest.mark.parametrize("name", catalogue_names())
def test_every_machine_is_plausible(name: str) -> None:
    machine = load_machine(name)
    assert [device.kind for device in machine.devices].count("cpu") == 1
    assert len({device.key for device in machine.devices}) == len(machine.devices)
    cpu = machine.cpu
    assert cpu.memory_bytes is not None
    assert 8 * GIB <= cpu.memory_bytes <= 4096 * GIB
    assert cpu.bandwidth_bytes_per_s is not None
    assert 40 * GB <= cpu.bandwidth_bytes_per_s <= 2000 * GB
    host = machine.host
    assert host.physical_cores is not None
    assert host.logical_cores is not None
    assert host.physical_cores <= host.logical_cores <= 2 * host.physical_cores
    assert host.instructions
    for device in machine.accelerators:
        assert device.memory_bytes is not None
        assert device.bandwidth_bytes_per_s is not None
        assert device.flops is not None
        assert 500 * GB <= device.bandwidth_bytes_per_s <= 10_000 * GB
        assert 1e13 <= device.flops <= 3e15
        if device.unified:
            assert device.bandwidth_bytes_per_s == cpu.bandwidth_bytes_per_s
            assert device.memory_bytes == 0.75 * cpu.memory_bytes
        else:
            assert 20 * GIB <= device.memory_bytes <= 200 * GIB
            link = machine.link("cpu", device.key)
            assert link is not None
            assert link.bandwidth_bytes_per_s in (31.5 * GB, 63.0 * GB)


@pytest.mark.parametrize("name", catalogue_names())
def test_every_machine_has_a_disk_that_is_called_assumed(name: str) -> None:
    machine = load_machine(name)
    assert machine.disk is not None
    assert machine.disk.read_bytes_per_s is not None
    assert 5 * GB <= machine.disk.read_bytes_per_s <= 15 * GB
    assert machine.disk.assumed
    assert re.search(r"disk .* GB/s, assumed$", render(machine), re.MULTILINE)


def test_memory_in_all_counts_unified_memory_once() -> None:
    machine = load_machine("mac-studio-m3-ultra-512")
    (gpu,) = machine.accelerators
    assert gpu.unified
    held = sum(device.memory_bytes or 0 for device in machine.devices if not device.unified)
    assert held == 512 * GIB


@pytest.mark.parametrize("name", catalogue_names())
def test_every_machine_names_its_sources(name: str) -> None:
    text = (CATALOGUE / f"{name}.toml").read_text(encoding="utf-8")
    assert len(str(tomllib.loads(text)["source"])) > 20


@pytest.mark.parametrize("name", catalogue_names())
def test_the_factors_beside_a_number_multiply_to_it(name: str) -> None:
    """``bandwidth = "89.6 GB/s"  # 2 channels x 5600 MT/s x 8 B``, and so on."""
    text = (CATALOGUE / f"{name}.toml").read_text(encoding="utf-8")
    stated = re.findall(r'= "([\d.]+) (?:GB/s|TFLOPS)"  # (\d.*? x .*)', text)
    for value, factors in stated:
        numbers = [float(number) for number in re.findall(r"(?:^|x )([\d.]+)", re.sub(r"\(.*", "", factors))]
        product = math.prod(numbers) / 1000  # M to G of bytes, G to T of operations
        assert product == pytest.approx(float(value), rel=0.01), factors
    if "MT/s" in text:
        assert stated
