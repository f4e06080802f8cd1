"""Flags: each says what the placement says, and the engine knows each of them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.card import LayerKind, ModelCard
from quietmind.model.ggml_types import BY_NAME
from quietmind.plan import Ask, plan
from quietmind.plan.ask import Run
from quietmind.plan.flags import engine_flags
from quietmind.plan.placement import DISK, Placement
from quietmind.plan.yarn import Yarn

MakeCard = Callable[..., ModelCard]
GPUS = tuple(Device("cuda", "GPU", 1 << 34, 1 << 34, 1e12, 1e14, f"cuda{number}") for number in range(3))
METAL = Device("metal", "M", 1 << 36, 1 << 36, key="metal", unified=True)
RUN = Run(context=4096, batch=2048, micro_batch=512, kind=BY_NAME["q8_0"], threads=6)


def machine_with(*devices: Device) -> Machine:
    return Machine("m", (Device("cpu", "CPU", 1 << 36, 1 << 36), *devices), (), Host("Linux", "CPU", 8, 16, 8))


def placed(dense: str, experts: str = "", kv: str | None = None, output: str = "cpu") -> Placement:
    """Read one letter a layer: c the host, d the disk, - nothing, 0 to 2 a GPU, m metal."""
    keys = {"c": "cpu", "d": DISK, "-": "", "m": "metal"} | {str(number): f"cuda{number}" for number in range(3)}
    layers, mixtures, caches = (
        tuple(keys[letter] for letter in word) for word in (dense, experts or "-" * len(dense), kv or dense)
    )
    return Placement(layers, mixtures, caches, embedding="cpu", output=keys.get(output, output))


def flags(machine: Machine, placement: Placement, card: ModelCard, run: Run = RUN) -> dict[str, str]:
    """Return flags by name; those without a value have "". No flag may come twice: only the last would count."""
    words = engine_flags(machine, card, placement, run)
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("-"):
            assert word not in found, word
            name, found[word] = word, ""
        else:
            assert not found[name]
            found[name] = word
    return found


@pytest.mark.parametrize("name", ["hf:owner/model/small.gguf", "https://example.org/models/small.gguf"])
def test_a_model_on_a_server_is_named_as_it_will_be_once_fetched(card_of: MakeCard, name: str) -> None:
    assert flags(machine_with(), placed("cccc"), card_of(layers=4, path=Path(name)))["-m"] == "small.gguf"


def test_the_run_is_said_in_full(card_of: MakeCard) -> None:
    found = flags(machine_with(), placed("cccc"), card_of(layers=4))
    assert found == {
        "-m": "small.gguf",
        "-c": "4096",
        "-b": "2048",
        "-ub": "512",
        "-ctk": "q8_0",
        "-ctv": "q8_0",
        "-fa": "on",
        "-t": "6",
        "-np": "1",
        "-ngl": "0",
        "--cache-ram": "0",
        "-fit": "off",
    }


def test_sequences_share_one_context_of_their_sum(card_of: MakeCard) -> None:
    run = replace(RUN, sequences=4, flash_attention=False, threads=None)
    found = flags(machine_with(), placed("cccc"), card_of(), run)
    assert (found["-c"], found["-np"], found["-fa"]) == ("16384", "4", "off")
    assert "-t" not in found


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (placed("cccc"), {"-ngl": "0", "-dev": "none"}),
        (placed("0000", output="0"), {"-ngl": "5"}),
        (placed("cc00", output="0"), {"-ngl": "3"}),
        (placed("0000", kv="cccc", output="0"), {"-ngl": "5", "--no-kv-offload": ""}),
        (placed("0000", "cc00", output="0"), {"-ngl": "5", "--n-cpu-moe": "2"}),
        (placed("0000", "-c00", output="0"), {"-ngl": "5", "--n-cpu-moe": "2"}),
        (placed("0000", "dc00", output="0"), {"-ngl": "5", "--n-cpu-moe": "2"}),
        (placed("cc00", "cccc", output="0"), {"-ngl": "3", "--n-cpu-moe": "4"}),
        (placed("cc00", "cc00", output="0"), {"-ngl": "3"}),
    ],
    ids=str,
)
def test_one_gpu(card_of: MakeCard, placement: Placement, expected: dict[str, str]) -> None:
    found = flags(machine_with(GPUS[0]), placement, card_of())
    names = ("-ngl", "-dev", "-sm", "-ts", "-ot", "--n-cpu-moe", "--no-kv-offload")
    assert {name: found[name] for name in names if name in found} == expected


def test_several_gpus_are_divided_in_whole_layers_with_the_output_as_one(card_of: MakeCard) -> None:
    found = flags(machine_with(*GPUS), placed("0112", output="2"), card_of())
    assert (found["-ngl"], found["-sm"], found["-ts"]) == ("5", "layer", "1,2,2")
    assert "-dev" not in found
    two = flags(machine_with(*GPUS), placed("1122", output="2"), card_of())
    assert (two["-dev"], two["-ts"]) == ("CUDA1,CUDA2", "2,3")
    one = flags(machine_with(*GPUS), placed("1111", output="1"), card_of())
    assert one["-dev"] == "CUDA1"
    assert "-ts" not in one


def test_the_division_is_what_the_engine_makes_of_it() -> None:
    """Repeat load_tensors of src/llama-model.cpp: shares are summed, and a layer goes where its share lies."""
    for counts in ((1, 2, 2), (47, 48), (31, 32, 32), (12, 13, 14, 15, 16, 17, 18, 19)):
        total = sum(counts)
        ends = [sum(counts[: index + 1]) / total for index in range(len(counts))]
        owners = [next(index for index, end in enumerate(ends) if slot / total < end) for slot in range(total)]
        assert tuple(owners.count(index) for index in range(len(counts))) == counts


def test_scattered_experts_are_named_by_a_pattern(card_of: MakeCard) -> None:
    found = flags(machine_with(*GPUS[:2]), placed("001111", "c0cc11", output="1"), card_of(layers=6))
    pattern, buffer = found["-ot"].split("=")
    assert buffer == "CPU"
    assert "--n-cpu-moe" not in found
    on_host = [
        layer
        for layer in range(30)
        if re.search(pattern, f"blk.{layer}.ffn_up_exps.weight")
        and re.search(pattern, f"blk.{layer}.ffn_down_exps.bias")
    ]
    assert on_host == [0, 2, 3]
    assert not re.search(pattern, "blk.0.ffn_up_shexp.weight")
    assert "," not in pattern  # it would end the pattern


def test_metal_needs_no_device_flags(card_of: MakeCard) -> None:
    found = flags(machine_with(METAL), placed("mmmm", output="m"), card_of())
    assert found["-ngl"] == "5"
    assert "-dev" not in found


def test_copies_of_windows_and_states_are_off(card_of: MakeCard) -> None:
    kinds = (LayerKind.SLIDING, LayerKind.FULL) * 2
    found = flags(machine_with(), placed("cccc"), card_of(layer_kinds=kinds, sliding_window=1024))
    assert found["--ctx-checkpoints"] == "0"


def test_overrides_are_one_option(card_of: MakeCard) -> None:
    run = replace(RUN, context=131_072, experts_used=16, yarn=Yarn(4.0, 32_768))
    found = flags(machine_with(), placed("cccc"), card_of(arch="qwen3moe"), run)
    assert found["--override-kv"] == "qwen3moe.expert_used_count=int:16,qwen3moe.context_length=int:131072"
    assert (found["--rope-scaling"], found["--rope-scale"], found["--yarn-orig-ctx"]) == ("yarn", "4", "32768")


def test_the_plan_carries_them(card_of: MakeCard) -> None:
    found = plan(machine_with(GPUS[0]), card_of(), Ask(81_920, kv_type="q4_0", sequences=2))
    assert found.flags[:4] == ("-m", "small.gguf", "-c", "163840")
    assert "--yarn-orig-ctx" in found.flags


def test_the_engine_knows_every_flag(card_of: MakeCard) -> None:
    engine = importlib.util.find_spec("xllamacpp")
    if engine is None or not engine.submodule_search_locations:
        pytest.skip("the engine (xllamacpp) is not installed")
    library = next(Path(engine.submodule_search_locations[0]).glob("xllamacpp*.so"), None)
    if library is None:
        pytest.skip("the engine is no shared library here")
    run = replace(RUN, experts_used=16, yarn=Yarn(4.0, 32_768))
    known = library.read_bytes()
    used = {"--ctx-checkpoints", "-md", "-ngld", "-ctkd", "-ctvd"}  # of a draft
    for placement in (
        placed("0011", "c0c1", kv="cccc", output="1"),
        placed("0000", "cc00", output="0"),
        placed("cccc"),
    ):
        used |= set(flags(machine_with(*GPUS), placement, card_of(), run))
    # The shortest names are folded into the code; their long forms stand beside the others.
    long = {
        "-m": "--model",
        "-c": "--ctx-size",
        "-b": "--batch-size",
        "-t": "--threads",
        "-ngl": "--gpu-layers",
        "-dev": "--device",
        "-fit": "--fit",
    }
    missing = [flag for flag in used if b"\0" + long.get(flag, flag).encode() + b"\0" not in known]
    assert not missing
