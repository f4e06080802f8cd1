"""Machine files: the schema of the documents holds, and everything that breaks it is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.machine import load
from quietmind.machine.load import load_machine, read_machine
from quietmind.machine.quantities import read_bandwidth, read_bytes, read_flops

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "machines.md"
GIB = 1 << 30

SMALL = """
[host]
system = "Linux x86_64"
[[device]]
kind = "cpu"
name = "Some CPU"
memory = "64 GiB"
"""
GPU = """
[[device]]
kind = "cuda"
name = "Some GPU"
memory = "24 GiB"
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as refused:
        read_machine(written(folder, text))
    message = str(refused.value)
    assert "mine.toml" in message
    assert "\n" not in message
    return message


def test_the_example_of_the_document_is_a_machine_and_shows_every_key(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    machine = read_machine(written(tmp_path, text))
    assert machine.name == "Workstation in the cellar"
    assert [device.key for device in machine.devices] == ["cpu", "cuda0", "cuda1"]
    assert machine.cpu.memory_bytes == 512 * GIB
    assert machine.cpu.bandwidth_bytes_per_s == 409.6e9
    link = machine.link("cuda1", "cpu")
    assert link is not None
    assert link.bandwidth_bytes_per_s == 63e9
    assert machine.disk is not None
    assert (machine.disk.free_bytes, machine.disk.read_bytes_per_s) == (2 * 10**12, 7e9)
    for schema in (load._TOP, load._HOST, load._DEVICE, load._LINK, load._DISK):
        assert [key for key in schema if not re.search(rf"\b{key}\b", text)] == []
        assert [key for key in schema if not re.search(rf"\b{key}\b", load.__doc__ or "")] == []


def test_what_a_file_leaves_out_is_unknown(tmp_path: Path) -> None:
    machine = read_machine(written(tmp_path, SMALL))
    assert machine.name == "mine"
    cpu = machine.cpu
    assert (cpu.free_bytes, cpu.bandwidth_bytes_per_s, cpu.flops) == (None, None, None)
    assert (machine.host.usable_cores, machine.disk, machine.links) == (None, None, ())
    assert machine.host.cpu == "Some CPU"


def test_a_path_is_a_machine_too(tmp_path: Path) -> None:
    assert load_machine(str(written(tmp_path, SMALL))).cpu.memory_bytes == 64 * GIB


def test_devices_are_numbered_within_their_kind(tmp_path: Path) -> None:
    other = GPU.replace("cuda", "rocm")
    machine = read_machine(written(tmp_path, SMALL + GPU + "count = 2\n" + other + GPU))
    assert [device.key for device in machine.devices] == ["cpu", "cuda0", "cuda1", "rocm0", "cuda2"]


def test_a_pattern_links_every_pair_once(tmp_path: Path) -> None:
    link = '\n[[link]]\nsource = "cuda*"\ntarget = "cuda*"\nbandwidth = "450 GB/s"\n'
    machine = read_machine(written(tmp_path, SMALL + GPU + "count = 3\n" + link))
    pairs = [{link.source, link.target} for link in machine.links]
    assert len(pairs) == 3
    assert all(pairs.count(pair) == 1 and len(pair) == 2 for pair in pairs)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1\n" + SMALL, "unknown key 'colour'"),
        (SMALL + "vram = 1\n", "[[device]] 1: unknown key 'vram'"),
        (SMALL.replace("system =", "os ="), "[host]: unknown key 'os'"),
        (SMALL.replace('system = "Linux x86_64"', ""), "[host]: missing 'system'"),
        (SMALL.replace('name = "Some CPU"', ""), "[[device]] 1: missing 'name'"),
        ("", "missing 'host', 'device'"),
        (SMALL.replace("[[device]]", "[device]"), "[[device]]"),
        ("host = 3\ndevice = []", "[host]: must be a table"),
        ("device = [3]\n[host]\nsystem = 'x'", "[[device]] 1: must be a table"),
        (SMALL.replace('"64 GiB"', '"-64 GiB"'), "memory: '-64 GiB' is negative"),
        (SMALL.replace('"64 GiB"', "-1"), "memory: -1 is negative"),
        (SMALL.replace('"64 GiB"', "true"), "memory: True is not a size"),
        (SMALL.replace('"64 GiB"', '"64 gigs"'), "memory: '64 gigs' is not a size"),
        (SMALL.replace('"64 GiB"', "inf"), "memory: inf is more than any machine has"),
        (SMALL.replace('"64 GiB"', "nan"), "memory: nan is more than any machine has"),
        (SMALL.replace('"64 GiB"', "0.5"), "memory: 0.5 is not a whole number of bytes"),
        (SMALL.replace('"64 GiB"', "0"), "cpu: memory: a device without memory"),
        (SMALL + 'free = "65 GiB"', "free: 69,793,218,560 bytes are more than"),
        (SMALL + 'bandwidth = "90 GiB"', "bandwidth: '90 GiB' is not a bandwidth"),
        (SMALL + "bandwidth = 0", "bandwidth: 0 is zero"),
        (SMALL + "flops = '3 GB/s'", "flops: '3 GB/s' is not a rate"),
        (SMALL.replace('"cpu"', '"tpu"'), "kind: must be one of cpu, cuda, metal, rocm, not 'tpu'"),
        (SMALL.replace('"cpu"', "['cpu']"), "kind: must be one of"),
        (SMALL.replace('"cpu"', '"cuda"'), "none of kind 'cpu'"),
        (SMALL + "count = 2", "2 of kind 'cpu'"),
        (SMALL + "count = 0", "count: must be a whole number"),
        (SMALL + GPU + "count = 60000", "count: 60,000 of kind 'cuda'"),
        (SMALL + "unified = 1", "unified: must be true or false"),
        (SMALL + "unified = true", "cpu: unified: its memory must be a part"),
        (SMALL + GPU.replace("24", "65") + "unified = true", "cuda0: unified: its memory must be a part"),
        (SMALL + '[[link]]\nsource = "cpu"\ntarget = "cuda0"\nbandwidth = 1', "target: no device 'cuda0'"),
        (SMALL + '[disk]\nfree = "1 TB"', "[disk]: missing 'path'"),
        (SMALL.replace("[host]", "[host]\nphysical_cores = 2.5"), "physical_cores: must be a whole number"),
        (SMALL.replace("[host]", "[host]\ninstructions = 'avx2'"), "instructions: must be a list"),
        ("name = 3\n" + SMALL, "name: must be text"),
        ("= 3", "not valid TOML"),
    ],
)
def test_what_breaks_the_schema_is_named(tmp_path: Path, text: str, named: str) -> None:
    assert named in refusal(tmp_path, text)


