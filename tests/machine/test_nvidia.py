"""NVIDIA GPUs, by a library that answers as the driver's does; what the driver withholds stays unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quietmind.machine.nvidia import NvidiaGpu, nvidia_devices, read_gpus

GIB = 1 << 30

# Two cards; the second says as little as a driver may. Functions of this table can be replaced by a test.
NVML = {
    "nvmlInit_v2": "(void) { return 0; }",
    "nvmlShutdown": "(void) { return 0; }",
    "nvmlDeviceGetCount_v2": "(unsigned *count) { *count = 2; return 0; }",
    "nvmlDeviceGetHandleByIndex_v2": "(unsigned i, void **handle) { *handle = cards + i; return 0; }",
    "nvmlDeviceGetName": "(struct card *c, char *out, unsigned room) { return text(c->name, out, room); }",
    "nvmlDeviceGetUUID": "(struct card *c, char *out, unsigned room) { return text(c->uuid, out, room); }",
    "nvmlDeviceGetMemoryInfo": "(struct card *c, unsigned long long *m) "
    "{ if (!c->total) return 3; m[0] = c->total; m[1] = c->total / 4 * 3; m[2] = c->total / 4; return 0; }",
    "nvmlDeviceGetMaxPcieLinkGeneration": "(struct card *c, unsigned *g) { *g = c->lanes ? 5 : 9; return !c->lanes; }",
    "nvmlDeviceGetMaxPcieLinkWidth": "(struct card *c, unsigned *lanes) { *lanes = c->lanes; return !c->lanes; }",
}
CARDS = """
#include <string.h>
struct card { const char *name, *uuid; unsigned long long total; unsigned lanes; };
static struct card cards[2] = {
    {"NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "GPU-aaaa", 97887ull << 20, 16},
    {"NVIDIA GB10", "GPU-bbbb", 0, 0},
};
static int text(const char *from, char *out, unsigned room) {
    if (strlen(from) >= room) return 7;
    strcpy(out, from);
    return 0;
}
"""


def source(**changes: str | None) -> str:
    functions = {name: body for name, body in (NVML | changes).items() if body is not None}
    return CARDS + "".join(f"int {name}{body}\n" for name, body in functions.items())


def test_what_the_driver_says_is_read(compiled: Callable[[str, str], Path]) -> None:
    first, second = read_gpus(str(compiled("libnvml.so", source())))
    assert first == NvidiaGpu(
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "GPU-aaaa",
        97887 << 20,
        (97887 << 20) // 4 * 3,
        5,
        16,
    )
    assert second == NvidiaGpu("NVIDIA GB10", "GPU-bbbb", None, None, None, None)


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"])
@pytest.mark.parametrize("body", ["() { return 999; }", None])
def test_a_driver_that_fails_or_lacks_the_call_has_no_gpus(
    compiled: Callable[[str, str], Path], function: str, body: str | None
) -> None:
    assert read_gpus(str(compiled("libnvml.so", source(**{function: body})))) == ()


def test_an_old_driver_leaves_things_unknown(compiled: Callable[[str, str], Path]) -> None:
    library = compiled("libnvml.so", source(nvmlDeviceGetMaxPcieLinkWidth=None, nvmlDeviceGetUUID="() { return 1; }"))
    first, _ = read_gpus(str(library))
    assert (first.pcie_generation, first.pcie_lanes, first.uuid) == (5, None, None)
    assert nvidia_devices([first])[1][0].bandwidth_bytes_per_s is None


def test_no_driver_no_gpus(tmp_path: Path) -> None:
    assert read_gpus("libnvml-that-is-not-there.so") == ()
    (tmp_path / "text.so").write_text("not a library")
    assert read_gpus(str(tmp_path / "text.so")) == ()


KNOWN = NvidiaGpu("NVIDIA GeForce RTX 4090", "GPU-1234", 24564 << 20, 23 * GIB, 4, 16)
UNKNOWN = NvidiaGpu("NVIDIA Something New", "GPU-5678", 48 * GIB, 47 * GIB, 5, 8)


def test_the_datasheet_fills_in_what_the_driver_does_not_say() -> None:
    (first, second), (link, narrow) = nvidia_devices([KNOWN, UNKNOWN])
    assert (first.key, first.bandwidth_bytes_per_s, first.flops) == ("cuda0", 1008e9, 165.2e12)
    assert (second.key, second.bandwidth_bytes_per_s, second.flops) == ("cuda1", None, None)
    assert (link.source, link.target) == ("cpu", "cuda0")
    assert link.bandwidth_bytes_per_s == pytest.approx(31.5e9, rel=0.001)
    assert narrow.bandwidth_bytes_per_s == pytest.approx(31.5e9, rel=0.001)  # twice the rate over half the lanes


def test_hidden_gpus_are_left_out_and_the_others_numbered_anew() -> None:
    gpus = [KNOWN, UNKNOWN]
    assert [device.name for device in nvidia_devices(gpus, "1,0")[0]] == [UNKNOWN.name, KNOWN.name]
    assert [(device.key, device.name) for device in nvidia_devices(gpus, "GPU-56")[0]] == [("cuda0", UNKNOWN.name)]
    assert nvidia_devices(gpus, "") == ((), ())
    assert nvidia_devices(gpus, "-1") == ((), ())


def test_a_gpu_without_memory_of_its_own_shares_the_hosts() -> None:
    (device,), _ = nvidia_devices([NvidiaGpu("NVIDIA GB10")])
    assert device.unified
    assert device.memory_bytes is None
