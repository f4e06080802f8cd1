"""Every word that a plan can say reaches the parameters of the wheel, and no other word is taken."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from quietmind.base.errors import EngineTooOld, UsageError
from quietmind.engine.llamacpp_params import UNDERSTOOD, params_of


def value(name: str, *words: str) -> object:
    return params_of(words).values[name]


def test_the_words_of_a_whole_plan_are_understood() -> None:
    words = (
        *("-m", "a model.gguf", "-c", "16384", "-b", "512", "-ub", "256", "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"),
        *("-t", "8", "-np", "2", "-ngl", "49", "-sm", "layer", "-ts", "24,25", "--no-kv-offload", "--n-cpu-moe", "3"),
        *("--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "32768"),
        *("--cache-ram", "0", "--ctx-checkpoints", "0", "-fit", "off"),
    )
    values = params_of(words).values
    assert values["tensor_split"] == [24.0, 25.0, *[0.0] * 126]
    assert values["cpuparams.n_threads"] == values["cpuparams_batch.n_threads"] == 8
    assert values["rope_freq_scale"] == 0.25
    assert (values["no_kv_offload"], values["fit_params"], values["cache_ram_mib"]) == (True, False, 0)
    assert values["cache_type_k"] == values["cache_type_v"] == ("ggml_type", "GGML_TYPE_Q8_0")


def test_the_first_layers_experts_stay_on_the_host() -> None:
    pattern, _, buffer = str(value("tensor_buft_overrides", "--n-cpu-moe", "12")).rpartition("=")
    held = [layer for layer in range(48) if re.search(pattern, f"blk.{layer}.ffn_gate_exps.weight")]
    assert held == list(range(12))
    assert buffer == "CPU"
    assert not re.search(pattern, "blk.1.ffn_gate.weight")


def test_overrides_of_tensors_add_up() -> None:
    assert value("tensor_buft_overrides", "-ot", "a=CPU", "-ot", "b=CPU") == "a=CPU,b=CPU"
    assert "tensor_buft_overrides" not in params_of(("--n-cpu-moe", "0")).values


def test_devices_are_chosen_by_their_drivers_variables() -> None:
    assert params_of(("-dev", "CUDA0,CUDA2")).environment == {"CUDA_VISIBLE_DEVICES": "0,2"}
    none = params_of(("-dev", "none"))
    assert none.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert none.values == {"n_gpu_layers": 0, "no_op_offload": True}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--no-such-flag",), "--no-such-flag is no word"),
        (("stray",), "stray is no word"),
        (("-c",), "-c needs a value"),
        (("-c", "many"), "-c many"),
        (("-fa", "maybe"), "-fa maybe"),
        (("-sm", "tensor"), "-sm tensor"),
        (("-dev", "MTL0"), "-dev MTL0"),
        (("-ts", ",".join("1" * 129)), "more than 128 devices"),
    ],
)
def test_no_word_is_ignored(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        params_of(words)
    assert "\n" not in str(caught.value)


def test_what_the_wheel_cannot_do_is_refused_with_the_way_out() -> None:
    with pytest.raises(EngineTooOld, match=r"--override-kv.*--engine llama-server"):
        params_of(("--override-kv", "qwen3moe.expert_used_count=int:16"))


PROBE = """
import json, sys, xllamacpp
for name, value in json.load(sys.stdin).items():
    owner = xllamacpp.CommonParams()
    *path, last = name.split(".")
    for step in path:
        owner = getattr(owner, step)
    if isinstance(value, list) and isinstance(value[0], str):
        value = getattr(getattr(xllamacpp, value[0]), value[1])
    getattr(owner, last)
    setattr(owner, last, value)
    kept = getattr(owner, last)
    if kept != value:
        print(name, value, kept)
"""

SAMPLES = {
    **dict.fromkeys(("-ctk", "-ctv"), "q8_0"),
    **dict.fromkeys(("-m", "--slot-save-path"), "/a/b"),
    "-fa": "on",
    "-dev": "none",
    "-sm": "row",
    "-ts": "1,2",
    "-ot": "a=CPU",
    "--rope-scaling": "yarn",
    "--rope-scale": "4",
    "-fit": "off",
}


def test_the_wheel_has_every_parameter_and_keeps_what_is_set() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp is not installed")
    values: dict[str, object] = {}
    for flag in sorted(UNDERSTOOD):
        for words in ((flag,), (flag, SAMPLES.get(flag, "3"))):
            try:
                values |= params_of(words).values
                break
            except UsageError:
                continue
        else:
            pytest.fail(f"no sample for {flag}")
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], input=json.dumps(values), capture_output=True, text=True, check=True
    )
    assert ran.stdout == ""
