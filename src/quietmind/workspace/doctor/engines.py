"""Which engines are here, in which version, and whether they use the processor and the accelerators that are."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from quietmind.base.errors import EngineError
from quietmind.engine.installed import find
from quietmind.machine.machine import Machine
from quietmind.plan.engines import ENGINES
from quietmind.workspace.doctor.finding import Finding, better, fine, hinders

# Engines on a processor alone; the others are for accelerators.
_LLAMA = ("llama.cpp", "llama-server")
_ASK_SECONDS = 60.0

# What ggml calls the devices of its backends, for each kind of accelerator: CUDA0, ROCm0, Metal (MTL0 of late).
_BACKENDS = {"cuda": ("CUDA", "VULKAN"), "rocm": ("ROCM", "HIP", "VULKAN"), "metal": ("METAL", "MTL")}
# In the names of wheels for an accelerator, after /whl/.
_WHEELS = {"cuda": "cu", "rocm": "rocm"}
# Sets that speed up the arithmetic of quantized weights, and what ggml calls them in its account of itself.
_SETS = {
    "avx2": "AVX2",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    "dotprod": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}
_INSTRUCTIONS_FIX = (
    "build llama.cpp on this machine (`cmake -B build -DGGML_NATIVE=ON && cmake --build build`) and use it with "
    "--engine llama-server"
)


@dataclass(frozen=True)
class Engine:
    """An engine that was looked for. ``version`` None: it is not here, and ``missing`` says how to install it.

    ``devices`` are the accelerators that it sees, ``instructions`` the sets that it was built with, both in its own
    words; None where it does not say.
    """

    key: str
    version: str | None
    missing: str = ""
    devices: tuple[str, ...] | None = None
    instructions: frozenset[str] | None = None


def check(machine: Machine) -> list[Finding]:
    """Look for every engine, and at how it fits ``machine``."""
    found = [_look(key) for key in ENGINES if key != "endpoint"]
    readme = _readme("xllamacpp")
    return [
        *present(found),
        *(finding for engine in found for finding in uses_accelerators(engine, machine, readme)),
        *(finding for engine in found for finding in uses_instructions(engine, machine)),
        *extras({name: _version(name) for name in _EXTRAS}),
    ]


def present(found: Sequence[Engine]) -> list[Finding]:
    """Say what is installed; without any engine nothing can be asked."""
    findings = [
        fine(engine.key, engine.version)
        if engine.version is not None
        else fine(engine.key, "not installed", engine.missing)
        for engine in found
    ]
    if all(engine.version is None for engine in found):
        findings.append(
            hinders("engines", "none is installed, so no model can run", "pip install 'quietmind[llamacpp]'")
        )
    return findings


def uses_accelerators(engine: Engine, machine: Machine, readme: str = "") -> list[Finding]:
    """Say where llama.cpp was built without a backend for an accelerator that this machine has.

    ``readme`` is what its package says of itself, where the command for another wheel stands.
    """
    if engine.key not in _LLAMA or engine.devices is None:
        return []
    findings = []
    for kind in dict.fromkeys(device.kind for device in machine.accelerators):
        if any(name.upper().startswith(_BACKENDS[kind]) for name in engine.devices):
            continue
        names = ", ".join(sorted({device.name for device in machine.accelerators if device.kind == kind}))
        fix = f"install a llama.cpp that is built for {kind.upper()}"
        if engine.key == "llama.cpp":
            fix = _wheel(readme, kind) or f"{fix} and use it with --engine llama-server"
        findings.append(better(engine.key, f"computes on the processor alone, beside {names}", fix))
    return findings


def uses_instructions(engine: Engine, machine: Machine) -> list[Finding]:
    """Say which instruction sets of the processor the engine was built without."""
    if engine.instructions is None:
        return []
    unused = [usual for usual, own in _SETS.items() if usual in machine.host.instructions]
    unused = [usual for usual in unused if _SETS[usual] not in engine.instructions]
    if not unused:
        return []
    return [better(engine.key, f"was built without {' '.join(unused)}, which this processor has", _INSTRUCTIONS_FIX)]


_EXTRAS = {
    "uvicorn": ("quietmind up", "pip install 'quietmind[serve]'"),
    "huggingface_hub": ("quietmind pull", "pip install 'quietmind[hub]'"),
}


def extras(versions: Mapping[str, str | None]) -> list[Finding]:
    """Say which commands lack the package that they take."""
    return [
        better(package, f"not installed, and `{_EXTRAS[package][0]}` takes it", _EXTRAS[package][1])
        for package, version in versions.items()
        if version is None
    ]


def _look(key: str) -> Engine:
    try:
        installed = find(key)
    except EngineError as error:
        return Engine(key, None, str(error).rpartition("): ")[2] or str(error))
    if key == "llama.cpp":
        return Engine(key, f"xllamacpp {installed.version}", "", *_account_of_xllamacpp())
    devices = None
    if key == "llama-server":
        devices = devices_listed(_said([*installed.program, "--list-devices"]))
    return Engine(key, installed.version, "", devices)


def devices_listed(said: str) -> tuple[str, ...] | None:
    """Read what ``llama-server --list-devices`` prints; None where it knows no such option."""
    _, found, listed = said.partition("Available devices:")
    if not found:
        return None
    return tuple(re.findall(r"^\s+(\w+): ", listed, re.MULTILINE))


def account_read(said: str) -> tuple[tuple[str, ...] | None, frozenset[str] | None]:
    """Read devices and instruction sets from one line of JSON, ``[[DEVICE, ...], "CPU : AVX = 1 | ..."]``."""
    with suppress(ValueError, TypeError):
        devices, account = json.loads(said.strip().rpartition("\n")[2])
        return tuple(map(str, devices)), frozenset(re.findall(r"(\w+) = 1", account))
    return None, None


def _account_of_xllamacpp() -> tuple[tuple[str, ...] | None, frozenset[str] | None]:
    # In a process of its own: what goes wrong in it ends it.
    script = (
        "import json, xllamacpp as x; "
        "print(json.dumps([[each['name'] for each in x.get_device_info()], x.get_system_info()]))"
    )
    return account_read(_said([sys.executable, "-P", "-c", script]))


def _said(words: Iterable[str]) -> str:
    """Return what a program prints, "" where it cannot be run."""
    try:
        ran = subprocess.run(
            list(words), capture_output=True, check=False, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.decode("utf-8", "replace")


def _wheel(readme: str, kind: str) -> str | None:
    """Return the command that installs the newest wheel for ``kind``, as the package's own text gives it."""
    commands = re.findall(r"^\s*(pip install xllamacpp\b.*/whl/(\w+)\S*)\s*$", readme, re.MULTILINE)
    return next((command for command, name in commands if name.startswith(_WHEELS.get(kind, "?"))), None)


def _readme(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        said = importlib.metadata.metadata(package)
        return str(said.get("Description") or said.get_payload() or "")  # type: ignore[attr-defined, unused-ignore]
    return ""


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
