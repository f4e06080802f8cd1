"""Measuring: real memory and a real disk in miniature, and a driver that copies at a known speed."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.machine import measure_disk, measure_ram
from quietmind.machine.machine import Device, Host, Machine
from quietmind.machine.measure import measure
from quietmind.machine.measure_disk import disk_read_rate
from quietmind.machine.measure_ram import last_level_cache_bytes, ram_read_rate, read_ram

MIB, GIB = 1 << 20, 1 << 30

# A driver whose copies take 100 ms each; its other calls do what they must.
CUDA = """
#include <stdlib.h>
#include <unistd.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < 1 ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = malloc(1); return 0; }
int cuCtxSetCurrent(void *context) { return !context; }
int cuMemAlloc_v2(unsigned long long *address, size_t size) { *address = 4096; return 0; }
int cuMemAllocHost_v2(void **address, size_t size) { *address = malloc(size); return !*address; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t size) { usleep(100000); return to != 4096; }
"""


class Watched:
    """Progress that a test looks at."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
        self.labels.append(label)

    def advance(self, amount: int = 1) -> None:
        pass


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in tenths of a second, less truly."""
    monkeypatch.setattr(measure_ram, "_WINDOW_SECONDS", 0.02)
    monkeypatch.setattr(measure_ram, "_LEAST_BYTES", 64 * MIB)
    monkeypatch.setattr(measure_ram, "_TIMES_CACHE", 0)
    monkeypatch.setattr(measure_ram, "last_level_cache_bytes", lambda: 0)
    monkeypatch.setattr(measure_disk, "_MOST_BYTES", 64 * MIB)
    monkeypatch.setattr(measure_disk, "_SECONDS", 1.0)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("nodes", [1, 2])
def test_memory_is_read_at_a_speed_that_memory_has(nodes: int) -> None:
    read = read_ram(2, numa_nodes=nodes)
    assert read is not None
    assert 0.1e9 < read.bytes_per_s < 5e12
    assert 0 < read.cpu_share <= 1.05  # the two clocks are not read at once


@pytest.mark.usefixtures("brief")
def test_threads_read_at_once() -> None:
    """Python's lock is let go of while C reads: the windows of four threads do not queue up."""
    began = time.perf_counter()
    assert ram_read_rate(4) is not None
    assert time.perf_counter() - began < 3


def test_too_little_free_memory_is_not_measured() -> None:
    assert ram_read_rate(2, free_bytes=64 * MIB) is None
    assert ram_read_rate(2, free_bytes=0) is None


@pytest.mark.usefixtures("brief")
def test_a_thread_that_gets_no_memory_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", no_memory)
    assert ram_read_rate(3) is None


def test_last_level_caches_are_summed_once_each(tmp_path: Path) -> None:
    for cpu, shared, size in ((0, "0-1", "32768K"), (1, "0-1", "32768K"), (2, "2-3", "96M"), (3, "2-3", "96M")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cache/index3"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
        (folder / "shared_cpu_list").write_text(f"{shared}\n")
    assert last_level_cache_bytes(tmp_path) == 128 * MIB
    assert last_level_cache_bytes(tmp_path / "nothing") == 0


@pytest.mark.usefixtures("brief")
@pytest.mark.skipif(sys.platform == "win32", reason="the cache cannot be avoided")
def test_the_disk_is_read_and_nothing_stays(tmp_path: Path) -> None:
    rate = disk_read_rate(str(tmp_path))
    assert rate is not None
    assert 1e6 < rate < 1e12
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("brief")
def test_a_disk_that_is_full_or_not_ours_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_read_rate("/proc") is None
    monkeypatch.setattr(measure_disk, "_MOST_BYTES", 1 << 60)
    assert disk_read_rate(str(tmp_path)) is None
    monkeypatch.setattr(measure_disk, "_CACHE_CAN_BE_AVOIDED", False)
    assert disk_read_rate(str(tmp_path)) is None


@pytest.mark.usefixtures("brief")
def test_gpus_are_copied_to_in_a_child_and_one_that_fails_is_left_out(
    compiled: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = compiled("libcuda.so.1", CUDA)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    machine = Machine(
        "any",
        (
            Device("cpu", "any", 8 * GIB, 4 * GIB),
            Device("cuda", "first", GIB, key="cuda0"),
            Device("cuda", "second", GIB, key="cuda1"),
            Device("cuda", "shares", None, key="cuda2", unified=True),
        ),
        (),
        Host("Linux", "any", usable_cores=1),
    )
    watched = Watched()
    measured = measure(machine, watched)
    (link,) = measured.links
    assert (link.source, link.target, link.measured) == ("cpu", "cuda0", True)
    assert link.bandwidth_bytes_per_s == pytest.approx(256 * MIB / 0.1, rel=0.5)
    assert measured.ram_bytes_per_s is not None
    assert measured.cpu_share is not None
    assert measured.disk_bytes_per_s is None
    assert watched.labels == ["reading memory", "copying to GPUs"]


@pytest.mark.parametrize("arguments", [[], ["x"], ["0"]])
def test_a_copy_that_cannot_be_made_ends_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quietmind.machine.cuda_copy", *arguments],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        check=False,
        timeout=60,
    )
    if done.returncode == 0:
        pytest.skip("there is a CUDA device here")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
