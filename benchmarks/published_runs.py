"""Reads tables of speeds that people published: one row a run, each as a prediction needs it.

The columns are model, quant, engine, accelerator and its memory and bandwidth, host and its bandwidth, where the
experts are, depth, prefill and decode in tokens a second, a note; and in our own table where it was published and
whether constants were fitted on it. Rows from line 158 on were dealt out before any of them was predicted: constants
may be fitted on those whose ``sort`` is even. A note may say "ubatch N", "prompt N", "threads N", "n-cpu-moe N",
"ngl N", "KV TYPE".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from published_machines import machine_of, number
from published_models import card_named

from quietmind.base.errors import QuietmindError, UsageError
from quietmind.machine.machine import Machine
from quietmind.model.card import ModelCard
from quietmind.plan.placement import Placement
from quietmind.plan.roofline import Engine

OWN = Path(__file__).parent / "published_speeds.csv"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "bench" / "published_speeds.csv"

REQUIRED = ("model", "quant", "prefill_tok_s", "decode_tok_s")
MICRO_BATCH = 512
LARGEST_TABLE = 1 << 24  # bytes
NOT_LLAMA_CPP = re.compile(r"vllm|sglang|transformers|exllama|tensorrt|mlx|mlc", re.IGNORECASE)

# Rows of another table that constants were fitted on before there was one of ours: Qwen3-235B-A22B with these.
FITTED_BEFORE = ("RTX 5090", "RTX A6000", "RTX 3090 Ti")


@dataclass(frozen=True)
class Case:
    """A run that somebody published, as a prediction needs it. ``where`` says which, for people.

    ``micro_batch`` tokens are prefilled at once behind ``depth`` others.
    """

    where: str
    machine: Machine
    card: ModelCard
    placement: Placement
    kv_type: str
    micro_batch: int
    depth: int
    threads: int | None
    engine: Engine
    prefill: float | None
    decode: float | None
    fitted: bool


def speed_rows(table: Path) -> tuple[list[Case], list[str]]:
    """Return the cases of a table, and a line for each row that says nothing that could be predicted.

    Raises UsageError for a file that is no such table.
    """
    cases, left_out = [], []
    for line, row in _rows(table):
        try:
            cases.append(_case(row))
        except (ValueError, QuietmindError) as error:
            left_out.append(f"line {line}: {row.get('model', '')} {row.get('quant', '')}: {error}")
    return cases, left_out


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows by the number of their line, cells stripped, missing cells empty."""
    try:
        if table.stat().st_size > LARGEST_TABLE:
            raise UsageError(f"{table}: more than {LARGEST_TABLE >> 20} MiB are no table of speeds")
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            missing = [name for name in REQUIRED if name not in columns]
            if missing:
                raise UsageError(f"{table}: the columns {', '.join(missing)} are missing; the first line names them")
            return [(reader.line_num, _cells(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: cannot be read as a table of speeds ({error}); give a CSV file in UTF-8") from error


def _cells(row: Mapping[str | None, object]) -> dict[str, str]:
    """Return the cells by their columns: those of required columns always, without what stands past the last one."""
    found = {str(name).strip(): value.strip() for name, value in row.items() if isinstance(value, str)}
    return dict.fromkeys(REQUIRED, "") | found


def _case(row: Mapping[str, str]) -> Case:
    prefill, decode = number(row["prefill_tok_s"]), number(row["decode_tok_s"])
    if not prefill and not decode:
        raise ValueError("it states no speed")
    engine = row.get("engine", "")
    if NOT_LLAMA_CPP.search(engine):
        raise ValueError(f"it was run by {engine}, which is not predicted")
    depth = int(number(row.get("prefill_depth")) or 0)
    machine, card, note = machine_of(row), card_named(row["model"], row["quant"]), row.get("note", "")
    batch, prompt = said(note, r"u-?b(?:atch)?\D{0,3}"), said(note, r"prompt (?:of )?")
    kv = re.search(r"\bKV (\w+_\d|b?f16)", note)
    placement = _placement(machine, card, row)
    unknown = [device for device in machine.devices if device.bandwidth_bytes_per_s is None]
    if any(device.key in placement.devices and not _embedding_only(device.key, placement) for device in unknown):
        raise ValueError(f"the memory bandwidth of {unknown[0].name} is not known")
    return Case(
        where=f"{row['model']} {row['quant']} {engine}, {row.get('accelerator') or 'no GPU'}, "
        f"{row.get('host') or 'host'}, depth {depth:,}" + (f", {note}" if note else ""),
        machine=machine,
        card=card,
        placement=placement,
        kv_type=kv[1] if kv else "f16",
        micro_batch=min(batch or MICRO_BATCH, prompt or batch or MICRO_BATCH),
        depth=depth,
        threads=said(note, r"threads "),
        engine=_engine(engine, note),
        prefill=prefill,
        decode=decode,
        fitted=_fitted(row),
    )


def _engine(name: str, note: str) -> Engine:
    """Return the family of kernels that a build of a month had: the month when llama.cpp's changed had the new ones."""
    built = re.search(r"build of (\d{4}-\d{2})", note)
    if name.lower().startswith("ik"):
        return "ik_llama.cpp 2025-05" if built and built[1] < "2025-06" else "ik_llama.cpp"
    return "llama.cpp b3000" if built and built[1] < "2024-06" else "llama.cpp"


def said(note: str, word: str) -> int | None:
    """Return the number behind ``word``, a pattern, in a note; None where there is none."""
    found = re.search(rf"\b{word}(\d+)", note, re.IGNORECASE)
    return int(found[1]) if found else None


def _embedding_only(key: str, placement: Placement) -> bool:
    return key not in (*placement.dense, *placement.experts, *placement.kv, placement.output)


def _placement(machine: Machine, card: ModelCard, row: Mapping[str, str]) -> Placement:
    """Return where things were: on the GPUs in equal parts, but what the row says stayed on the host."""
    note, experts_on = row.get("note", ""), row.get("experts_on", "").lower()
    layers, keys = card.layers, [device.key for device in machine.accelerators] or ["cpu"]
    homes = [keys[layer * len(keys) // layers] for layer in range(layers)]
    on_gpu = said(note, r"ngl ")
    if on_gpu is not None and machine.accelerators:  # counted from the end, the output first
        homes = ["cpu" if layer < layers + 1 - on_gpu else home for layer, home in enumerate(homes)]
    room = sum(device.memory_bytes or 0 for device in machine.accelerators)
    spilled = bool(room) and card.weight_bytes > room and on_gpu is None
    counted = said(note, r"n-?cpu-?moe[ =]") or said(experts_on, r"")
    if counted is None:
        counted = layers if experts_on.startswith(("host", "cpu", "ram")) or (spilled and not experts_on) else 0
    mixtures = {int(tensor.name.split(".")[1]) for tensor in card.tensors if "_exps" in tensor.name}
    return Placement(
        dense=tuple(homes),
        experts=tuple(
            "" if layer not in mixtures else "cpu" if layer < counted else homes[layer] for layer in range(layers)
        ),
        kv=tuple(homes),
        embedding="cpu",
        output="cpu" if on_gpu == 0 else keys[-1],
    )


def _fitted(row: Mapping[str, str]) -> bool:
    """Say whether constants were fitted on a row: our own table marks its rows, and others are found there."""
    stated = row.get("fitted", "").lower()
    if stated in ("yes", "no"):
        return stated == "yes"
    if row["model"] == "Qwen3-235B-A22B" and row.get("accelerator") in FITTED_BEFORE:
        return True
    return _key(row) in _fitted_keys()


def sort(row: Mapping[str, str]) -> int:
    """Return the number that decides of which half a row is: the same for all that one page says of one machine."""
    words = "|".join(row.get(name, "").strip() for name in ("source", "accelerator", "host"))
    return sha256(words.encode()).digest()[0]


def _key(row: Mapping[str, str]) -> tuple[object, ...]:
    texts = (re.sub(r"\W+", "", row.get(name, "").casefold()) for name in ("model", "quant", "accelerator"))
    speeds = (round(number(row.get(name)) or 0, 1) for name in ("prefill_tok_s", "decode_tok_s"))
    return (*texts, int(number(row.get("prefill_depth")) or 0), *speeds)


@cache
def _fitted_keys() -> frozenset[tuple[object, ...]]:
    return frozenset(_key(row) for _, row in _rows(OWN) if row["fitted"] == "yes")
