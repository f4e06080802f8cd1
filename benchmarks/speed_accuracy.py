"""Compares predicted speeds with published runs, and with runs of the real engine on this machine.

    python benchmarks/speed_accuracy.py [--speeds FILE.csv] [--here [--quick]]

The table has the columns of a published-speeds file: model, quant, engine, accelerator and its memory and bandwidth,
host and its bandwidth, where the experts are, depth, prefill and decode in tokens a second, and a note. Empty cells are
filled from what the texts say (12 channels of DDR5, an EPYC's cores); a row whose model is not known is named and left
out. Prints for every case the prediction, then the truth, worst first, and one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from header_only import SHAPES, Shape

from quietmind.base.errors import QuietmindError
from quietmind.machine.datasheets import datasheet_like
from quietmind.machine.machine import Device, Host, Link, Machine
from quietmind.model.card import LayerKind, ModelCard, Tensor
from quietmind.model.ggml_types import BY_NAME
from quietmind.model.open import open_card
from quietmind.plan.interval import Interval
from quietmind.plan.placement import Placement
from quietmind.plan.roofline import Engine
from quietmind.plan.speed import predict

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "bench" / "published_speeds.csv"
WITHIN = 0.2

# Constants were fitted on this model's rows with these accelerators, and those of attention on its rows with a depth;
# all others are held out.
FITTED = ("RTX 5090", "RTX A6000")
FITTED_MODEL = "Qwen3-235B-A22B"
FITTED_DEPTHS = (30_000, 32_000)

# Types of ik_llama.cpp that GGUF proper lacks: bits a weight (ggml/include/ggml.h and the block structs of that fork).
IK_BITS = {"iq2_k": 2.375, "iq3_k": 3.4375, "iq4_k": 4.5, "iq5_k": 5.5, "iq6_k": 6.625, "iq4_ks": 4.25, "iq4_kss": 4.0}

# Recipes as published beside the runs: type of what every token reads, of the experts' gate and up, and of their down.
RECIPES = {
    "IQ3_K": ("q8_0", "iq3_k", "iq4_k"),
    "IQ2_K": ("q8_0", "iq2_k", "iq3_k"),
    "IQ4_K": ("q8_0", "iq4_k", "iq5_k"),
}

# What the texts mean: dense half-precision TFLOPS with f32 accumulation, and GB/s of the link, as NVIDIA's architecture
# papers state them.
ACCELERATORS = {
    "5090": (209.5, 63.0),
    "4090": (165.2, 31.5),
    "3090 ti": (80.0, 31.5),
    "3090": (71.0, 31.5),
    "a6000": (154.8, 31.5),
    "6000 ada": (364.2, 31.5),
    "pro 6000": (503.8, 63.0),
    "a100": (312.0, 31.5),
    "h100": (989.0, 63.0),
    "h200": (989.0, 63.0),
}
APPLE = re.compile(r"\bm[1-9] ?(?:max|ultra|pro)\b|\bapple\b")
PROCESSORS = {
    "9355": 32,
    "9654": 96,
    "9754": 128,
    "9575f": 64,
    "9374f": 32,
    "9950x": 16,
    "7950x": 16,
    "14900k": 24,
    "13900k": 24,
}
DESKTOP_CORES = 16  # a desktop that somebody put 100 GB and more into
CHANNEL_GB_PER_S = {"ddr4": 25.6, "ddr5": 48.0}  # 3,200 and 6,000 million transfers of 8 bytes


@dataclass(frozen=True)
class Case:
    """A run that somebody published, as a prediction needs it. ``where`` is the line in the table."""

    where: str
    machine: Machine
    card: ModelCard
    placement: Placement
    micro_batch: int
    depth: int
    engine: Engine
    prefill: float | None
    decode: float | None
    fitted: bool


@dataclass(frozen=True)
class Judged:
    """A prediction beside the truth, in tokens a second."""

    case: str
    what: str
    predicted: Interval
    truth: float
    fitted: bool
    limit: str

    @property
    def error(self) -> float:
        """How far the middle is off, as a share of the truth."""
        return self.predicted.mid / self.truth - 1

    @property
    def inside(self) -> bool:
        """Whether the truth is in the interval."""
        return self.predicted.low <= self.truth <= self.predicted.high


def speed_rows(speeds: Path) -> tuple[list[Case], list[str]]:
    """Return the cases of a table, and a line for each row that says nothing that could be predicted."""
    cases, left_out = [], []
    with speeds.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            given = {key.strip(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
            try:
                cases.append(_case(given, number))
            except (KeyError, ValueError, QuietmindError) as error:
                left_out.append(f"line {number}: {given.get('model', '')} {given.get('quant', '')}: {error}")
    return cases, left_out


def _case(row: dict[str, str], number: int) -> Case:
    prefill, decode = _number(row.get("prefill_tok_s")), _number(row.get("decode_tok_s"))
    if prefill is None and decode is None:
        raise ValueError("it states no speed")
    depth = int(_number(row.get("prefill_depth")) or 0)
    machine = _machine(row)
    card = _card(row["model"], row["quant"])
    accelerator = machine.accelerators[0].key if machine.accelerators else "cpu"
    beside = accelerator
    room = machine.accelerators[0].memory_bytes if machine.accelerators else None
    experts_on = row.get("experts_on", "").lower()
    if experts_on in ("host", "cpu", "ram") or (not experts_on and room is not None and card.weight_bytes > room):
        beside = "cpu"
    mixtures = {int(tensor.name.split(".")[1]) for tensor in card.tensors if "_exps" in tensor.name}
    placement = Placement(
        dense=(accelerator,) * card.layers,
        experts=tuple(beside if layer in mixtures else "" for layer in range(card.layers)),
        kv=(accelerator,) * card.layers,
        embedding="cpu",
        output=accelerator,
    )
    note = row.get("note", "")
    batch = re.search(r"u(?:-)?b(?:atch)?\D{0,3}(\d+)", note)
    return Case(
        where=f"{row['model']} {row['quant']} {row.get('engine', '')}, {row.get('accelerator') or 'no GPU'}, "
        f"{row.get('host') or 'host'}, depth {depth:,}",
        machine=machine,
        card=card,
        placement=placement,
        micro_batch=int(batch[1]) if batch else 512,
        depth=depth,
        engine="ik_llama.cpp" if row.get("engine", "").lower().startswith("ik") else "llama.cpp",
        prefill=prefill,
        decode=decode,
        fitted=row["model"] == FITTED_MODEL and (row.get("accelerator") in FITTED or depth in FITTED_DEPTHS),
    )


def _number(text: str | None) -> float | None:
    return float(text.replace(",", "")) if text else None


def _machine(row: dict[str, str]) -> Machine:
    """Return the machine of a row: what its cells say, and what its texts mean where they are empty."""
    host, accelerator = row.get("host", ""), row.get("accelerator", "")
    text = host.lower()
    bandwidth = _number(row.get("host_gb_per_s")) or _host_gb_per_s(text)
    cores = next((count for name, count in PROCESSORS.items() if name in text), None)
    if cores is None and "desktop" in text:
        cores = DESKTOP_CORES
    cpu = Device("cpu", host or "host", bandwidth_bytes_per_s=None if bandwidth is None else bandwidth * 1e9)
    devices, links = [cpu], []
    if accelerator:
        known = next((facts for name, facts in ACCELERATORS.items() if name in accelerator.lower()), None)
        memory, stated = _number(row.get("accelerator_memory_gb")), _number(row.get("accelerator_gb_per_s"))
        apple, sheet = APPLE.search(accelerator.lower()) is not None, datasheet_like(accelerator)
        devices.append(
            Device(
                "metal" if apple else "cuda",
                accelerator,
                memory_bytes=None if memory is None else int(memory * 2**30),
                bandwidth_bytes_per_s=sheet.bandwidth_bytes_per_s if stated is None else stated * 1e9,
                flops=sheet.flops if known is None else known[0] * 1e12,
                key="metal" if apple else "cuda0",
                unified=apple,
            )
        )
        if known is not None:
            links.append(Link("cpu", "cuda0", known[1] * 1e9))
    instructions = ("avx2", "avx512f") if re.search(r"epyc 9|9950x|7950x|xeon", text) else ()
    about = Host("Linux", host, physical_cores=cores, instructions=instructions)
    return Machine(f"{accelerator} + {host}", tuple(devices), tuple(links), about)


def _host_gb_per_s(text: str) -> float | None:
    kind = next((name for name in CHANNEL_GB_PER_S if name in text), None)
    if "dual" in text or "desktop" in text:
        return 2 * CHANNEL_GB_PER_S[kind or "ddr5"]
    channels = re.search(r"(\d+)\s*-?\s*ch", text)
    if channels is None or kind is None:
        return None
    sockets = int(found[1]) if (found := re.search(r"\b(\d)\s*x\s", text)) else 1
    return sockets * int(channels[1]) * CHANNEL_GB_PER_S[kind]


def _card(model: str, quantization: str) -> ModelCard:
    """Return the card of a published model in a published quantization.

    From the catalogue where it knows both; else from the public shape and what a recipe's name says.
    """
    if not quantization.strip():
        raise ValueError("it states no quantization")
    try:
        return open_card(model, quantization)
    except QuietmindError:
        shape = next((shape for shape in SHAPES if shape.name.lower() == model.lower()), None)
        if shape is None:
            raise ValueError("no such model is known") from None
    simple = re.sub(r"_(m|s|l|xl)$", "", quantization.lower())
    dense, gate, down = RECIPES.get(quantization.upper(), (simple, simple, simple))
    for kind in (dense, gate, down):
        if kind not in BY_NAME and kind not in IK_BITS:
            raise ValueError("no such quantization is known")
    return card_of(shape, dense, gate, down)


def card_of(shape: Shape, dense: str, gate: str, down: str) -> ModelCard:
    """Return the card of a public shape (like Qwen3) with these types: dense parts, experts' gate and up, and down."""
    queries, keys, hidden = shape.heads * shape.head, shape.kv_heads * shape.head, shape.hidden
    layer = [
        _tensor("attn_q", dense, hidden, queries),
        _tensor("attn_k", dense, hidden, keys),
        _tensor("attn_v", dense, hidden, keys),
        _tensor("attn_output", dense, queries, hidden),
    ]
    if shape.experts:
        layer += [
            _tensor("ffn_gate_inp", "f32", hidden, shape.experts),
            _tensor("ffn_gate_exps", gate, hidden, shape.feed_forward, shape.experts),
            _tensor("ffn_up_exps", gate, hidden, shape.feed_forward, shape.experts),
            _tensor("ffn_down_exps", down, shape.feed_forward, hidden, shape.experts),
        ]
    else:
        layer += [
            _tensor("ffn_gate", gate, hidden, shape.feed_forward),
            _tensor("ffn_up", gate, hidden, shape.feed_forward),
            _tensor("ffn_down", down, shape.feed_forward, hidden),
        ]
    tensors = [_tensor("token_embd", dense, hidden, shape.vocabulary)]
    if not shape.tied:
        tensors.append(_tensor("output", dense, hidden, shape.vocabulary))
    for number in range(shape.layers):
        tensors += [replace(tensor, name=f"blk.{number}.{tensor.name}") for tensor in layer]
    return ModelCard(
        name=shape.name,
        path=Path(shape.name),
        arch=shape.arch,
        layers=shape.layers,
        hidden=hidden,
        heads=shape.heads,
        kv_heads=(shape.kv_heads,) * shape.layers,
        key_length=shape.head,
        value_length=shape.head,
        feed_forward=shape.feed_forward,
        vocabulary=shape.vocabulary,
        native_context=shape.context,
        layer_kinds=(LayerKind.FULL,) * shape.layers,
        sliding_window=None,
        experts=shape.experts,
        experts_used=shape.experts_used,
        tensors=tuple(tensors),
        file_bytes=0,
        exact=False,
    )


