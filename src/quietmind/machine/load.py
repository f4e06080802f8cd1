"""Machines described in TOML: the catalogue that comes with the program, and files that a person writes.

The schema. A key that is not listed is refused by name, and so is one that is missing. Sizes are ``"96 GiB"``,
``"128 GB"`` or whole bytes; bandwidths ``"1792 GB/s"``; operations ``"503.8 TFLOPS"``.

    name      text      how the plan calls the machine; left out: the file's name
    source    text      where the numbers are from; the catalogue always says
    [host]
      system          text, required    "Linux x86_64", "Darwin arm64"
      physical_cores, logical_cores, usable_cores, numa_nodes    whole numbers
      instructions    list of texts     "avx2", "avx512f", "amx_int8", "neon"
    [[device]]        one of kind "cpu" (its memory is the RAM), then the accelerators in order
      kind            "cpu", "cuda", "metal" or "rocm", required
      name            text, required
      memory          size, required    what the driver reports; of unified memory, the working-set limit
      free            size              left out: not known
      bandwidth       bandwidth         theoretical peak of its memory
      flops           rate              dense half precision, no sparsity; of a cpu, its f32 vector peak
      unified         true, false       its memory is part of the host's own
      count           whole number      so many of them, alike
    [[link]]          one direction of a connection
      source, target  text, required    "cpu", "metal", "cuda0", "rocm1"; "cuda*" stands for each of them
      bandwidth       bandwidth, required
    [disk]            the disk that holds the models
      path            text, required
      free            size
      read            bandwidth         large sequential reads
      assumed         true, false       a usual disk stands in for one that nobody named

What is not known is left out, and stays unknown.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from quietmind.base.errors import UsageError
from quietmind.base.paths import expanded, shown_path
from quietmind.machine.machine import Device, DeviceKind, Disk, Host, Link, Machine
from quietmind.machine.quantities import read_bandwidth, read_bytes, read_flops

CATALOGUE = Path(__file__).parent / "catalogue"

_Reader = Callable[[object], Any]
_LARGEST_FILE = 1 << 20  # bytes; a description of a machine is a page
_MOST_DEVICES = 256  # of one kind; the largest single machines have 72
_MOST_CORES = 1 << 16


def catalogue_names() -> tuple[str, ...]:
    """Return the names of the machines that come with the program, sorted."""
    return tuple(sorted(file.stem for file in CATALOGUE.glob("*.toml")))


def load_machine(name: str) -> Machine:
    """Return the machine of the catalogue called ``name``, or the one that the TOML file ``name`` describes.

    Raises UsageError for a name that is neither, with the nearest names, and for a file that cannot be read or that
    breaks the schema, with the key.
    """
    known = catalogue_names()
    if name in known:
        return read_machine(CATALOGUE / f"{name}.toml")
    if name.endswith(".toml") or os.path.isfile(name):  # noqa: PTH113 - a Path raises for names that cannot be looked at
        return read_machine(expanded(name))
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(near)}" if near else f"known are {', '.join(known)}"
    shown = shown_path(name) if name.strip() else "an empty name"
    raise UsageError(f"{shown}: no machine of this name and no file; {hint}")


def read_machine(file: Path) -> Machine:
    """Return the machine that ``file`` describes. Raises UsageError, with the key that is wrong."""
    return parse_machine(_toml(file), shown_path(file), file.stem)


def parse_machine(given: Mapping[str, object], where: str, default_name: str) -> Machine:
    """Return the machine that TOML tables describe. ``where`` opens every error. Raises UsageError."""
    top = _table(where, given, _TOP, required=("host", "device"))
    host = _table(f"{where}: [host]", top["host"], _HOST, required=("system",))
    devices = _devices(where, top["device"])
    _check_memory(where, devices)
    cpu = next(device for device in devices if device.kind == "cpu")
    links = tuple(link for table in top.get("link", ()) for link in _links(f"{where}: [[link]]", table, devices))
    disk = None
    if "disk" in top:
        on = _table(f"{where}: [disk]", top["disk"], _DISK, required=("path",))
        disk = Disk(on["path"], on.get("free"), on.get("read"), on.get("assumed", False))
    name, source = top.get("name", default_name), top.get("source", "")
    return Machine(name, devices, links, Host(cpu=cpu.name, **host), disk, source)


def _toml(file: Path) -> dict[str, object]:
    shown = shown_path(file)
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise UsageError(f"{shown}: larger than 1 MiB, which no description of a machine is; name another file")
        return tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{shown}: cannot be read: {error.strerror}; name a TOML file that exists") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{shown}: not valid TOML: {error}; see docs/machines.md for an example") from error


def _table(where: str, given: object, schema: Mapping[str, _Reader], required: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of one table, each read as ``schema`` says."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: must be a table, not {given!r}")
    unknown = [str(key) for key in given if key not in schema]
    if unknown:
        raise UsageError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(schema)}")
    missing = [key for key in required if key not in given]
    if missing:
        raise UsageError(f"{where}: missing {', '.join(map(repr, missing))}; see docs/machines.md for an example")
    values = {}
    for key, value in given.items():
        try:
            values[key] = schema[key](value)
        except ValueError as error:
            raise UsageError(f"{where}: {key}: {error}") from error
    return values


def _devices(where: str, tables: list[object]) -> tuple[Device, ...]:
    """Return the devices with their keys: ``cpu``, ``metal``, and the others numbered within their kind."""
    devices: list[Device] = []
    counts: dict[DeviceKind, int] = {}
    for number, given in enumerate(tables, start=1):
        place = f"{where}: [[device]] {number}"
        table = _table(place, given, _DEVICE, required=("kind", "name", "memory"))
        kind: DeviceKind = table["kind"]
        alike = table.get("count", 1)
        first = counts.get(kind, 0)
        counts[kind] = first + alike
        if kind in ("cpu", "metal") and counts[kind] > 1:
            raise UsageError(f"{where}: [[device]]: {counts[kind]} of kind {kind!r}; a machine has at most one")
        if counts[kind] > _MOST_DEVICES:
            raise UsageError(f"{place}: count: {counts[kind]:,} of kind {kind!r}; no machine has so many")
        devices += [
            Device(
                kind=kind,
                name=table["name"],
                memory_bytes=table["memory"],
                free_bytes=table.get("free"),
                bandwidth_bytes_per_s=table.get("bandwidth"),
                flops=table.get("flops"),
                key=kind if kind in ("cpu", "metal") else f"{kind}{index}",
                unified=table.get("unified", False),
            )
            for index in range(first, first + alike)
        ]
    if "cpu" not in counts:
        raise UsageError(f"{where}: [[device]]: none of kind 'cpu'; describe the host and its RAM as one")
    return tuple(devices)


def _check_memory(where: str, devices: tuple[Device, ...]) -> None:
    """Refuse memory that contradicts itself."""
    ram = next(device.memory_bytes for device in devices if device.kind == "cpu") or 0
    for device in devices:
        place, memory = f"{where}: [[device]] {device.key}", device.memory_bytes or 0
        if memory == 0:
            raise UsageError(f"{place}: memory: a device without memory holds no model; leave the device out")
        if device.free_bytes is not None and device.free_bytes > memory:
            raise UsageError(f"{place}: free: {device.free_bytes:,} bytes are more than its memory of {memory:,}")
        if device.unified and (device.kind == "cpu" or memory > ram):
            raise UsageError(f"{place}: unified: its memory must be a part of the cpu's {ram:,} bytes")


def _links(where: str, given: object, devices: tuple[Device, ...]) -> list[Link]:
    """Return one link for each pair that the table's patterns name, each pair once."""
    table = _table(where, given, _LINK, required=("source", "target", "bandwidth"))
    ends = []
    for key in ("source", "target"):
        pattern = table[key]
        found = [
            device.key
            for device in devices
            if device.key == pattern or (pattern.endswith("*") and device.kind == pattern[:-1])
        ]
        if not found:
            keys = ", ".join(device.key for device in devices[:9])
            raise UsageError(f"{where}: {key}: no device {pattern!r}; there are {keys}")
        ends.append(found)
    pairs: dict[frozenset[str], Link] = {}
    for source in ends[0]:
        for target in ends[1]:
            if source != target:
                pairs.setdefault(frozenset((source, target)), Link(source, target, table["bandwidth"]))
    return list(pairs.values())


