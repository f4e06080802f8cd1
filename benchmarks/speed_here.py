"""Runs the real engine on this machine: small real models at depths, and random models of many types and mixtures.

Every case is predicted from the memory bandwidth that is measured first. The best of several runs counts, since other
programs only ever slow a run down; on a busy machine the measurements stay low all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

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
from quietmind.plan.placement import everything_on
from quietmind.plan.speed import Speed, predict
from quietmind.workspace.bench import SMALLEST_CONTEXT, measure
from quietmind.workspace.measurements import RunLabel

MICRO_BATCH = 512
REAL = ("tiny", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M")
REAL_DEPTHS = (0, 1000, 4000)

# Rates of the processor were fitted on one thread with these types; mixtures and two threads were not looked at.
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
    """Return this machine with the bandwidth that its cores reach together right now."""
    machine = probe()
    rate = ram_read_rate(machine.host.usable_cores or 1, machine.cpu.free_bytes)
    if rate is None:
        return machine
    cpu = replace(machine.cpu, bandwidth_bytes_per_s=rate, measured=True)
    print(f"memory is read at {rate / 1e9:.1f} GB/s")
    return replace(machine, devices=(cpu, *machine.accelerators))


def judged_here(machine: Machine, path: Path, depths: Sequence[int], *, fitted: bool) -> Iterator[Judged]:
    """Yield prediction and measurement of prefill and decode at each of ``depths``, all predicted before any run."""
    card = read_card(path)
    label = RunLabel("", "", MICRO_BATCH)
    options = LlamaCppOptions(path, max(depths) + SMALLEST_CONTEXT + 64, threads=machine.host.usable_cores)
    with LlamaCpp.start(options) as engine:
        for depth in depths:
            for what, measured in measure(engine, depth, label, runs=3).items():
                speed = predicted(machine, card, measured.depth)
                if speed is not None:
                    interval = speed.prefill if what == "prefill" else speed.decode
                    case = f"{path.stem}, here, depth {measured.depth:,}"
                    yield Judged(case, what, interval, measured.value, fitted, speed.limit)


def predicted(machine: Machine, card: ModelCard, depth: int) -> Speed | None:
    """Return the prediction for ``card`` in this machine's memory."""
    layers = frozenset(int(tensor.name.split(".")[1]) for tensor in card.tensors if "_exps" in tensor.name)
    placement = everything_on("cpu", card.layers, layers)
    return predict(machine, card, placement, kv_type="f16", micro_batch=MICRO_BATCH, depth=depth)
