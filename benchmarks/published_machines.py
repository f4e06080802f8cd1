"""From the words that people write of their hardware to a machine: what they state, and what the names mean.

Where a cell is empty, the processor's platform says how much memory it has at most, an accelerator's name its flops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from quietmind.machine.datasheets import datasheet_like
from quietmind.machine.machine import Device, DeviceKind, Host, Link, Machine

AVX2, AVX512F = ("avx2",), ("avx2", "avx512f")
AVX512 = (*AVX512F, "avx512_vnni")
AMX = (*AVX512, "amx_int8")


@dataclass(frozen=True)
class Platform:
    """Processors of one kind: ``cores`` by model (of two kinds of cores, the slow ones count half), GB/s of a socket
    with all channels filled, and instructions. Makers' product pages.
    """

    name: str
    cores: Mapping[str, int]
    gb_per_s: float
    instructions: tuple[str, ...]


PLATFORMS = (
    Platform("EPYC Turin", {"9355": 32, "9575": 64, "9175": 16, "9555": 64, "9755": 128, "9965": 192}, 576.0, AVX512),
    Platform(
        "EPYC Genoa",
        {"9654": 96, "9554": 64, "9454": 48, "9374": 32, "9334": 32, "9754": 128, "9474": 48, "9684": 96, "9174": 16},
        460.8,
        AVX512,
    ),
    Platform(
        "EPYC Rome, Milan",
        {"7773": 64, "7763": 64, "7713": 64, "7742": 64, "7702": 64, "7543": 32, "7532": 32, "7402": 24, "7343": 16}
        | {"7302": 16},
        204.8,
        AVX2,
    ),
    Platform("Threadripper PRO 7000", {"7995wx": 96, "7985wx": 64, "7975wx": 32, "7965wx": 24}, 332.8, AVX512),
    Platform("Threadripper PRO", {"3995wx": 64, "5995wx": 64, "5975wx": 32, "5965wx": 24}, 204.8, AVX2),
    Platform("Threadripper 7000", {"7980x": 64, "7970x": 32, "7960x": 24}, 166.4, AVX512),
    Platform("Threadripper", {"3990x": 64, "3970x": 32, "3960x": 24, "1950x": 16}, 102.4, AVX2),
    Platform(
        "Ryzen 7000, 9000",
        {"9950x": 16, "9900x": 12, "9800x3d": 8, "9700x": 8, "7950x": 16, "7900x": 12, "7800x3d": 8, "7700x": 8},
        89.6,
        AVX512,
    ),
    Platform("Ryzen AI 300", {"hx 370": 12, "hx pro 370": 12}, 89.6, AVX512),
    Platform("Ryzen 5000", {"5950x": 16, "5900x": 12, "5800x": 8}, 51.2, AVX2),
    Platform(
        "Core", {"14900": 16, "13900": 16, "14700": 14, "13700": 12, "12900": 12, "285k": 18, "265k": 15}, 89.6, AVX2
    ),
    Platform("Core, Rocket Lake", {"11700": 8, "11900": 8}, 51.2, AVX512),
    Platform("Core X, Cascade Lake", {"10900x": 10, "10980xe": 18}, 93.9, AVX512),
    Platform("Core X, Skylake", {"7980xe": 18}, 85.3, AVX512F),
    Platform("Xeon 6", {"6980p": 128, "6787p": 86, "6972p": 96}, 614.4, AMX),
    Platform(
        "Xeon Sapphire Rapids", {"8592": 64, "8490": 60, "8480": 56, "3495x": 56, "6530": 32, "6454": 32}, 307.2, AMX
    ),
    Platform(
        "Xeon Scalable, Cascade Lake", {"6248": 20, "6226r": 16, "6226": 12, "8280": 28, "8260": 24}, 140.8, AVX512
    ),
    Platform("Xeon Scalable, Skylake", {"6138": 20, "6148": 20, "8180": 28}, 128.0, AVX512F),
)

DESKTOP_CORES = 16  # a desktop that somebody put 100 GB and more into
CHANNEL_GB_PER_S = {"ddr4": 25.6, "ddr5": 48.0}  # 3,200 and 6,000 million transfers of 8 bytes

# GB/s of the link, 16 lanes: PCI Express 5, 4 and 3.
LINKS = (
    (re.compile(r"\b(?:rtx )?50[5-9]0\b|pro 6000|h[12]00|b[23]00"), 63.0),
    (re.compile(r"\b20[678]0\b|v100|t4\b"), 15.8),
)
OTHER_LINK = 31.5

# Apple's GPUs: GHz by generation and cores of the full chip; 128 lanes a core multiply and add in each cycle.
APPLE_GHZ = {"m1": 1.296, "m2": 1.398, "m3": 1.38, "m4": 1.578}
APPLE_CORES = {"m1 max": 32, "m1 ultra": 64, "m2 max": 38, "m2 ultra": 76, "m3 max": 40, "m3 ultra": 80, "m4 max": 40}

_APPLE = re.compile(r"\bm[1-9] ?(?:max|ultra|pro)\b|\bapple\b")
_AMD = re.compile(r"radeon|instinct|\brx ?\d|\bw[67]\d00\b|\bmi\d")


def machine_of(row: Mapping[str, str]) -> Machine:
    """Return the machine of a row: what its cells say, and what its texts mean where they are empty.

    Raises ValueError for a number that is none.
    """
    host, accelerator = row.get("host", ""), row.get("accelerator", "")
    bandwidth = number(row.get("host_gb_per_s"))
    devices, links = [host_memory(host, bandwidth)], []
    count, name = _counted(accelerator)
    if name:
        memory, stated = number(row.get("accelerator_memory_gb")), number(row.get("accelerator_gb_per_s"))
        kind: DeviceKind = "metal" if _APPLE.search(name.lower()) else "rocm" if _AMD.search(name.lower()) else "cuda"
        for index in range(1 if kind == "metal" else count):
            gpu = accelerator_of(kind, name, index, memory, stated)
            devices.append(gpu)
            if kind != "metal":
                links.append(Link("cpu", gpu.key, _link(name) * 1e9))
    return Machine(f"{accelerator} + {host}", tuple(devices), tuple(links), host_of(host))


def number(text: str | None) -> float | None:
    """Return a cell's number, None for an empty cell. Raises ValueError for what is none, or below zero."""
    if not text:
        return None
    value = float(text.replace(",", ""))
    if not 0 <= value < 1e12:
        raise ValueError(f"{text} is no sensible number")
    return value


