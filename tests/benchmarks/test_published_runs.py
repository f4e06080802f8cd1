"""Tables of published speeds: what their words mean, what is left out by name, what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from quietmind.base.errors import UsageError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HEADER = (
    "model,quant,engine,accelerator,accelerator_memory_gb,accelerator_gb_per_s,host,host_gb_per_s,experts_on,"
    "prefill_depth,prefill_tok_s,decode_tok_s,note"
)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import published_runs

    return published_runs


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed_accuracy

    return speed_accuracy


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    file = folder / "speeds.csv"
    file.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return file


def test_the_words_of_a_row_become_a_run(runs: ModuleType, tmp_path: Path) -> None:
    row = (
        "Qwen3-30B-A3B-Instruct-2507,UD-Q4_K_XL,ik_llama.cpp,RTX 4080,16,716.8,Ryzen 9 7950X (dual-channel DDR5-6000),"
        ',,8192,950,58,"n-cpu-moe 14, threads 16, KV q8_0, ubatch 2048, prompt 300"'
    )
    (case,), left_out = runs.speed_rows(table(tmp_path, row))
    assert not left_out
    assert (case.card.name, case.card.quantization) == ("Qwen3-30B-A3B-2507", "Q4_K_M")
    assert case.placement.experts == ("cpu",) * 14 + ("cuda0",) * 34
    assert (case.depth, case.micro_batch, case.threads, case.kv_type) == (8192, 300, 16, "q8_0")
    assert case.engine == "ik_llama.cpp"
    assert case.machine.cpu.bandwidth_bytes_per_s == 96e9
    assert case.machine.host.physical_cores == 16
    assert not case.fitted


def test_empty_cells_are_what_the_names_mean(runs: ModuleType, tmp_path: Path) -> None:
    rows = (
        "Llama 3.3 70B,Q4_K - Medium,llama.cpp,2x RTX 3090,24,936,,,,,,17,",
        "Llama-3.1-8B,F16,llama.cpp,M2 Ultra,192,800,,,,,1402,,",
        "Qwen3-235B-A22B,Q8_0,llama.cpp,,,,2x EPYC 7742,,,0,,5,",
    )
    (gpus, mac, server), left_out = runs.speed_rows(table(tmp_path, *rows))
    assert not left_out
    assert [device.key for device in gpus.machine.accelerators] == ["cuda0", "cuda1"]
    assert gpus.placement.dense.count("cuda0") == 40
    assert mac.machine.accelerators[0].kind == "metal"
    assert mac.machine.accelerators[0].flops == pytest.approx(27.2e12, rel=0.01)
    assert (server.machine.host.physical_cores, server.machine.host.numa_nodes) == (128, 2)
    assert server.machine.cpu.bandwidth_bytes_per_s == pytest.approx(409.6e9)


def test_rows_that_cannot_be_predicted_are_left_out_by_name(runs: ModuleType, tmp_path: Path) -> None:
    rows = (
        "No-Such-9B,Q4_K_M,llama.cpp,RTX 4090,24,1008,,,,0,100,10,",
        "Llama-3.1-8B,Q9_X,llama.cpp,RTX 4090,24,1008,,,,0,100,10,",
        "Llama-3.1-8B,Q4_K_M,llama.cpp,,,,some box,,,0,100,10,",
        "Llama-3.1-8B,Q4_K_M,llama.cpp,RTX 4090,24,1008,,,,0,,,",
        "Llama-3.1-8B,Q4_K_M,llama.cpp,RTX 4090,24,1008,,,,0,nan,,",
        "Llama-3.1-8B,Q4_K_M,llama.cpp,RTX 4090,24,-3,,,,0,100,,",
        "Llama-3.1-8B,Q4_K_M,vLLM,RTX 4090,24,1008,,,,0,100,,",
        "Llama-3.1-8B,Q4_K_M",
    )
    cases, left_out = runs.speed_rows(table(tmp_path, *rows))
    assert not cases
    said = (
        "no such model is known",
        "no such quantization is known",
        "the memory bandwidth of some box is not known",
        "it states no speed",
        "nan is no sensible number",
        "-3 is no sensible number",
        "it was run by vLLM, which is not predicted",
        "it states no speed",
    )
    for number, (line, reason) in enumerate(zip(left_out, said, strict=True), start=2):
        assert line.startswith(f"line {number}: ")
        assert line.endswith(reason)


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", b"\xff\xfe\x00\x01" * 100, b'model,quant,prefill_tok_s,decode_tok_s\n"x', b"\0" * 64],
)
def test_what_is_no_table_is_refused_in_one_line(runs: ModuleType, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "garbage.csv"
    file.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        runs.speed_rows(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_row_that_constants_were_fitted_on_is_known_in_another_table(runs: ModuleType, tmp_path: Path) -> None:
    own, left_out = runs.speed_rows(runs.OWN)
    assert not left_out
    assert {case.fitted for case in own} == {True, False}
    again = "Llama-3.1-8B,Q4_K_M,llama.cpp,RTX 3090,24,936,,,,0,4030.4,115.42,"
    other = "Llama-3.1-8B,Q4_K_M,llama.cpp,RTX 3090,24,936,,,,0,4500,120,"
    cases, _ = runs.speed_rows(table(tmp_path, again, other))
    assert [case.fitted for case in cases] == [True, False]


def test_our_own_table_names_the_source_of_every_row(runs: ModuleType) -> None:
    lines = runs.OWN.read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"{HEADER},source,fitted"
    assert all(line.rpartition(",")[2] in ("yes", "no") and ",https://" in line for line in lines[1:])


def test_held_out_rows_are_predicted_as_well_as_we_say(
    accuracy: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    found = accuracy.run([accuracy.OWN])
    capsys.readouterr()
    assert found["speed_heldout_cases"] > 100
    assert found["speed_heldout_within_20pct"] >= 0.8
    assert found["speed_heldout_in_interval"] >= 0.9
    assert found["speed_interval_median_width"] < 3


def test_rows_of_the_second_half_of_the_table_were_dealt_out_by_the_hash(runs: ModuleType) -> None:
    later = [row for line, row in runs._rows(runs.OWN) if line >= 158]
    assert later
    assert {row["fitted"] for row in later} == {"yes", "no"}
    assert all((row["fitted"] == "yes") == (runs.sort(row) % 2 == 0) for row in later)


@pytest.mark.parametrize(
    ("engine", "note", "kernels"),
    [
        ("llama.cpp", "pp512; build of 2024-05", "llama.cpp b3000"),
        ("llama.cpp", "pp512; build of 2024-06", "llama.cpp"),
        ("llama.cpp", "pp512", "llama.cpp"),
        ("ik_llama.cpp", "build of 2025-05", "ik_llama.cpp 2025-05"),
        ("ik_llama.cpp", "build of 2025-06", "ik_llama.cpp"),
    ],
)
def test_the_month_of_a_build_says_which_kernels_it_had(
    runs: ModuleType, tmp_path: Path, engine: str, note: str, kernels: str
) -> None:
    cases, _ = runs.speed_rows(table(tmp_path, f"Llama-3.1-8B,Q4_0,{engine},RTX 4090,24,1008,,,,0,7000,,{note}"))
    assert [case.engine for case in cases] == [kernels]
