"""Processors: what the systems' own words say of them. Flags are shortened, their forms are real."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from quietmind.machine import apple
from quietmind.machine.cpu import base_clock, cpu_name, cpuinfo, instructions, numa_nodes, read_cpuinfo, vector_flops

GIB, MIB = 1 << 30, 1 << 20

ZEN4 = "sse4_2 avx f16c avx2 fma avx512f avx512bw avx512vl avx512_vnni avx512_bf16"


def x86(vendor: str, name: str, flags: str) -> dict[str, str]:
    first = (
        f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: {name}\ncpu MHz\t\t: 2300.000\nflags\t\t: {flags}\n\n"
    )
    return cpuinfo((first + first.replace(": 0", ": 1")).splitlines(keepends=True))


XEON = x86("GenuineIntel", "Intel(R) Xeon(R) Platinum 8480C", f"{ZEN4} amx_tile amx_int8 rdtscp")
EPYC5 = x86("AuthenticAMD", "AMD EPYC 9575F 64-Core Processor", f"{ZEN4} avx_vnni")
EPYC4 = x86("AuthenticAMD", "AMD EPYC 9354 32-Core Processor", ZEN4)
TIGER = x86("GenuineIntel", "11th Gen Intel(R) Core(TM) i7-1165G7", ZEN4)
OLD = x86("GenuineIntel", "Intel(R) Core(TM) i7-2600", "sse4_2 avx")
ARM = cpuinfo(
    [
        "processor\t: 0\n",
        "BogoMIPS\t: 50.00\n",
        "Features\t: fp asimd asimdhp asimddp i8mm bf16 sve\n",
        "\n",
        "processor\t: 1\n",
        "\n",
        "Model\t\t: A Board\n",
    ]
)


def test_flags_become_the_usual_names() -> None:
    assert instructions(XEON)[-2:] == ("amx_tile", "amx_int8")
    assert "rdtscp" not in instructions(XEON)
    assert instructions(ARM) == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")
    assert instructions({}) == ()


def test_names_are_found_where_each_kind_of_processor_keeps_them() -> None:
    assert cpu_name(EPYC5) == "AMD EPYC 9575F 64-Core Processor"
    assert cpu_name(ARM) == "A Board"
    assert cpu_name({})


def test_only_the_first_of_many_processors_is_read() -> None:
    read = []

    def lines() -> object:
        for line in ("processor: 0\n", "model name: X\n", "flags: avx2\n", "\n", "processor: 1\n"):
            read.append(line)
            yield line

    assert cpuinfo(lines()) == {"processor": "0", "model name": "X", "flags": "avx2"}  # type: ignore[arg-type]
    assert len(read) == 4


@pytest.mark.parametrize(
    ("fields", "a_cycle"), [(XEON, 64), (EPYC5, 64), (EPYC4, 32), (TIGER, 32), (OLD, None), (ARM, None)]
)
def test_vector_units_are_counted_as_they_are_built(fields: dict[str, str], a_cycle: int | None) -> None:
    expected = None if a_cycle is None else 8 * 2e9 * a_cycle
    assert vector_flops(fields, 8, 2e9) == expected
    assert vector_flops(fields, None, 2e9) is None
    assert vector_flops(fields, 8, None) is None


def test_the_base_clock_is_taken_and_no_boost(tmp_path: Path) -> None:
    assert base_clock(XEON, tmp_path) == 2.3e9  # a virtual machine: no governor, a fixed clock
    assert base_clock({}, tmp_path) is None
    cpu = tmp_path / "sys/devices/system/cpu/cpu0"
    (cpu / "cpufreq").mkdir(parents=True)
    assert base_clock(XEON, tmp_path) is None
    (cpu / "acpi_cppc").mkdir()
    (cpu / "acpi_cppc/nominal_freq").write_text("3300\n")
    assert base_clock(EPYC5, tmp_path) == 3.3e9
    (cpu / "cpufreq/base_frequency").write_text("2000000\n")
    assert base_clock(XEON, tmp_path) == 2e9
    (cpu / "cpufreq/base_frequency").write_text("unknown\n")
    assert base_clock(XEON, tmp_path) == 3.3e9


def test_numa_nodes_are_counted(tmp_path: Path) -> None:
    assert numa_nodes(tmp_path) is None
    folder = tmp_path / "sys/devices/system/node"
    for name in ("node0", "node1", "node10", "power"):
        (folder / name).mkdir(parents=True)
    (folder / "online").write_text("0-2")
    assert numa_nodes(tmp_path) == 3


def test_no_cpuinfo_is_no_fields(tmp_path: Path) -> None:
    assert read_cpuinfo(tmp_path) == {}


ULTRA: apple.Values = {
    "machdep.cpu.brand_string": "Apple M2 Ultra",
    "hw.memsize": 192 * GIB,
    "hw.physicalcpu": 24,
    "iogpu.wired_limit_mb": 0,
    "hw.optional.neon": 1,
    "hw.optional.arm.FEAT_DotProd": 1,
    "hw.optional.arm.FEAT_SME": 0,
}


def test_apple_silicon_shares_its_memory_up_to_a_limit() -> None:
    metal = apple.metal_device(ULTRA, 76, 150 * GIB)
    assert metal is not None
    assert (metal.key, metal.unified, metal.memory_bytes, metal.free_bytes) == ("metal", True, 144 * GIB, 144 * GIB)
    assert metal.bandwidth_bytes_per_s == 800e9
    assert metal.flops == pytest.approx(27.2e12, rel=0.01)  # what is commonly quoted for it
    assert metal.name == "Apple M2 Ultra, 76-core GPU"
    assert apple.instructions(ULTRA) == ("neon", "dotprod")


@pytest.mark.parametrize(
    ("memory", "wired", "limit"),
    [
        (16, 0, 16 * GIB * 2 // 3),
        (36, 0, 27 * GIB),
        (512, 0, 384 * GIB),
        (192, 184_320, 180 * GIB),
        (64, 99_999, 64 * GIB),
    ],
)
def test_the_working_set_limit(memory: int, wired: int, limit: int) -> None:
    assert apple.working_set_limit({"hw.memsize": memory * GIB, "iogpu.wired_limit_mb": wired}) == limit


def test_a_chip_of_two_widths_is_told_by_its_cores() -> None:
    def bandwidth(chip: str, cores: int) -> float | None:
        return apple.memory_bandwidth({"machdep.cpu.brand_string": chip, "hw.physicalcpu": cores})

    assert bandwidth("Apple M4 Max", 14) == 410e9
    assert bandwidth("Apple M4 Max", 16) == 546e9
    assert bandwidth("Apple M4 Max", 12) is None
    assert bandwidth("Apple M9 Ultra", 64) is None


def test_an_unknown_chip_has_a_limit_and_no_guesses() -> None:
    metal = apple.metal_device({"machdep.cpu.brand_string": "Apple M9", "hw.memsize": 64 * GIB}, None, None)
    assert metal is not None
    assert (metal.memory_bytes, metal.bandwidth_bytes_per_s, metal.flops) == (48 * GIB, None, None)
    assert apple.metal_device({"machdep.cpu.brand_string": "Apple M9"}, 10, 1) is None
    assert apple.metal_device({"machdep.cpu.brand_string": "Intel", "hw.memsize": GIB}, 10, 1) is None


def test_gpu_cores_are_read_from_the_registry() -> None:
    registry = '+-o AGXAcceleratorG14X  <class AGXAcceleratorG14X>\n    {\n      "gpu-core-count" = 76\n    }\n'
    assert apple.gpu_cores(registry) == 76
    assert apple.gpu_cores("") is None


def test_an_intel_macs_features_are_read() -> None:
    values = {"machdep.cpu.features": "SSE4.2 AVX1.0 FMA F16C", "machdep.cpu.leaf7_features": "AVX2 BMI1"}
    assert apple.instructions(values) == ("avx", "avx2", "fma", "f16c")


@pytest.mark.skipif(platform.system() != "Linux", reason="a system without sysctlbyname")
def test_another_system_has_nothing_to_say() -> None:
    assert apple.read_sysctl() == {}
    assert apple.read_gpu_cores() is None
