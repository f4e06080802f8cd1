"""Measurements are kept for the machine they were taken on, and a damaged file costs nothing but them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.base.errors import UsageError
from quietmind.machine.machine import Device, Disk, Host, Link, Machine
from quietmind.machine.remember import Measured, fingerprint, merged, remember, remembered

GIB = 1 << 30


def machine(folder: Path, ram: int = 128 * GIB) -> Machine:
    return Machine(
        "here",
        (
            Device("cpu", "Some CPU", ram, ram // 2, 89.6e9),
            Device("cuda", "Some GPU", 24 * GIB, 23 * GIB, 1008e9, key="cuda0"),
            Device("metal", "Shares", ram // 2, None, 89.6e9, key="metal", unified=True),
        ),
        (Link("cpu", "cuda0", 31.5e9),),
        Host("Linux x86_64", "Some CPU", 16, 32, 16, 1),
        Disk(str(folder / "models"), 10 * GIB),
    )


TAKEN = Measured(70e9, 5e9, (Link("cpu", "cuda0", 25e9, measured=True),))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "machines.json"


def test_what_was_measured_is_found_again_and_marked(tmp_path: Path, file: Path) -> None:
    here = machine(tmp_path)
    remember(here, TAKEN, file)
    found = remembered(here, file)
    assert found == merged(here, TAKEN)
    assert (found.cpu.bandwidth_bytes_per_s, found.cpu.measured) == (70e9, True)
    assert found.links == (Link("cpu", "cuda0", 25e9, measured=True),)
    assert found.disk is not None
    assert found.disk.read_bytes_per_s == 5e9
    assert found.accelerators == here.accelerators  # what the cores of the processor reach says nothing of them


def test_without_measurements_datasheets_stand(tmp_path: Path, file: Path) -> None:
    here = machine(tmp_path)
    assert remembered(here, file) == here


def test_another_machine_knows_nothing_of_it(tmp_path: Path, file: Path) -> None:
    here = machine(tmp_path)
    remember(here, TAKEN, file)
    for other in (
        machine(tmp_path, ram=256 * GIB),
        replace(here, devices=here.devices[:1]),
        replace(here, host=replace(here.host, usable_cores=4)),
    ):
        assert fingerprint(other) != fingerprint(here)
        assert remembered(other, file) == other


def test_a_new_name_and_what_is_free_now_make_no_other_machine(tmp_path: Path) -> None:
    here = machine(tmp_path)
    busy = replace(here.cpu, free_bytes=1, memory_bytes=128 * GIB - (50 << 20), bandwidth_bytes_per_s=None)
    assert fingerprint(replace(here, name="4f2a9c", devices=(busy, *here.accelerators))) == fingerprint(here)


def test_what_was_not_measured_this_time_stays(tmp_path: Path, file: Path) -> None:
    here, other = machine(tmp_path), machine(tmp_path, ram=64 * GIB)
    remember(here, TAKEN, file)
    remember(other, Measured(ram_bytes_per_s=40e9), file)
    remember(here, Measured(ram_bytes_per_s=80e9), file)
    found = remembered(here, file)
    assert found.cpu.bandwidth_bytes_per_s == 80e9
    assert found.links[0].bandwidth_bytes_per_s == 25e9
    assert remembered(other, file).cpu.bandwidth_bytes_per_s == 40e9


def test_a_measurement_on_a_busy_machine_replaces_no_better_one(tmp_path: Path, file: Path) -> None:
    here = machine(tmp_path)
    for rate, share, kept in ((30e9, 0.2, 30e9), (70e9, 0.5, 70e9), (40e9, 0.5, 70e9), (60e9, 1.0, 60e9)):
        remember(here, Measured(rate, rate / 10, cpu_share=share), file)
        found = remembered(here, file)
        assert found.cpu.bandwidth_bytes_per_s == kept
        assert found.disk is not None
        assert found.disk.read_bytes_per_s == kept / 10


def test_a_disk_is_known_by_its_mount_so_that_the_folder_may_come_later(tmp_path: Path, file: Path) -> None:
    here = machine(tmp_path)
    remember(here, TAKEN, file)
    elsewhere = replace(here, disk=Disk(str(tmp_path / "models" / "not" / "yet")))
    found = remembered(elsewhere, file)
    assert found.disk is not None
    assert found.disk.read_bytes_per_s == 5e9


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"3", b'{"version": 2, "machines": {}}', b'{"version": 1}', b"[" * 100_000,
     b'{"version": 1, "machines": {"x": 3}}'],
)  # fmt: skip
def test_a_damaged_file_is_ignored_with_a_line_and_written_anew(
    tmp_path: Path, file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    here = machine(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert remembered(here, file) == here
    (record,) = caplog.records
    assert "machines.json" in record.getMessage()
    assert "\n" not in record.getMessage()
    remember(here, TAKEN, file)
    assert remembered(here, file) == merged(here, TAKEN)


@pytest.mark.parametrize("nonsense", ["fast", -1, 0, True, None, [], {"a": 1}, float("inf")])
def test_an_entry_that_is_no_number_is_no_measurement(tmp_path: Path, file: Path, nonsense: object) -> None:
    here = machine(tmp_path)
    entry = {"ram_bytes_per_s": nonsense, "disks_bytes_per_s": nonsense, "links_bytes_per_s": {"cuda0": nonsense}}
    file.parent.mkdir()
    file.write_text(json.dumps({"version": 1, "machines": {fingerprint(here): entry}}))
    assert remembered(here, file) == here


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder would be")
    with pytest.raises(UsageError, match="cannot be written"):
        remember(machine(tmp_path), TAKEN, tmp_path / "data" / "machines.json")


def test_a_file_that_cannot_be_read_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = machine(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert remembered(here, tmp_path) == here
    assert "cannot be read" in caplog.text
