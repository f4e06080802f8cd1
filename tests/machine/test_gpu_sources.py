"""What GPUs of several makers share: visibility, PCIe arithmetic, datasheets; and AMD's own source."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.machine.datasheets import Datasheet, _table, datasheet
from quietmind.machine.load import catalogue_names, load_machine
from quietmind.machine.pcie import pcie_bandwidth, pcie_generation
from quietmind.machine.rocm import read_gpus, rocm_devices
from quietmind.machine.visible import visible

GIB = 1 << 30


@pytest.mark.parametrize(
    ("allowed", "left"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),  # the first that does not exist ends the list
        ("-1", []),
        ("0,0", [0]),
        ("GPU-b", [1]),
        ("GPU-", []),  # more than one begins so
        ("nonsense", []),
    ],
)
def test_hidden_gpus_stay_hidden(allowed: str | None, left: list[int]) -> None:
    assert visible(["GPU-a1", "GPU-b1", None], allowed) == left


@given(st.integers(0, 9), st.text())
def test_whatever_the_variable_says_indices_exist_once(count: int, allowed: str) -> None:
    found = visible([None] * count, allowed)
    assert len(set(found)) == len(found)
    assert all(0 <= index < count for index in found)


@pytest.mark.parametrize(
    ("generation", "lanes", "gigabytes"),
    [(1, 16, 4.0), (3, 16, 15.754), (4, 16, 31.508), (5, 16, 63.015), (5, 8, 31.508)],
)
def test_pcie_carries_what_its_line_code_leaves(generation: int, lanes: int, gigabytes: float) -> None:
    assert pcie_bandwidth(generation, lanes) == pytest.approx(gigabytes * 1e9, rel=1e-4)


@pytest.mark.parametrize(("generation", "lanes"), [(None, 16), (5, None), (9, 16), (5, 0), (5, 4096)])
def test_pcie_of_the_unknown_is_unknown(generation: int | None, lanes: int | None) -> None:
    assert pcie_bandwidth(generation, lanes) is None


def test_generations_are_read_as_sysfs_writes_them() -> None:
    said = ["32.0 GT/s PCIe", "16.0 GT/s PCIe", "8 GT/s", "2.5 GT/s PCIe", "Unknown", "", "x GT/s", "7 GT/s"]
    assert [pcie_generation(speed) for speed in said] == [5, 4, 3, 1, None, None, None, None]


def test_a_datasheet_goes_by_the_exact_name() -> None:
    assert datasheet("NVIDIA H100 80GB HBM3").bandwidth_bytes_per_s == 3350e9
    assert datasheet("NVIDIA GeForce RTX 4090 Laptop GPU") == Datasheet()
    assert datasheet("") == Datasheet()


@pytest.mark.parametrize("name", _table())
def test_every_datasheet_is_plausible(name: str) -> None:
    sheet = datasheet(name)
    assert sheet.bandwidth_bytes_per_s is not None
    assert sheet.flops is not None
    assert 250e9 <= sheet.bandwidth_bytes_per_s <= 10e12
    assert 50 <= sheet.flops / sheet.bandwidth_bytes_per_s <= 500  # operations a byte


@pytest.mark.parametrize("name", catalogue_names())
def test_the_catalogue_and_the_datasheets_agree(name: str) -> None:
    for device in load_machine(name).accelerators:
        if device.kind == "cuda":
            assert datasheet(device.name) == Datasheet(device.bandwidth_bytes_per_s, device.flops)


def a_card(root: Path, number: int, files: dict[str, str], slot: dict[str, str] | None = None) -> None:
    """Lay out a card as sysfs does: the device below the bridge of its slot, a link to it from /sys/class/drm."""
    bridge = root / f"sys/devices/pci0000:00/0000:00:0{number}.0"
    device = bridge / f"0000:0{number}:00.0"
    device.mkdir(parents=True)
    for folder, content in ((device, files), (bridge, slot or {})):
        for name, text in content.items():
            (folder / name).write_text(text + "\n")
    card = root / f"sys/class/drm/card{number}"
    card.mkdir(parents=True)
    (card / "device").symlink_to(device)
    (root / f"sys/class/drm/card{number}-DP-1").mkdir()


XTX = {
    "vendor": "0x1002",
    "device": "0x744c",
    "product_name": "Radeon RX 7900 XTX",
    "mem_info_vram_total": str(24 * GIB),
    "mem_info_vram_used": str(GIB),
    "max_link_speed": "16.0 GT/s PCIe",
    "max_link_width": "16",
}


def test_amd_cards_are_read_and_the_narrowest_link_counts(tmp_path: Path) -> None:
    a_card(tmp_path, 1, XTX, {"max_link_speed": "32.0 GT/s PCIe", "max_link_width": "8"})
    (gpu,) = read_gpus(tmp_path)
    assert (gpu.name, gpu.memory_bytes, gpu.free_bytes) == ("Radeon RX 7900 XTX", 24 * GIB, 23 * GIB)
    assert gpu.link_bytes_per_s == pytest.approx(31.508e9, rel=1e-4)
    a_card(tmp_path, 2, XTX | {"product_name": ""}, {"max_link_speed": "16.0 GT/s PCIe", "max_link_width": "4"})
    _, other = read_gpus(tmp_path)
    assert other.name == "AMD GPU 0x744c"
    assert other.link_bytes_per_s == pytest.approx(7.877e9, rel=1e-4)
    devices, links = rocm_devices((gpu, other))
    assert [(device.key, device.bandwidth_bytes_per_s) for device in devices] == [("rocm0", 960e9), ("rocm1", None)]
    assert [link.target for link in links] == ["rocm0", "rocm1"]
    assert [device.name for device in rocm_devices((gpu, other), "1")[0]] == ["AMD GPU 0x744c"]


@pytest.mark.parametrize(
    "change",
    [{"vendor": "0x10de"}, {"mem_info_vram_total": str(512 << 20)}, {"mem_info_vram_total": "much"}],
)
def test_other_makers_and_a_processors_own_graphics_are_left_out(tmp_path: Path, change: dict[str, str]) -> None:
    a_card(tmp_path, 0, XTX | change)
    assert read_gpus(tmp_path) == ()


def test_no_amd_driver_no_gpus(tmp_path: Path) -> None:
    assert read_gpus(tmp_path) == ()
