"""Snapshot codecs and their peers in one run: size, damage to answers, speed; the proof of the README's ratios.

    python benchmarks/snapshot_codecs.py --model FILE.gguf --calibrate DIR --text DIR [--points 3k,8k,24k]
        [--unlike DIR] [--codecs exact,perchannel,transform] [--questions 50] [--legs engine,float] [--plot FILE.svg]

Two legs. `engine`: llama.cpp itself, through our own adapters and store. `float`: the same weights and the same tokens
in 32-bit floats with transformers, where a KL divergence of 0.0005 can be seen; it needs torch, transformers and gguf
(and, for the peers, optimum-quanto and hqq), and is left out, with its reason, where they are not there.

The basis of `transform` is calibrated on the pages below --calibrate; those below --text must be others. Predictions
are printed before the measurements of a context, and one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import snapshot_codecs_calibrate as calibrate
import snapshot_codecs_engine as engine_leg
import snapshot_codecs_float as float_leg
import snapshot_codecs_peers as peers
import snapshot_codecs_plot as picture
import snapshot_codecs_sizes as sizes
import snapshot_codecs_table as table
from snapshot_codecs_table import Entry, Row

from quietmind.base.errors import QuietmindError, SnapshotNotUnderstood
from quietmind.base.units import parse_tokens
from quietmind.kvstore.rotation import Rotation, rotation_of
from quietmind.kvstore.store import Store
from quietmind.model.card import ModelCard
from quietmind.model.locate import locate
from quietmind.model.open import open_card
from quietmind.workspace.calibrate import TOKENS

LEGS = ("engine", "float")


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    model: Path
    card: ModelCard
    codecs: tuple[str, ...]
    peers: tuple[str, ...]
    legs: tuple[str, ...]
    questions: int
    continuations: int
    finer: int

    @property
    def learning(self) -> dict[str, bool]:
        """What there is to calibrate for."""
        return {
            "ours": "transform" in self.codecs,
            "peers": "float" in self.legs and bool({"KVQuant", "KVTC"} & set(self.peers)),
        }

    @property
    def rotation(self) -> Rotation | None:
        """How the model rotates K; None where that is not known."""
        try:
            return rotation_of(self.card)
        except SnapshotNotUnderstood:
            return None

    def entries(self, basis: calibrate.Calibrated, finer: int = 0) -> tuple[Entry, ...]:
        """Return the codecs that can be tried: of a model whose rotation is not known, the lossless ones."""
        known = self.codecs if self.rotation is not None else tuple(name for name in self.codecs if name == "exact")
        return table.entries(known, self.rotation, basis.basis, finer)


def engine_point(
    asked: Asked, pages: Path, tokens: int, basis: calibrate.Calibrated, folder: Path
) -> tuple[engine_leg.Exact, tuple[float_leg.Following, ...], list[Row]]:
    """Read a context of ``tokens`` tokens with the real engine; return it, what follows it, and the codecs' rows."""
    rows = []
    with engine_leg.running(str(asked.model), tokens, folder) as (start, engine):
        asks = (asked.questions, asked.continuations)
        found = engine_leg.read_exactly(engine, pages, tokens, asks, folder / "slot")
        right = sum(found.replies.right(found.case))
        print(
            f"measured   {len(found.case.tokens):,} tokens prefilled in {found.prefill_s:.1f} s, {right} of "
            f"{asked.questions} needles right with the exact cache",
            flush=True,
        )
        following = engine_leg.following(engine, found)
        if "engine" in asked.legs:
            store = Store(folder / "store")
            if basis.basis is not None:
                basis.basis.save(store.bases)
            for entry in asked.entries(basis):
                rows.append(printed(engine_leg.codec_row(engine, start, found, entry, store)))
            rows.append(printed(engine_leg.last_bits_row(engine, found)))
    if "engine" in asked.legs:
        types = engine_leg.ENGINE_TYPES if "llama.cpp" in asked.peers else ()
        rows += [printed(row) for row in engine_leg.peers(str(asked.model), found, folder, types)]
    return found, following, rows


