"""The plan against the real engine's own accounting, with the small real model."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.ggml_types import BY_NAME, GGML_TYPES
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.plan import Ask, plan
from quietmind.plan.ask import Run
from quietmind.plan.graph_limit import most_experts

MIB = 1 << 20
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SEED, SHAPES = 20_261_122, 24
GGML_NUMBERS = {kind.name: number for number, kind in GGML_TYPES.items()}
MACHINE = Machine("any", (Device("cpu", "any", 1 << 40, 1 << 40),), (), Host("any", "any"))

CHILD = """
import sys, xllamacpp
path, context, micro_batch, kv, sequences = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_ubatch = path, int(context), int(micro_batch)
params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + kv.upper())
params.n_parallel, params.kv_unified = int(sequences), False
params.cache_ram_mib, params.fit_params, params.verbosity, params.warmup = 0, False, 5, False
xllamacpp.Server(params)
"""


@pytest.fixture(scope="module")
def model() -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the engine (xllamacpp) is not installed")
    try:
        return locate("tiny")
    except ModelNotFound as missing:
        pytest.skip(f"the small real model is not here: {missing}")


def engine_log(*arguments: str) -> str:
    """Return what the engine says until its buffers are placed; serving is not waited for."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    ) as child:
        watchdog = threading.Timer(60, child.kill)
        watchdog.start()
        assert child.stderr is not None
        for line in child.stderr:
            lines.append(line.decode("utf-8", "replace"))
            if "reserve took" in lines[-1]:
                break
        watchdog.cancel()
        child.kill()
    return "".join(lines)


@pytest.mark.parametrize(
    ("context", "micro_batch", "kv", "sequences"),
    [
        (1024, 512, "f16", 1),
        (1300, 128, "q8_0", 1),
        (300, 512, "q4_1", 1),
        (1024, 256, "q8_0", 3),
        (300, 512, "f16", 2),
    ],
)
def test_the_engine_takes_what_the_plan_says(
    model: Path, context: int, micro_batch: int, kv: str, sequences: int
) -> None:
    log = engine_log(str(model), str(context * sequences), str(micro_batch), kv, str(sequences))
    taken = {
        part: sum(float(size) for size in re.findall(rf"{words} = +([\d.]+) MiB", log))
        for part, words in (
            ("weights", "model buffer size"),
            ("KV cache", "KV buffer size"),
            ("output buffer", "output buffer size"),
            ("compute buffer", "compute buffer size"),
        )
    }
    ledger = plan(MACHINE, read_card(model), Ask(context, kv, micro_batch, sequences=sequences)).ledger
    planned = {part: ledger.component(part) / MIB for part in taken}
    assert planned == pytest.approx(taken, abs=0.0101), log[-1000:]  # two digits are printed, of each buffer


@pytest.fixture(scope="module")
def header_only() -> Iterator[tuple[ModuleType, ModuleType]]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the engine (xllamacpp) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("header_only"), importlib.import_module("engine_account")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors pack other types")
@pytest.mark.parametrize(
    ("tied", "recipe", "vocabulary"),
    [(False, "Q8_0", 7777), (False, "Q4_K_M", 7777), (True, "IQ4_NL", 7776), (True, "IQ4_NL", 7777)],
)
def test_gaps_and_the_packed_copy_of_a_tied_output_are_weights(
    header_only: tuple[ModuleType, ModuleType], tmp_path: Path, tied: bool, recipe: str, vocabulary: int
) -> None:
    writer, engine = header_only
    path = tmp_path / "shape.gguf"
    shape = writer.Shape("shape", "qwen3", 2, 768, 8, 2, 96, 2560, vocabulary, 4096, recipe=recipe, tied=tied)
    writer.write_header(shape, path)
    packing = replace(MACHINE, host=Host("any", "any", instructions=("avx2",)))
    ledger = plan(packing, read_card(path), Ask(512)).ledger
    truth = engine.account(path, 512, 512, 1)
    assert (truth.refused, ledger.component("weights")) == (None, truth.weights)


@pytest.mark.parametrize(("name", "kv"), [("Mixtral-8x7B", "q8_0"), ("Qwen3-30B-A3B", "f16")])
def test_the_engine_starts_with_as_many_experts_as_we_say_and_not_with_many_more(
    header_only: tuple[ModuleType, ModuleType], tmp_path: Path, name: str, kv: str
) -> None:
    writer, engine = header_only
    (public,) = (shape for shape in writer.SHAPES if shape.name == name)
    shape = replace(public, layers=16, experts=64, vocabulary=1000)
    path, kind = tmp_path / "shape.gguf", BY_NAME[kv]
    writer.write_header(shape, path)
    most = most_experts(read_card(path), Run(512, 2048, 512, kind))
    assert most is not None
    for used, starts in ((most, True), (most + 4, False)):
        writer.write_header(replace(shape, experts_used=used), path)
        refused = engine.account(path, 512, 512, GGML_NUMBERS[kv]).refused
        assert (refused is None) == starts, f"{used} experts: {refused}"
        planned = plan(MACHINE, read_card(path), Ask(512, kv))
        assert any("may end at its start" in warning for warning in planned.warnings) != starts


@pytest.fixture(scope="module")
def random_shapes() -> Iterator[ModuleType]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the engine (xllamacpp) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("random_shapes")


def test_the_compute_buffer_is_exact_for_shapes_that_nobody_chose(random_shapes: ModuleType, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    results = [random_shapes.measured(random_shapes.drawn(chance, number), tmp_path) for number in range(SHAPES)]
    taken = [result for result in results if result.truth.refused is None]
    assert len(taken) > SHAPES // 2
    assert [str(result) for result in taken if result.error] == []
