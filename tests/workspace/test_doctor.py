"""Every check of `quietmind doctor`, with computers that are not this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.machine.cgroup import CgroupLimits
from quietmind.machine.machine import Device, DeviceKind, Host, Machine
from quietmind.model.locate import Installed
from quietmind.workspace.doctor import engines, examine, files, host, models, system
from quietmind.workspace.doctor.engines import Engine
from quietmind.workspace.doctor.finding import Finding
from quietmind.workspace.running import hold
from quietmind.workspace.workspace import Workspace

GIB = 1 << 30


def machine(*accelerators: Device, instructions: tuple[str, ...] = (), usable: int = 8) -> Machine:
    cpu = Device("cpu", "Xeon", memory_bytes=64 * GIB, free_bytes=60 * GIB)
    described = Host("Linux x86_64", "Xeon", physical_cores=8, usable_cores=usable, instructions=instructions)
    return Machine("a computer", (cpu, *accelerators), (), described)


def gpu(kind: DeviceKind = "cuda", free: int | None = 24 * GIB) -> Device:
    return Device(kind, f"a {kind} card", memory_bytes=24 * GIB, free_bytes=free, key=f"{kind}0")


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def faulty(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level != "fine"]


def test_the_real_computer_is_examined_and_every_fault_has_its_fix(tmp_path: Path) -> None:
    findings = examine(tmp_path, "tiny")
    assert {finding.subject for finding in findings} >= {"llama.cpp", "vllm", "memory", "sealing", "workspace"}
    for finding in findings:
        assert finding.text
        assert "\n" not in finding.text + (finding.fix or "")
        assert finding.fix or finding.level == "fine", finding


def test_an_engine_that_is_not_here_says_how_to_get_it_and_none_at_all_hinders() -> None:
    here, missing = Engine("llama.cpp", "xllamacpp 2026.10"), Engine("vllm", None, "pip install vllm")
    assert [finding.level for finding in engines.present([here, missing])] == ["fine", "fine"]
    assert engines.present([missing])[0].fix == "pip install vllm"
    assert engines.present([missing])[-1].level == "hinders"


README = """
    pip install xllamacpp --force-reinstall --index-url https://wheels.example/whl/cu132
    pip install xllamacpp --force-reinstall --index-url https://wheels.example/whl/cu128
    pip install xllamacpp --force-reinstall --index-url https://wheels.example/whl/rocm-7.2.4