def float_rows(
    asked: Asked,
    model: float_leg.FloatModel,
    read: tuple[engine_leg.Exact, tuple[float_leg.Following, ...], list[Row]],
    coded: tuple[Sequence[Entry], Sequence[peers.Peer]],
    folder: Path,
) -> Iterator[Row]:
    """Yield the rows of one context with what the leg in 32-bit floats adds, and those that it alone has."""
    found, following, rows = read
    known = {(row.name, row.level): row for row in rows}
    began = time.perf_counter()
    exact = model.read(found.case.tokens)
    judge = float_leg.Judge(model, exact, following)
    print(f"measured   read in 32-bit floats in {time.perf_counter() - began:.0f} s", flush=True)
    file, neighbours = folder / "arrays", float_leg.uses_neighbours(asked.rotation)
    exact.save(file, found.case.tokens, neighbours)
    for entry in coded[0]:
        packed = table.packed(entry.codec, file)
        row = known.pop((entry.name, entry.level), None)
        if row is None:
            row = Row(entry.name, entry.level, exact.tokens)
            row = packed.timed(table.sized(row, packed.size, exact.numbers))
        yield judged(row, judge, exact.loaded(packed.restored, neighbours))
    for peer in coded[1]:
        try:
            made = peer.code(exact)
        except (RuntimeError, TypeError, ValueError) as error:  # of a package that does not run here
            print(f"warning: {peer.name} {peer.level} is left out ({' '.join(str(error).split())[:120]})")
            continue
        row = known.pop((peer.name, peer.level), None)
        if row is None:
            row = table.sized(Row(peer.name, peer.level, exact.tokens), made.size, exact.numbers)
        yield judged(row, judge, made.cache)
    for row in known.values():  # lossless: what is left of the engine's leg
        yield row.with_damage(judge.nothing) if row.name == "zstd" else row


def judged(row: Row, judge: float_leg.Judge, cache: float_leg.Cache) -> Row:
    """Return the row with what ``cache`` does to the predictions, and print that."""
    damage = judge.judged(cache)
    shown = Row(row.name, row.level, row.tokens, row.ratio, row.bits_per_value)
    printed(shown.with_damage(damage))
    return row.with_damage(damage)


def printed(row: Row) -> Row:
    """Print a row as a line, and return it."""
    print(f"measured   {row.line()}", flush=True)
    return row


def measured(
    asked: Asked, contexts: Sequence[tuple[Path, int]], basis: calibrate.Calibrated, folder: Path
) -> tuple[list[Row], float]:
    """Return the rows of contexts of some folders' pages, and the bytes of a file that the engine loads a second."""
    model = None
    if "float" in asked.legs:
        try:
            model = float_leg.FloatModel(asked.model)
        except float_leg.NotHere as error:
            print(f"warning: no leg in 32-bit floats: {error}", file=sys.stderr)
    others = list(peers.peers(asked.peers, basis.caches)) if model is not None else []
    rows: list[Row] = []
    loads: list[float] = []
    for pages, tokens in contexts:
        print(f"\n{tokens:,} tokens of {pages.name}")
        for title, what in table.predicted(asked.codecs, asked.peers).items():
            print(f"predicted  {title}: {what}")
        read = engine_point(asked, pages, tokens, basis, folder)
        loads.append(read[0].slot.stat().st_size / read[0].load_s)
        found: Iterable[Row] = read[2]
        if model is not None:
            found = float_rows(asked, model, read, (asked.entries(basis, asked.finer), others), folder)
        rows += [replace(row, text=pages.name) for row in found]
    return rows, max(loads)


