"""The probe: what it says of this computer, and that cgroups, affinity and GPUs are respected."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import psutil
import pytest

from quietmind.machine import apple, nvidia, rocm
from quietmind.machine import probe as probing
from quietmind.machine.apple import Values
from quietmind.machine.cgroup import CgroupLimits
from quietmind.machine.machine import Machine
from quietmind.machine.nvidia import NvidiaGpu
from quietmind.machine.probe import hardware, probe
from quietmind.machine.remember import Measured, remember
from quietmind.machine.rocm import RocmGpu

GIB = 1 << 30


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIETMIND_MEASURED", str(tmp_path / "machines.json"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)


def test_this_computer_is_described_quickly() -> None:
    probe()
    began = time.perf_counter()
    machine = probe()
    assert time.perf_counter() - began < 0.1
    assert machine.cpu.memory_bytes is not None
    assert machine.cpu.free_bytes is not None
    assert 0 < machine.cpu.free_bytes <= machine.cpu.memory_bytes <= psutil.virtual_memory().total
    assert machine.host.usable_cores is not None
    assert 1 <= machine.host.usable_cores <= (machine.host.logical_cores or 1)
    assert machine.host.cpu
    assert machine.disk is not None
    assert Path(machine.disk.path).is_dir()
    assert machine.disk.free_bytes


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc and /sys")
def test_linux_says_more_of_its_processor() -> None:
    host = hardware().host
    assert host.instructions
    assert host.numa_nodes is None or host.numa_nodes >= 1


def test_what_was_measured_before_is_merged() -> None:
    bare = hardware()
    remember(bare, Measured(ram_bytes_per_s=123e9, disk_bytes_per_s=7e9))
    machine = probe()
    assert (machine.cpu.bandwidth_bytes_per_s, machine.cpu.measured) == (123e9, True)
    assert machine.disk is not None
    assert machine.disk.read_bytes_per_s == 7e9
    assert hardware().cpu.measured is False


def test_limits_lower_what_the_probe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "cgroup_limits", lambda: CgroupLimits(1000, 400, 0.5))
    machine = probe()
    assert (machine.cpu.memory_bytes, machine.cpu.free_bytes) == (1000, 400)
    assert machine.host.usable_cores == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_affinity_lowers_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert probe().host.usable_cores == 1


def test_gpus_of_every_maker_are_listed_and_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    card = NvidiaGpu("NVIDIA GeForce RTX 3090", "GPU-1", 24 * GIB, 20 * GIB, 4, 16)
    monkeypatch.setattr(nvidia, "read_gpus", lambda: (card, card))
    monkeypatch.setattr(rocm, "read_gpus", lambda: (RocmGpu("Instinct MI300X", 192 * GIB),))
    machine = hardware()
    assert [device.key for device in machine.devices] == ["cpu", "cuda0", "cuda1", "rocm0"]
    assert [link.target for link in machine.links] == ["cuda0", "cuda1", "rocm0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert [device.key for device in hardware().devices] == ["cpu", "cuda0"]


def a_mac(monkeypatch: pytest.MonkeyPatch, values: Values) -> Machine:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(apple, "read_sysctl", lambda: values)
    monkeypatch.setattr(apple, "read_gpu_cores", lambda: 76)
    return hardware()


def test_a_mac_has_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory().total
    values: Values = {"machdep.cpu.brand_string": "Apple M2 Ultra", "hw.memsize": memory, "hw.optional.neon": 1}
    machine = a_mac(monkeypatch, values)
    assert [device.key for device in machine.devices] == ["cpu", "metal"]
    metal = machine.devices[1]
    assert metal.unified
    assert (metal.memory_bytes or 0) < memory
    assert (metal.free_bytes or 0) <= (machine.cpu.free_bytes or 0)
    assert machine.cpu.bandwidth_bytes_per_s == metal.bandwidth_bytes_per_s == 800e9
    assert machine.host.cpu == "Apple M2 Ultra"
    assert machine.host.instructions == ("neon",)


def test_an_intel_mac_has_no_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Values = {"machdep.cpu.brand_string": "Intel(R) Core(TM) i7", "hw.memsize": 16 * GIB}
    assert [device.kind for device in a_mac(monkeypatch, values).devices] == ["cpu"]