def host_memory(host: str, stated: float | None) -> Device:
    """Return the host's memory. ``stated`` in GB/s, None where the words of the host have to say it."""
    bandwidth = _host_gb_per_s(host.lower()) if stated is None else stated
    return Device("cpu", host or "host", bandwidth_bytes_per_s=None if bandwidth is None else bandwidth * 1e9)


def host_of(host: str) -> Host:
    """Return the host: cores and instructions by its processor's name."""
    text = host.lower()
    platform, model = _platform(text)
    sockets = _sockets(text)
    cores = int(found[1]) if (found := re.search(r"(\d+) cores", text)) else None
    if cores is None and platform is not None:
        cores = sockets * platform.cores[model]
    if cores is None and "desktop" in text:
        cores = DESKTOP_CORES
    instructions = (
        platform.instructions if platform else AVX512F if "xeon" in text else AVX512 if "epyc 9" in text else ()
    )
    return Host("Linux", host, physical_cores=cores, numa_nodes=sockets, instructions=instructions)


def accelerator_of(kind: DeviceKind, name: str, index: int, memory: float | None, stated: float | None) -> Device:
    """Return one GPU. ``memory`` in GB, ``stated`` bandwidth in GB/s."""
    sheet = datasheet_like(re.sub(r"\(.*\)", "", name))
    return Device(
        kind,
        name,
        memory_bytes=None if memory is None else int(memory * 2**30),
        bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s if stated is None else stated * 1e9,
        flops=_apple_flops(name.lower()) if kind == "metal" else sheet.flops,
        key="metal" if kind == "metal" else f"{kind}{index}",
        unified=kind == "metal",
    )


def _apple_flops(name: str) -> float | None:
    chip = next((chip for chip in APPLE_CORES if chip in name), None)
    if chip is None:
        return None
    stated = re.search(r"(\d+)[ -](?:gpu[ -])?core", name)
    return (int(stated[1]) if stated else APPLE_CORES[chip]) * 128 * 2 * APPLE_GHZ[chip[:2]] * 1e9


def _counted(accelerator: str) -> tuple[int, str]:
    found = re.match(r"\s*(\d+) ?[x×*] ?(.+)", accelerator, re.IGNORECASE)
    return (min(int(found[1]), 64), found[2].strip()) if found else (1, accelerator.strip())


def _link(name: str) -> float:
    return next((rate for words, rate in LINKS if words.search(name.lower())), OTHER_LINK)


def _platform(text: str) -> tuple[Platform | None, str]:
    for platform in PLATFORMS:
        for model in platform.cores:
            if model in text:
                return platform, model
    return None, ""


def _sockets(text: str) -> int:
    found = re.search(r"\b([1-8]) ?x\s", text)
    return int(found[1]) if found else 2 if re.search(r"\bdual[- ](?:socket|cpu|epyc|xeon)", text) else 1


def _host_gb_per_s(text: str) -> float | None:
    """Return what memory reaches by its channels and transfers, else by the processor's platform."""
    kind = next((name for name in CHANNEL_GB_PER_S if name in text), None)
    transfers = re.search(r"ddr[45][- ]?(\d{4})\b", text)
    channel = int(transfers[1]) * 8e-3 if transfers else CHANNEL_GB_PER_S[kind or "ddr5"]
    if re.search(r"\bdual[- ]channel|desktop", text):
        return 2 * channel
    channels = re.search(r"(\d+)\s*-?\s*ch", text)
    if channels and (kind or transfers):
        return _sockets(text) * int(channels[1]) * channel
    platform, _ = _platform(text)
    return _sockets(text) * platform.gb_per_s if platform else None