def report(
    asked: Asked, rows: Sequence[Row], load: float, basis: calibrate.Calibrated, given: argparse.Namespace
) -> dict[str, Any]:
    """Return what the last line says, after what it comes to."""
    ours = [row for row in rows if row.name in table.CODECS]
    others = [row for row in rows if row.name not in table.CODECS]
    largest = max(row.tokens for row in rows if row.text == given.text.name)
    if "transform" in asked.codecs:
        print("\nwhat the levels promise:")
    kept = sizes.targets(ours, None if given.unlike is None else given.unlike.name)
    print("\nby arithmetic from these numbers:")
    counted = [row for row in ours if row.tokens == largest and row.text == given.text.name and " x " not in row.level]
    return {
        "model": asked.model.stem,
        "tokens": sorted({row.tokens for row in rows}),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "codecs": [row.to_json() for row in ours],
        "peers": [row.to_json() for row in (*others, *peers.PUBLISHED)],
        "calibration": basis.cost,
        "targets": kept,
        "arithmetic_at": largest,
        "arithmetic": sizes.arithmetic(counted, load),
    }


def points_of(words: str) -> list[int]:
    """Return the numbers of tokens that ``3k,8k`` says."""
    return [parse_tokens(word) for word in words.split(",")]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A GGUF file, or the name of a model that is there.")
    parser.add_argument("--calibrate", type=Path, default=None, help="A folder of pages; without it, no transform.")
    parser.add_argument("--calibration-tokens", type=parse_tokens, default=TOKENS)
    parser.add_argument("--basis", type=Path, default=None, help="A folder to keep the basis in, and to find it in.")
    parser.add_argument("--text", type=Path, required=True, help="A folder of other pages to read.")
    parser.add_argument("--unlike", type=Path, default=None, help="Pages of another kind, read at the first point.")
    parser.add_argument("--points", type=points_of, default=points_of("3k,8k,24k"))
    parser.add_argument("--codecs", default=",".join(table.CODECS))
    parser.add_argument("--peers", default=",".join(peers.PEERS))
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--continuations", type=int, default=8)
    parser.add_argument("--finer", type=int, default=0, help="Further steps of each codec, for the picture.")
    parser.add_argument("--legs", default=",".join(LEGS))
    parser.add_argument("--plot", type=Path, default=None, help="Where to write the picture, as SVG.")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Print predictions, measurements, and one line of JSON."""
    given = arguments(words)
    if given.plot is not None:
        picture.require(given.plot)  # before hours of measuring
    model = locate(given.model)
    asked = Asked(
        model=model,
        card=open_card(str(model)),
        codecs=tuple(given.codecs.split(",")),
        peers=tuple(filter(None, given.peers.split(","))),
        legs=tuple(given.legs.split(",")),
        questions=given.questions,
        continuations=given.continuations,
        finer=given.finer,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        basis = calibrate.Calibrated()
        if given.calibrate is not None and asked.rotation is not None:
            basis = calibrate.calibrated(
                model, given.calibrate, given.calibration_tokens, folder, given.basis, **asked.learning
            )
        if "transform" in asked.codecs and basis.basis is None:
            why = (
                "the model's rotation is not known"
                if asked.rotation is None
                else "learn its basis with --calibrate DIR"
            )
            print(f"warning: no transform: {why}", file=sys.stderr)
            asked = replace(asked, codecs=tuple(name for name in asked.codecs if name != "transform"))
        contexts = [(given.text, tokens) for tokens in given.points]
        contexts += [(given.unlike, given.points[0])] if given.unlike is not None else []
        rows, load = measured(asked, contexts, basis, folder)
        result = report(asked, rows, load, basis, given)
        if given.plot is not None:
            shown = [row for row in rows if row.tokens == result["arithmetic_at"] and row.text == given.text.name]
            picture.plot(shown, f"{model.stem}, {result['arithmetic_at']:,} tokens", given.plot)
        print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    try:
        main()
    except QuietmindError as error:
        sys.exit(f"error: {error}")