"""


@pytest.mark.parametrize(("kind", "wheel"), [("cuda", "cu132"), ("rocm", "rocm-7.2.4")])
def test_a_build_for_the_processor_beside_a_gpu_names_the_wheel_for_it(kind: DeviceKind, wheel: str) -> None:
    built = Engine("llama.cpp", "1", devices=("CPU",))
    found = only(engines.uses_accelerators(built, machine(gpu(kind), gpu(kind)), README))
    assert found.level == "better"
    assert str(found.fix).endswith(f"whl/{wheel}")
    assert "llama-server" in str(only(engines.uses_accelerators(built, machine(gpu(kind)))).fix)


@pytest.mark.parametrize(
    ("kind", "device"),
    [("cuda", "CUDA0"), ("rocm", "ROCm1"), ("metal", "MTL0"), ("metal", "Metal"), ("cuda", "Vulkan0")],
)
def test_a_build_that_sees_the_gpu_is_fine(kind: DeviceKind, device: str) -> None:
    assert engines.uses_accelerators(Engine("llama-server", "1", devices=("CPU", device)), machine(gpu(kind))) == []


def test_what_an_engine_does_not_tell_is_not_held_against_it() -> None:
    assert engines.uses_accelerators(Engine("llama-server", "1"), machine(gpu())) == []
    assert engines.uses_accelerators(Engine("vllm", "1", devices=()), machine(gpu())) == []
    assert engines.uses_instructions(Engine("llama.cpp", "1"), machine(instructions=("avx2",))) == []


def test_instruction_sets_that_a_build_lacks_are_named() -> None:
    built = Engine("llama.cpp", "1", instructions=frozenset({"AVX2", "FMA"}))
    assert engines.uses_instructions(built, machine(instructions=("avx2", "fma"))) == []
    found = only(engines.uses_instructions(built, machine(instructions=("avx2", "avx512f", "amx_int8"))))
    assert "avx512f amx_int8" in found.text
    assert "avx2" not in found.text


def test_the_words_of_engines_are_read() -> None:
    assert engines.account_read('noise\n[["CPU", "CUDA0"], "CPU : AVX2 = 1 | AVX512 = 0 | FMA = 1"]\n') == (
        ("CPU", "CUDA0"),
        frozenset({"AVX2", "FMA"}),
    )
    for nonsense in ("", "Traceback", "[1]", "null"):
        assert engines.account_read(nonsense) == (None, None)
    listed = "load\nAvailable devices:\n  CUDA0: NVIDIA RTX (97887 MiB, 97000 MiB free)\n  CUDA1: NVIDIA RTX (1 MiB)\n"
    assert engines.devices_listed(listed) == ("CUDA0", "CUDA1")
    assert engines.devices_listed("Available devices:\n  (none)\n") == ()
    assert engines.devices_listed("error: invalid argument: --list-devices") is None


def test_a_command_without_its_package_is_told() -> None:
    assert engines.extras({"uvicorn": "0.54"}) == []
    assert only(engines.extras({"uvicorn": None})).fix == "pip install 'quietmind[serve]'"


def test_a_memory_limit_below_the_ram_is_told() -> None:
    assert faulty(host.memory(machine(), CgroupLimits(), 64 * GIB)) == []
    found = only(faulty(host.memory(machine(), CgroupLimits(memory_bytes=16 * GIB), 64 * GIB)))
    assert "16.00 GiB of 64.00 GiB" in found.text


def test_memory_that_other_programs_hold_is_told() -> None:
    busy = machine(gpu(free=4 * GIB))
    busy = replace(busy, devices=(replace(busy.cpu, free_bytes=10 * GIB), *busy.accelerators))
    assert "54.00 GiB" in only(faulty(host.memory(busy, CgroupLimits(), 64 * GIB))).text
    found = only(faulty(host.accelerators(busy)))
    assert "20.00 GiB" in found.text
    assert "nvidia-smi" in str(found.fix)
    assert faulty(host.accelerators(machine(gpu(), gpu(free=None)))) == []


def test_cores_that_may_not_be_used_and_too_many_threads_are_told() -> None:
    assert faulty(host.cores(machine(), CgroupLimits(), 8)) == []
    quota = only(faulty(host.cores(machine(usable=2), CgroupLimits(cores=2.0), None)))
    assert "--cpus" in str(quota.fix)
    assert "taskset" in str(only(faulty(host.cores(machine(usable=2), CgroupLimits(), None))).fix)
    assert "threads = 8" in str(only(faulty(host.cores(machine(), CgroupLimits(), 9))).fix)


def write(root: Path, **lines: str) -> Path:
    for name, line in lines.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line + "\n", encoding="ascii")
    return root


def test_numa_balancing_matters_with_several_nodes(tmp_path: Path) -> None:
    write(tmp_path, proc__sys__kernel__numa_balancing="1")
    assert host.kernel(1, tmp_path) == []
    assert "numa_balancing" in str(only(host.kernel(2, tmp_path)).fix)
    write(tmp_path, proc__sys__kernel__numa_balancing="0")
    assert host.kernel(2, tmp_path) == []


@pytest.mark.parametrize(("modes", "told"), [("always madvise [never]", 1), ("always [madvise] never", 0)])
def test_huge_pages_that_are_off_are_told(tmp_path: Path, modes: str, told: int) -> None:
    write(tmp_path, sys__kernel__mm__transparent_hugepage__enabled=modes)
    assert len(host.kernel(1, tmp_path)) == told


@pytest.mark.parametrize(
    ("governor", "driver", "preference", "told"),
    [
        ("powersave", "acpi-cpufreq", None, 1),
        ("powersave", "intel_pstate", "balance_performance", 0),
        ("powersave", "amd-pstate-epp", "power", 1),
        ("performance", "acpi-cpufreq", None, 0),
        ("schedutil", "acpi-cpufreq", None, 0),
    ],
)
def test_a_clock_that_is_held_down_is_told(
    tmp_path: Path, governor: str, driver: str, preference: str | None, told: int
) -> None:
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    write(folder, scaling_governor=governor, scaling_driver=driver)
    if preference is not None:
        write(folder, energy_performance_preference=preference)
    assert len(host.kernel(1, tmp_path)) == told


def test_another_system_than_linux_has_nothing_to_read(tmp_path: Path) -> None:
    assert host.kernel(None, tmp_path) == []


def test_swapping_is_told() -> None:
    assert host.swap(0) == []
    assert "3.00 GiB" in only(host.swap(3 * GIB)).text


def test_limits_that_end_a_model_hinder() -> None:
    free: dict[str, int | None] = {"v": None, "d": None, "n": 1024, "l": None}
    assert host.process_limits(free) == []
    assert host.process_limits({}) == []
    found = only(host.process_limits(free | {"v": 8 * GIB}))
    assert (found.level, found.fix) == ("hinders", "ulimit -v unlimited")
    assert only(host.process_limits(free | {"n": 64})).level == "hinders"
    assert only(host.process_limits(free | {"l": 8 << 20})).level == "fine"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    assert only(files.space("models", tmp_path, 20 * GIB, GIB, "free some")).level == "fine"
    assert only(files.space("models", tmp_path, GIB - 1, GIB, "free some")).fix == "free some"
    assert files.space("models", tmp_path, None, GIB, "free some") == []
    assert files.disk_space(tmp_path / "none" / "yet", tmp_path)


def test_a_workspace_that_others_may_look_into_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "work space"
    folder.mkdir(mode=0o700)
    assert files.private(folder, []) == []
    folder.chmod(0o755)
    # Here every folder above lets others pass, or one does not; both are decided by what is above.
    above = all(each.stat().st_mode & 0o001 for each in folder.parents)
    assert files.reachable(folder) == above
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    assert not files.reachable(closed / "inner")
    assert not files.reachable(tmp_path / "none")


def test_an_open_key_hinders_with_the_command(tmp_path: Path) -> None:
    key = tmp_path / "the key"
    key.write_text("k", encoding="ascii")
    key.chmod(0o600)
    assert files.private(tmp_path / "none", [key]) == []
    key.chmod(0o640)
    found = only(files.private(tmp_path / "none", [key]))
    assert (found.level, found.fix) == ("hinders", f"chmod 600 '{key}'")
    with hold(tmp_path, (), key):
        assert files.key_files(tmp_path) == [key]
    assert files.key_files(tmp_path) == []


def test_a_workspace_that_does_not_open_hinders(tmp_path: Path) -> None:
    assert only(files.opens(tmp_path)).fix == "quietmind index FOLDER"
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# A", encoding="utf-8")
    with Workspace(tmp_path / "good", create=True) as workspace:
        workspace.index(notes)
    assert only(files.opens(tmp_path / "good")).level == "fine"
    notes.rename(tmp_path / "elsewhere")
    assert "--forget" in str(files.opens(tmp_path / "good")[1].fix)
    (tmp_path / "archive.db").write_bytes(b"this is no database" * 100)
    assert only(files.opens(tmp_path)).level == "hinders"


def test_why_sealing_does_not_work_is_told() -> None:
    assert only(system.sealing(None)).level == "fine"
    assert only(system.sealing("only Linux has network namespaces")).level == "fine"
    found = only(system.sealing("the kernel refuses them (EPERM)"))
    assert "EPERM" in found.text
    assert "sysctl" in str(found.fix)


def test_a_clock_of_the_past_hinders() -> None:
    assert "1970-01-01" in only(system.clock(5.0)).text
    assert system.clock(2_000_000_000.0) == []


def test_encodings_that_cannot_be_russian_are_told() -> None:
    assert system.encodings("utf-8", "UTF-8") == []
    assert system.encodings("utf-8", None) == []
    assert only(system.encodings("ascii", "utf-8")).level == "hinders"
    assert only(system.encodings("utf-8", "latin-1")).level == "better"


def test_a_temporary_folder_that_takes_nothing_hinders(tmp_path: Path) -> None:
    assert system.temporary_folder(str(tmp_path)) == []
    assert "TMPDIR" in str(only(system.temporary_folder(str(tmp_path / "none"))).fix)


def test_models_are_counted_by_where_they_are_and_none_hinders(tmp_path: Path) -> None:
    there = [Installed("a", tmp_path / "a.gguf", "Ollama", GIB), Installed("b", tmp_path / "b.gguf", "Ollama", GIB)]
    assert only(models.listed(there)).text == "2 in Ollama; 2.00 GiB"
    assert only(models.listed([])).fix == "quietmind pull tiny"


def test_damaged_models_are_told_by_name(tmp_path: Path) -> None:
    file = tmp_path / "broken model.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
    found = only(models.damaged(Installed("broken", file, "folder", 24)))
    assert "damaged" in found.text
    assert found.fix == f"rm '{file}', and fetch it again"
    assert only(models.damaged(Installed("broken:7b", file, "Ollama", 24))).fix == "ollama pull broken:7b"
    assert only(models.damaged(Installed("gone", tmp_path / "gone.gguf", "folder", 24))).level == "better"


def test_a_default_model_that_is_not_here_hinders() -> None:
    assert only(models.default("no-such-model")).fix == "quietmind pull no-such-model"
