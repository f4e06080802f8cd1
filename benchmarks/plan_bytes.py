"""Compares the plan's bytes with the engine's own accounting, for public model shapes and the small real model.

    python benchmarks/plan_bytes.py [--quick]

The engine (llama.cpp in xllamacpp) loads each model dry in a child process: it places every buffer and prints its
size, but takes no memory, so that models of any size are measured anywhere. Prints the predictions, then the
measurements, worst first, then one JSON line. The engine prints MiB with two digits; smaller errors cannot be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from header_only import SHAPES, write_header

from quietmind.base.errors import ModelNotFound
from quietmind.base.units import GIB, MIB
from quietmind.machine.machine import Device, Host, Machine
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.plan import Ask, plan

# The fit step of the engine is a dry run that prints everything; the loading after it ends the child on purpose.
CHILD = """
import sys, xllamacpp
path, context, micro_batch, kv = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_ubatch = path, int(context), int(micro_batch)
params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + kv.upper())
params.cache_ram_mib, params.verbosity, params.fit_params, params.no_alloc = 0, 5, True, True
xllamacpp.Server(params)
"""
TRIES = 5  # the child's last words are sometimes lost when it ends
PARTS = ("weights", "KV cache", "compute buffer", "output buffer")
HUGE = Machine("any", (Device("cpu", "any", 1 << 50, 1 << 50),), (), Host("any", "any"))

SETTINGS = ((4096, 512, "f16"), (4097, 64, "f16"), (131_072, 512, "q8_0"), (16_384, 2048, "q4_0"), (300, 512, "f32"))


@dataclass(frozen=True)
class Case:
    """A model file and the settings it runs with."""

    name: str
    path: Path
    context: int
    micro_batch: int
    kv_type: str

    def __str__(self) -> str:
        return f"{self.name:<18} context {self.context:>7,}, micro-batch {self.micro_batch:>5,}, KV {self.kv_type:<5}"


def predicted(case: Case) -> dict[str, int]:
    """Return the bytes of each part by the plan."""
    ask = Ask(context=case.context, kv_type=case.kv_type, micro_batch=case.micro_batch)
    ledger = plan(HUGE, read_card(case.path), ask).ledger
    return {part: ledger.component(part) for part in PARTS}


def measured(case: Case) -> dict[str, int]:
    """Return the bytes of each part by the engine's log, good to 0.005 MiB (weights of large models: GiB)."""
    log = ""
    for _ in range(TRIES):
        log = _dry_log(case)
        found = {
            "weights": _sum(r"file size += +([\d.]+) (MiB|GiB)", log),
            "KV cache": _sum(r"llama_kv_cache: size = +([\d.]+) (MiB)", log),
            "compute buffer": _sum(r"compute buffer size = +([\d.]+) (MiB)", log),
            "output buffer": _sum(r"output buffer size = +([\d.]+) (MiB)", log),
        }
        if found["compute buffer"]:
            return found
    raise SystemExit(f"{case}: the engine did not say what it takes; its log ends\n{log[-2000:]}")


def _dry_log(case: Case) -> str:
    """Return the log of the first dry load; what the engine does after it is of no interest, and is ended."""
    command = [sys.executable, "-c", CHILD, str(case.path), str(case.context), str(case.micro_batch), case.kv_type]
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stderr is not None
        for line in child.stderr:
            lines.append(line.decode("utf-8", "replace"))
            if "common_memory_breakdown_print" in lines[-1]:
                break
        child.kill()
    return "".join(lines)


def _sum(pattern: str, log: str) -> int:
    units = {"MiB": MIB, "GiB": GIB}
    return round(sum(float(number) * units[unit] for number, unit in re.findall(pattern, log)))


def main() -> None:
    """Run every case and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two settings instead of five")
    settings = SETTINGS[:2] if parser.parse_args().quick else SETTINGS
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for shape in SHAPES:
            files[shape.name] = Path(folder, f"{shape.name}.gguf")
            write_header(shape, files[shape.name])
        try:
            files["tiny (real)"] = locate("tiny")
        except ModelNotFound as missing:
            print(f"without the small real model: {missing}")
        cases = [Case(name, path, *setting) for name, path in files.items() for setting in settings]
        print("predicted (MiB)")
        predictions = {case: predicted(case) for case in cases}
        for case, parts in predictions.items():
            print(f"  {case}  " + ", ".join(f"{part} {size / MIB:,.2f}" for part, size in parts.items()))
        results = []
        for case, parts in predictions.items():
            truth = measured(case)
            errors = {part: parts[part] - truth[part] for part in PARTS}
            results.append((max(abs(errors[part]) for part in PARTS[1:]), case, errors, truth))
    results.sort(key=lambda result: -result[0])
    print("measured (MiB) and the error of the prediction, worst first")
    for _, case, errors, truth in results:
        print(
            f"  {case}  " + ", ".join(f"{part} {truth[part] / MIB:,.2f} ({errors[part] / MIB:+.2f})" for part in PARTS)
        )
    worst = {part: round(max(abs(errors[part]) for _, _, errors, _ in results) / MIB, 3) for part in PARTS[1:]}
    share = max(abs(errors["weights"]) / truth["weights"] for _, _, errors, truth in results)
    print(
        json.dumps(
            {"benchmark": "plan_bytes", "cases": len(results), "worst_error_mib": worst, "worst_weights_share": share}
        )
    )


if __name__ == "__main__":
    main()
