"""Runs the real engine on this machine: small real models at depths, and random models of many types and mixtures.

Every case is predicted from the memory bandwidth that is measured first. One thread computes, and its speed is counted
in seconds of processor time, not of the clock, so that other programs on the machine change little; the best of three
runs counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
from random_model import Mould, write_random
from speed_accuracy import Judged

from quietmind.base.errors import ModelNotFound
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.machine.machine import Machine
from quietmind.machine.measure_ram import ram_read_rate
from quietmind.machine.probe import probe
from quietmind.model.card import ModelCard
from quietmind.model.gguf import read_card
from quietmind.model.locate import locate
from quietmind.plan.measured import Measurement
from quietmind.plan.placement import everything_on
from quietmind.plan.speed import Speed, predict
from quietmind.workspace.bench import SMALLEST_CONTEXT, measure
from quietmind.workspace.measurements import RunLabel

MICRO_BATCH = 512
REAL = ("tiny", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M")
REAL_DEPTHS = (0, 1000, 4000)
RUNS = 3

# Rates of the processor were fitted on one thread with these types; mixtures were not looked at.
FITTED_TYPES = ("q4_0", "q4_k", "q8_0", "q6_k", "iq3_s", "iq4_xs")


def moulds() -> Iterator[Mould]:
    """Yield the shapes of the random models: dense ones of many types, and mixtures that use 8 or 16 of 64 experts."""
    for kind in FITTED_TYPES:
        yield Mould(f"dense {kind}", kind, layers=6, hidden=2048, head=128, feed_forward=4096)
    for kind in ("q4_0", "q8_0"):
        for used in (8, 16):
            yield Mould(f"64 experts, {used} used, {kind}", kind, experts=64, experts_used=used)


def runs_here(quick: bool = False) -> list[Judged]:
    """Return every case of this machine, measured. Takes minutes; ``quick`` runs one real and one random model."""
    machine = measured_machine()
    results: list[Judged] = []
    for name in REAL[:1] if quick else REAL:
        try:
            path = locate(name)
        except ModelNotFound:
            print(f"left out: {name} is not installed")
            continue
        results += judged_here(machine, path, REAL_DEPTHS[:2] if quick else REAL_DEPTHS, fitted=False)
    with tempfile.TemporaryDirectory() as folder:
        for mould in list(moulds())[-1:] if quick else moulds():
            path = Path(folder) / f"{mould.name}.gguf"
            write_random(mould, path)
            results += judged_here(machine, path, (0,), fitted=not mould.experts)
            path.unlink()
    return results


def measured_machine() -> Machine:
    """Return this machine with the bandwidth that one core reaches."""
    machine = probe()
    began, worked = time.perf_counter(), time.process_time()
    rate = ram_read_rate(1, machine.cpu.free_bytes)
    share = (time.process_time() - worked) / (time.perf_counter() - began)
    if rate is None:
        return machine
    print(f"one core reads memory at {rate / 1e9:.1f} GB/s, and gets {share:.0%} of its time")
    cpu = replace(machine.cpu, bandwidth_bytes_per_s=rate / share, measured=True)
    return replace(machine, devices=(cpu, *machine.accelerators))


def judged_here(machine: Machine, path: Path, depths: Sequence[int], *, fitted: bool) -> Iterator[Judged]:
    """Yield prediction and measurement of prefill and decode at each of ``depths``."""
    card = read_card(path)
    options = LlamaCppOptions(path, max(depths) + SMALLEST_CONTEXT + 64, threads=1)
    with LlamaCpp.start(options) as engine:
        for depth in depths:
            for what, measured in undisturbed(engine, depth).items():
                speed = predicted(machine, card, measured.depth)
                interval = (speed.prefill if what == "prefill" else speed.decode) if speed else None
                if speed is not None and interval is not None:
                    case = f"{path.stem}, here, depth {measured.depth:,}"
                    yield Judged(case, what, interval, measured.value, fitted, speed.limit)


def undisturbed(engine: LlamaCpp, depth: int) -> dict[str, Measurement]:
    """Return the best prefill and decode behind ``depth`` tokens, a second of the engine's own processor time."""
    label = RunLabel("", "", MICRO_BATCH)
    process = psutil.Process(engine.pid)
    best: dict[str, Measurement] = {}
    for number in range(1, RUNS + 1):
        began, worked = time.perf_counter(), sum(process.cpu_times()[:2])
        found = measure(engine, depth, label, runs=1, first=number)
        share = (sum(process.cpu_times()[:2]) - worked) / (time.perf_counter() - began)
        for what, measured in found.items():
            value = measured.value / min(1.0, share)
            if what not in best or value > best[what].value:
                best[what] = replace(measured, value=value)
    return best


def predicted(machine: Machine, card: ModelCard, depth: int) -> Speed | None:
    """Return the prediction for ``card`` in this machine's memory, computed by one thread."""
    layers = frozenset(int(tensor.name.split(".")[1]) for tensor in card.tensors if "_exps" in tensor.name)
    placement = everything_on("cpu", card.layers, layers)
    return predict(machine, card, placement, kv_type="f16", micro_batch=MICRO_BATCH, depth=depth, threads=1)