def _tensor(name: str, kind: str, *extents: int) -> Tensor:
    elements = prod(extents)
    size = elements * IK_BITS[kind] / 8 if kind in IK_BITS else elements * BY_NAME[kind].bytes_per_element
    return Tensor(f"{name}.weight", extents, kind, int(size))


def judged(case: Case) -> Iterator[Judged]:
    """Yield the prediction of each speed that ``case`` states, beside it. Nothing where none can be made."""
    speed = predict(
        case.machine,
        case.card,
        case.placement,
        kv_type="f16",
        micro_batch=case.micro_batch,
        depth=case.depth,
        engine=case.engine,
    )
    if speed is None:
        return
    for what, predicted, truth in (("prefill", speed.prefill, case.prefill), ("decode", speed.decode, case.decode)):
        if truth is not None and predicted is not None:
            yield Judged(case.where, what, predicted, truth, case.fitted, speed.limit)


def summary(results: Sequence[Judged], left_out: Sequence[str]) -> dict[str, object]:
    """Return the counts and shares, of all cases and of those that nothing was fitted on."""
    held_out = [result for result in results if not result.fitted]
    return {
        "speed_cases": len(results),
        "speed_within_20pct": _share(results, lambda result: abs(result.error) <= WITHIN),
        "speed_in_interval": _share(results, lambda result: result.inside),
        "fitted_rows": len(results) - len(held_out),
        "held_out": {
            "cases": len(held_out),
            "within_20pct": _share(held_out, lambda result: abs(result.error) <= WITHIN),
            "in_interval": _share(held_out, lambda result: result.inside),
        },
        "by_kind": {
            what: _share([r for r in results if r.what == what], lambda result: abs(result.error) <= WITHIN)
            for what in ("prefill", "decode")
        },
        "left_out": list(left_out),
    }