def _text(given: object) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"must be text, not {given!r}")
    return given


def _whole(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= _MOST_CORES:
        raise ValueError(f"must be a whole number from 1 to {_MOST_CORES:,}, not {given!r}")
    return given


def _truth(given: object) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"must be true or false, not {given!r}")
    return given


def _kind(given: object) -> DeviceKind:
    if given not in get_args(DeviceKind):
        raise ValueError(f"must be one of {', '.join(get_args(DeviceKind))}, not {given!r}")
    return cast(DeviceKind, given)


def _list(given: object) -> list[object]:
    if not isinstance(given, list):
        raise ValueError("must be written with double brackets, as [[device]] and [[link]] are")
    return given


def _texts(given: object) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise ValueError(f"must be a list of texts, not {given!r}")
    return tuple(_text(item) for item in given)


def _as_is(given: object) -> object:
    return given


_TOP: dict[str, _Reader] = {
    "name": _text,
    "source": _text,
    "host": _as_is,
    "device": _list,
    "link": _list,
    "disk": _as_is,
}
_HOST: dict[str, _Reader] = {
    "system": _text,
    "physical_cores": _whole,
    "logical_cores": _whole,
    "usable_cores": _whole,
    "numa_nodes": _whole,
    "instructions": _texts,
}
_DEVICE: dict[str, _Reader] = {
    "kind": _kind,
    "name": _text,
    "memory": read_bytes,
    "free": read_bytes,
    "bandwidth": read_bandwidth,
    "flops": read_flops,
    "unified": _truth,
    "count": _whole,
}
_LINK: dict[str, _Reader] = {"source": _text, "target": _text, "bandwidth": read_bandwidth}
_DISK: dict[str, _Reader] = {"path": _text, "free": read_bytes, "read": read_bandwidth, "assumed": _truth}
