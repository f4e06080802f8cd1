"""``plan``, ``experts`` and ``hardware``, as a person calls them, on machines and models of the catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from quietmind.cli.main import _run

MODEL = "qwen3-30b-a3b"
MACHINE = "rtx-pro-6000-128"
GIB = 1 << 30

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run a command in this process, with settings of nobody."""
    monkeypatch.setenv("QUIETMIND_SETTINGS", str(tmp_path / "settings.toml"))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = _run(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def document(call: Call, *arguments: str) -> dict[str, Any]:
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_experts_says_that_sixteen_read_more_and_hold_no_more(call: Call) -> None:
    facts = document(call, "experts", MODEL)
    eight, sixteen = (next(row for row in facts["at_work"] if row["experts_used"] == used) for used in (8, 16))
    assert sixteen["bytes_read_per_token"] > 1.4 * eight["bytes_read_per_token"]
    assert facts["parameters"] == pytest.approx(30.5e9, rel=0.01)
    assert eight["parameters"] == pytest.approx(3.35e9, rel=0.02)
    code, out, _ = call("experts", MODEL)
    assert code == 0
    assert "128 experts in each of 48 of 48 layers" in out


def test_experts_of_a_dense_model_is_one_line(call: Call) -> None:
    code, out, _ = call("experts", "qwen3-32b")
    assert code == 0
    assert out.count("\n") == 1
    assert "dense" in out


def test_the_number_of_experts_changes_the_compute_buffer_and_not_the_cache(call: Call) -> None:
    options = ("plan", MODEL, "--machine", MACHINE, "--context", "128k")
    eight, sixteen = document(call, *options), document(call, *options, "--experts", "16")

    def component(plan: dict[str, Any], name: str) -> int:
        return sum(row["bytes"] for row in plan["ledger"] if row["component"].startswith(name))

    assert component(eight, "KV cache") == component(sixteen, "KV cache") == 12 * GIB
    assert component(eight, "weights") == component(sixteen, "weights")
    assert 0 < component(sixteen, "compute buffer") - component(eight, "compute buffer") < GIB


def test_a_goal_chooses_and_the_plan_that_follows_is_the_chosen_one(call: Call) -> None:
    options = ("--goal", "quality", "--min-decode", "20", "--min-context", "64k")
    found = document(call, "plan", MODEL, "--machine", MACHINE, *options)
    (chosen,) = (choice for choice in found["search"]["choices"] if choice["chosen"])
    assert chosen["decode"]["mid"] >= 20
    assert chosen["context"] >= 65_536
    assert (found["context"], found["kv_type"]) == (chosen["context"], chosen["kv_type"])
    assert {use["device"]: use["needed_bytes"] for use in found["devices"]} == chosen["devices"]


def test_an_unreachable_demand_prints_why_and_fails(call: Call) -> None:
    options = ("plan", MODEL, "--machine", "laptop-32", "--min-decode", "5000")
    code, out, err = call(*options)
    assert (code, out) == (1, "")
    assert "not these:" in err
    assert err.splitlines()[-1].startswith("quietmind: ")
    code, out, _ = call(*options, "--json")
    assert code == 1
    assert json.loads(out)["choices"] == []


def test_a_fixed_quantization_and_cache_are_not_searched(call: Call) -> None:
    options = ("--goal", "context", "--quant", "Q6_K", "--kv", "q8_0")
    found = document(call, "plan", MODEL, "--machine", MACHINE, *options)["search"]
    assert {(choice["quantization"], choice["kv_type"]) for choice in found["choices"]} == {("Q6_K", "q8_0")}


def test_weights_that_were_trained_in_four_bits_are_not_searched_in_more(call: Call) -> None:
    found = document(call, "plan", "gpt-oss-20b", "--machine", MACHINE, "--goal", "quality")["search"]
    assert {choice["quantization"] for choice in found["choices"]} == {"MXFP4_MOE"}


def test_compare_changes_one_thing_at_a_time(call: Call) -> None:
    found = document(call, "plan", MODEL, "--machine", MACHINE, "--context", "32k", "--compare")
    labels = [change["change"] for change in found["changes"]]
    for expected in (
        "16 experts",
        "KV q8_0",
        "KV q4_0",
        "micro-batch 4,096",
        "weights F16",
        "weights Q8_0",
        "2 sequences at once",
    ):
        assert expected in labels
    assert any(label.startswith("on mac-studio") for label in labels)
    assert any("512 GB of RAM" in label for label in labels)
    doubled = next(change for change in found["changes"] if change["change"].startswith("double"))
    assert sum(doubled["change_bytes"].values()) > 3 * GIB
    code, out, _ = call("plan", MODEL, "--machine", MACHINE, "--context", "32k", "--compare")
    assert code == 0
    assert "as planned" in out


def test_two_models_stand_side_by_side(call: Call) -> None:
    code, out, _ = call("plan", MODEL, "qwen3-0.6b", "--machine", MACHINE, "--context", "8k")
    assert code == 0
    assert "at once: fits" in out
    both = document(call, "plan", MODEL, "qwen3-0.6b", "--machine", MACHINE, "--context", "8k")
    assert len(both["plans"]) == 2

    def needed(plan: dict[str, Any]) -> int:
        return sum(int(use["needed_bytes"]) for use in plan["devices"])

    assert needed(both["together"]) == pytest.approx(sum(needed(plan) for plan in both["plans"]), rel=0.01)


def test_flags_are_the_engines_command_line_and_nothing_else(call: Call) -> None:
    code, out, _ = call("plan", MODEL, "--machine", MACHINE, "--context", "32k", "--kv", "q8_0", "--flags")
    assert code == 0
    assert out.count("\n") == 1
    assert "-c 32768" in out
    assert "-ctk q8_0" in out


def test_snapshots_have_a_budget_here_and_none_on_another_machine(call: Call, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("snapshot_gib = 3", encoding="utf-8")
    small = ("plan", "qwen3-0.6b", "--context", "4k")
    here = document(call, *small)["snapshots"]
    assert here["bytes"] == 4096 * here["bytes_per_token"] == 4096 * 28 * 2 * 8 * 128 * 2
    assert (here["budget_bytes"], here["whole"]) == (3 << 30, (3 << 30) // here["bytes"])
    there = document(call, *small, "--machine", "rtx-4090")["snapshots"]
    assert (there["bytes"], there["budget_bytes"], there["whole"]) == (here["bytes"], None, None)


def test_plot_writes_a_picture(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "plan.svg"
    code, _, err = call("plan", MODEL, "--machine", MACHINE, "--context", "32k", "--plot", str(file))
    assert code == 0, err
    said = "".join(ElementTree.parse(file).getroot().itertext())
    assert "16 experts" in said
    assert "KV cache" in said


def test_hardware_lists_what_does_first(call: Call) -> None:
    found = document(
        call, "hardware", "qwen3-235b-a22b", "--context", "128k", "--min-decode", "3", "--machine", "laptop-32"
    )
    candidates = found["candidates"]
    assert candidates[0]["kind"] == "here"
    enough = [candidate["enough"] for candidate in candidates[1:]]
    assert enough == sorted(enough, reverse=True)
    assert any(candidate["enough"] for candidate in candidates)
    rates = [candidate["decode"]["mid"] for candidate in candidates[1:] if candidate["enough"]]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("plan", "no-such-model"), 1, "no-such-model"),
        (("plan", MODEL, "--quant", "Q9_Z"), 2, "Q9_Z"),
        (("plan", MODEL, "--machine", "no-such-machine"), 2, "no-such-machine"),
        (("plan", MODEL, "--machine", MACHINE, "--kv", "q3_0"), 2, "q3_0"),
        (("plan", MODEL, "--machine", MACHINE, "--goal", "beauty"), 2, "quality, context, speed"),
        (("plan", MODEL, "--machine", MACHINE, "--goal", "speed", "--kv", "q3_0"), 2, "q3_0"),
        (("plan", MODEL, "--machine", MACHINE, "--min-decode", "-3"), 2, "makes no sense"),
        (("plan", MODEL, "--machine", MACHINE, "--min-decode", "nan"), 2, "makes no sense"),
        (("plan", MODEL, "--machine", MACHINE, "--experts", "1000"), 2, "128"),
        (("plan", MODEL, "qwen3-0.6b", "--compare"), 2, "take one model"),
        (("plan", MODEL, "qwen3-0.6b", "qwen3-32b"), 2, "3 models were named; one is planned, or two"),
        (("plan", MODEL, "--machine", MACHINE, "--goal", ""), 2, "'' is not a goal"),
        (("plan", MODEL, "--machine", ""), 2, "an empty name: no machine"),
        (("plan", "qwen3-72b"), 1, "the nearest are Qwen3-32B"),
        (("plan", "llama-2-70b", "--machine", MACHINE, "--context", "2048M"), 2, "nothing published reaches"),
        (("plan", "llama-2-70b", "--machine", MACHINE, "--min-context", "99M"), 2, "nothing published reaches"),
        (("hardware", "llama-2-70b", "--machine", MACHINE, "--context", "99M"), 2, "nothing published reaches"),
        (("hardware", "qwen3-32b", "--machine", MACHINE, "--context", "4k", "--quant", "AWQ-INT4"), 1, "AWQ"),
        (
            ("plan", MODEL, "--machine", MACHINE, "--context", "4k", "--plot", "/nowhere/at/all.svg"),
            2,
            "cannot be written",
        ),
        (("plan", MODEL, "--machine", MACHINE, "--context", "4k", "--plot", "plan.png"), 2, "ends in .svg"),
        (("hardware", MODEL, "--context", "4k", "--min-decode", "0"), 2, "makes no sense"),
        (("hardware", "no-such-model", "--context", "4k"), 1, "no-such-model"),
        (("experts", "no-such-model"), 1, "no-such-model"),
    ],
)
def test_nonsense_is_refused_in_one_line(call: Call, arguments: tuple[str, ...], code: int, said: str) -> None:
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("quietmind: ")
    assert said in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("plan", MODEL, "--context", "-5"),
        ("plan", MODEL, "--experts", "0"),
        ("plan", MODEL, "--sequences", "-1"),
        ("hardware", MODEL),
    ],
)
def test_wrong_usage_ends_with_two_and_one_line(call: Call, arguments: tuple[str, ...]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("quietmind: ")
    assert f"See `quietmind {arguments[0]} --help`." in err


def test_many_gpus_alike_are_one_column_of_the_choices(call: Call) -> None:
    _, out, _ = call("plan", "qwen3-coder-480b-a35b", "--machine", "8x-rtx-pro-6000", "--min-context", "256k")
    heading = next(line for line in out.splitlines() if "weights  " in line)
    assert heading.split()[-4:] == ["cpu", "8", "x", "cuda"]


def test_no_memory_free_is_one_line_for_a_goal_too(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "full.toml"
    cpu = '[[device]]\nkind = "cpu"\nname = "C"\nmemory = "64 GiB"\nfree = "0 GiB"\n'
    file.write_text(f'[host]\nsystem = "Linux"\n{cpu}', encoding="utf-8")
    for asked in ((), ("--goal", "speed"), ("--compare",)):
        code, out, err = call("plan", MODEL, "--context", "4k", "--machine", str(file), *asked)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1, err
        assert "no memory is free" in err


def test_usage_errors_read_as_sentences(call: Call) -> None:
    assert "1M. See `quietmind plan --help`." in call("plan", MODEL, "--context", "many")[2]
    assert "'many' is not a whole number. See" in call("plan", MODEL, "--threads", "many")[2]


ABSURD = ["-1", "0", "many", "1e999", "99999999999999999999", "nan", "inf", ""]
NUMBERS = {
    "plan": ["--context", "--threads", "--micro-batch", "--sequences", "--experts", "--min-decode", "--min-context"],
    "hardware": ["--context", "--min-decode", "--experts"],
    "bench": ["--context", "--threads"],
}


REFUSED = [
    (command, option, value)
    for command, options in NUMBERS.items()
    for option in options
    for value in ABSURD
    if (command, option, value) != ("bench", "--threads", "99999999999999999999")  # refused once the model is found
]


@pytest.mark.parametrize(("command", "option", "value"), REFUSED)
def test_every_number_refuses_absurd_values_in_one_line(call: Call, command: str, option: str, value: str) -> None:
    beside = {"plan": [MODEL], "hardware": [MODEL, "--context", "4k"], "bench": [MODEL]}[command]
    code, out, err = call(command, *beside, option, value)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("quietmind: ")


def test_two_contexts_that_contradict_each_other_are_refused(call: Call) -> None:
    code, _, err = call("plan", MODEL, "--context", "4k", "--min-context", "128k")
    assert code == 2
    assert "contradict" in err