def _share(results: Sequence[Judged], holds: Callable[[Judged], bool]) -> float | None:
    return round(sum(map(holds, results)) / len(results), 3) if results else None


def run(speeds_csv: Path | None, *, here: Sequence[Judged] = ()) -> dict[str, object]:
    """Judge every row of ``speeds_csv`` and the runs in ``here``, print them worst first, and return the summary."""
    cases, left_out = speed_rows(speeds_csv) if speeds_csv is not None else ([], [])
    results = [*(result for case in cases for result in judged(case)), *here]
    for result in sorted(results, key=lambda result: -abs(result.error)):
        print(_line(result))
    for line in left_out:
        print(f"left out: {line}")
    return summary(results, left_out)


def _line(result: Judged) -> str:
    notes = ["" if result.inside else "OUTSIDE", "fitted" if result.fitted else ""]
    if result.what == "decode":
        notes.append(f"waits for {result.limit}")
    return (
        f"{result.what:<7} predicted {result.predicted!s:<20} measured {result.truth:>6.1f} tokens/s "
        f"{result.error:+5.0%}  {'; '.join([result.case, *(note for note in notes if note)])}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--speeds", type=Path, help="table of published speeds")
    parser.add_argument("--here", action="store_true", help="also run the real engine on this machine (minutes)")
    parser.add_argument("--quick", action="store_true", help="with --here: two small models only")
    given = parser.parse_args()
    speeds = given.speeds or (PUBLISHED if PUBLISHED.exists() else None)
    here: list[Judged] = []
    if given.here:
        from speed_here import runs_here

        here = runs_here(given.quick)
    print(json.dumps(run(speeds, here=here), ensure_ascii=False))


if __name__ == "__main__":
    main()
