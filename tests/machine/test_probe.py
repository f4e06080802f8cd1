"""The probe: what it says of this computer, and that cgroups, affinity and GPUs are respected."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from quietmind.machine import probe as probing
from quietmind.machine.probe import CgroupLimits, cgroup_limits, probe


def test_this_computer_is_described_quickly() -> None:
    probe()
    began = time.perf_counter()
    machine = probe()
    assert time.perf_counter() - began < 0.05
    assert machine.cpu.memory_bytes is not None
    assert machine.cpu.free_bytes is not None
    assert 0 < machine.cpu.free_bytes <= machine.cpu.memory_bytes <= psutil.virtual_memory().total
    assert machine.host.usable_cores is not None
    assert 1 <= machine.host.usable_cores <= (machine.host.logical_cores or 1)
    assert machine.host.cpu


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


GIB = 1 << 30


def test_a_version_2_limit_counts_and_its_page_cache_is_free(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app/inner\n",
            "sys/fs/cgroup/app/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/app/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/app/memory.stat": f"anon 5\nactive_file {GIB}\ninactive_file {GIB}\n",
            "sys/fs/cgroup/app/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/app/inner/memory.max": "max\n",
            "sys/fs/cgroup/app/inner/cpu.max": "max 100000\n",
        },
    )
    assert cgroup_limits(root) == CgroupLimits(memory_bytes=8 * GIB, free_bytes=7 * GIB, cores=1.5)


def test_the_tightest_limit_on_the_way_down_holds(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/memory.max": f"{9 * GIB}\n",
            "sys/fs/cgroup/a/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/a/b/memory.max": f"{6 * GIB}\n",
        },
    )
    assert cgroup_limits(root).memory_bytes == 4 * GIB


def test_a_version_1_limit_counts(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n3:freezer:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_limits(root) == CgroupLimits(memory_bytes=2 * GIB, free_bytes=GIB, cores=2.0)


@pytest.mark.parametrize("content", ["", "nonsense\n", "0::/../../etc\n", "0::/gone\n", "1:memory\n"])
def test_no_limit_or_nonsense_is_no_limit(tmp_path: Path, content: str) -> None:
    assert cgroup_limits(tmp_path) == CgroupLimits()
    assert cgroup_limits(put(tmp_path, {"proc/self/cgroup": content})) == CgroupLimits()


def test_limits_lower_what_the_probe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "cgroup_limits", lambda: CgroupLimits(1000, 400, 0.5))
    machine = probe()
    assert (machine.cpu.memory_bytes, machine.cpu.free_bytes) == (1000, 400)
    assert machine.host.usable_cores == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_affinity_lowers_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert probe().host.usable_cores == 1


class NVMLError(Exception):
    pass


def fake_nvml(**changes: object) -> SimpleNamespace:
    parts = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _handle: b"RTX",
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(total=24 * GIB, free=20 * GIB),
    }
    return SimpleNamespace(**(parts | changes))


def test_gpus_are_listed_when_nvml_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    gpu = probe().devices[1]
    assert (gpu.kind, gpu.name, gpu.memory_bytes, gpu.free_bytes) == ("cuda", "RTX", 24 * GIB, 20 * GIB)


def fail(*_: object) -> None:
    raise NVMLError


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_a_broken_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**{broken: fail}))
    assert [device.kind for device in probe().devices] == ["cpu"]


def test_without_nvml_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert [device.kind for device in probe().devices] == ["cpu"]