def test_a_file_that_is_no_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long.toml").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / "deep.toml").write_bytes(b"a = " + b"[" * 100_000)
    for name, named in (
        ("bytes.toml", "not valid TOML"),
        ("long.toml", "larger than 1 MiB"),
        ("deep.toml", "not valid TOML"),
        ("gone.toml", "No such file"),
    ):
        with pytest.raises(UsageError, match=named):
            load_machine(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be read"):
        read_machine(tmp_path)


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no machine of this name.*rtx-pro-6000"):
        load_machine("rtx-6000-pro")
    with pytest.raises(UsageError, match=r"known are .*laptop-32"):
        load_machine("zzzz")


@given(
    st.integers(min_value=0, max_value=10**6), st.sampled_from(["GiB", "MiB", "GB", "TB"]), st.sampled_from(["", " "])
)
def test_sizes_are_read_exactly(number: int, unit: str, gap: str) -> None:
    scale = {"GiB": GIB, "MiB": 1 << 20, "GB": 10**9, "TB": 10**12}[unit]
    assert read_bytes(f"{number}{gap}{unit}") == number * scale
    assert read_bytes(number * scale) == number * scale


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.lists(st.integers()), st.booleans()))
def test_a_quantity_is_positive_or_refused(anything: object) -> None:
    for read in (read_bandwidth, read_flops):
        try:
            amount = read(anything)
        except ValueError:
            continue
        assert 0 < amount <= 1e18
