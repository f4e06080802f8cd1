"""A notebook read once against reading it for each question: first token, equal answers, edits, peers, faults.

    python benchmarks/notebooks.py --model FILE.gguf [--text DIR] [--points 1k,4k,8k] [--questions 20] [--kills 50]
        [--parts speed,identity,peers,edit,faults,questions]

``fresh`` is the time to the first token of a prompt that the engine has not seen; ``restored`` the same in another,
newly started engine, from looking for the snapshot on. Both go through our own port, store and layout, as ``quietmind
ask`` does. The questions ask for words of the notes; an answer of 64 greedy tokens after each must be the same both
ways. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import notebook_faults
import notebook_questions

from quietmind.base.units import format_bytes, parse_tokens
from quietmind.engine.port import Delta, Engine, Finished, Prompt, Request, saving
from quietmind.kvstore.store import Store
from quietmind.notes.document import Passage
from quietmind.plan.plan import Ask
from quietmind.workspace.cost import prefill_seconds
from quietmind.workspace.identity import can_go_back, fingerprint_of
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.layout import Layout, lay_out
from quietmind.workspace.notebook import Member, Version, arranged
from quietmind.workspace.reading import read, restore
from quietmind.workspace.workspace import Workspace

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "archive"
PARTS = ("speed", "identity", "peers", "edit", "faults", "questions")

ANSWER_TOKENS = 64
ROOM_FOR_QUESTION = 192  # the question and its answer
RETRIEVED = 6  # passages that tools without notebooks send with each question
NOTES, EDITS = 40, 400

# What a restored first token takes: unpacking, hashing and loading on two cores, and one batch of question.
UNPACKED_PER_SECOND = 600e6
LEAST_S = 0.2


@dataclass(frozen=True)
class Bench:
    """A model that is planned, the notes as passages, and a folder to work in."""

    model: str
    start: Start
    archive: Workspace
    passages: Sequence[Passage]
    folder: Path

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Start an engine that has seen nothing."""
        with self.start.engine(self.folder) as engine:
            yield engine

    def layout(self, engine: Engine, tokens: int) -> Layout:
        """Return as many of the notes as ``tokens`` of context hold beside a question."""
        reserve = max(ROOM_FOR_QUESTION, engine.context - tokens)
        return lay_out(engine, self.passages, reserve=reserve)


def generated(engine: Engine, prompt: Prompt, tokens: int) -> tuple[str, float, Finished]:
    """Return a greedy continuation, the seconds to its first piece, and how it ended."""
    began = time.perf_counter()
    first, text = 0.0, []
    for event in engine.generate(Request(prompt, max_tokens=tokens)):
        if isinstance(event, Delta):
            first = first or time.perf_counter() - began
            text.append(event.text)
        else:
            return "".join(text), first or time.perf_counter() - began, event
    raise AssertionError("a generation ends with Finished or an error")


def questions(passages: Sequence[Passage], count: int, chance: random.Random) -> list[str]:
    """Return questions about what stands in the notes: about a word of one each."""
    asked = []
    for passage in chance.choices(passages, k=count):
        words = [word.strip(".,:;()[]*#") for word in passage.text.split()]
        word = chance.choice([word for word in words if len(word) > 5 and word.isascii()] or ["it"])
        asked.append(f"What do the notes say about {word}?")
    return asked


def stored(bench: Bench, store: Store, tokens: int) -> tuple[Layout, int, float]:
    """Read a notebook of so many tokens and store it; return its layout, the snapshot's bytes and the seconds."""
    with bench.engine() as engine:
        layout = bench.layout(engine, tokens)
        fingerprint = fingerprint_of(engine, bench.start.card, bench.start.plan)
        report = read(engine, store, fingerprint, layout, label=str(tokens), cut=can_go_back(bench.start.card))
    assert report.snapshot is not None
    return layout, report.snapshot.bytes, report.spent


def from_store(bench: Bench, store: Store, layout: Layout, question: str, tokens: int) -> tuple[str, float, Finished]:
    """Ask a newly started engine that has to restore the notebook first; the seconds begin with looking for it."""
    with bench.engine() as engine:
        fingerprint = fingerprint_of(engine, bench.start.card, bench.start.plan)
        began = time.perf_counter()
        restored = restore(engine, store, fingerprint, layout.prefix_tokens())
        took = time.perf_counter() - began
        text, first, end = generated(engine, layout.asking(question), tokens)
    assert restored.tokens == len(layout.prefix_tokens()), restored
    return text, took + first, end


def speed(bench: Bench, points: Sequence[int]) -> list[dict[str, Any]]:
    """Return fresh and restored first tokens for notebooks of these sizes."""
    rows = []
    for point in points:
        store = Store(bench.folder / f"speed-{point}")
        question = questions(bench.passages, 1, random.Random(point))[0]
        with bench.engine() as engine:
            layout = bench.layout(engine, point)
            prompt = layout.asking(question)
            tokens = len(engine.tokenize(prompt))
            print(predicted(bench.start, tokens), flush=True)
            _, fresh, end = generated(engine, prompt, 1)
            assert end.timings.cached == 0, "the engine had seen something of the prompt"
        layout, size, _ = stored(bench, store, point)
        restored = statistics.median(from_store(bench, store, layout, question, 1)[1] for _ in range(3))
        row: dict[str, Any] = {
            "tokens": tokens,
            "fresh_s": round(fresh, 3),
            "restored_s": round(restored, 3),
            "question_tokens": tokens - len(layout.prefix_tokens()),
            "ratio": round(fresh / restored, 1),
            "snapshot_bytes": size,
            "raw_bytes": store.snapshots()[0].header.raw_bytes,
        }
        rows.append(row)
        print(
            f"measured   {tokens:>7,} tokens: fresh {fresh:.2f} s, restored {restored:.3f} s, {row['ratio']} times "
            f"sooner; {format_bytes(size)} of {format_bytes(row['raw_bytes'])}",
            flush=True,
        )
    return rows


def predicted(start: Start, tokens: int) -> str:
    """Return what the plan says of a point before it is measured."""
    from quietmind.plan.kv import bytes_per_token, kv_type

    fresh = prefill_seconds(start.speed, tokens)
    raw = tokens * bytes_per_token(start.card, kv_type(start.plan.kv_type))
    restored = LEAST_S + raw / UNPACKED_PER_SECOND
    ratio = "an unknown number of" if fresh is None else f"{fresh.mid / restored:.0f}"
    return (
        f"predicted  {tokens:>7,} tokens: fresh {fresh or 'unknown'} s, restored {restored:.2f} s, {ratio} times sooner"
    )


def identity(bench: Bench, point: int, count: int, controls: int) -> dict[str, Any]:
    """Ask questions of one notebook, each in an engine that has seen nothing and in one that restores; compare.

    Fresh is what ``quietmind ask`` does with a notebook that is not read: the notes are prefilled, then the question.
    As a control, the same prompt in one prefill, where the question shares a batch with the last notes, and the same
    again in batches of half the size: what that changes is the engine's rounding, without any snapshot.
    """
    print(f"predicted  the same {ANSWER_TOKENS} tokens in {count} of {count} questions at {point:,} tokens", flush=True)
    store = Store(bench.folder / "identity")
    layout, _, _ = stored(bench, store, point)
    small = Ask(bench.start.ask.context, micro_batch=bench.start.plan.micro_batch // 2)
    halved = replace(bench, start=prepare(bench.model, small, warn=lambda _: None))
    same: Counter[str] = Counter()
    for number, question in enumerate(questions(bench.passages, count, random.Random(1))):
        fresh = in_new_engine(bench, layout.prefix(), layout.asking(question))
        restored, _, _ = from_store(bench, store, layout, question, ANSWER_TOKENS)
        same["restored"] += fresh == restored
        if number < controls:
            in_one = in_new_engine(bench, layout.asking(question))
            same["in one prefill"] += fresh == in_one
            same["in batches of half the size"] += in_one == in_new_engine(halved, layout.asking(question))
        print(f"\r{number + 1} of {count}", end="", file=sys.stderr, flush=True)
    print(f"\rmeasured   the same in {same['restored']} of {count}", flush=True)
    for control in ("in one prefill", "in batches of half the size"):
        print(f"           without any snapshot, but {control}: in {same[control]} of {controls}", flush=True)
    found = {kind: number for kind, number in same.items() if kind != "restored"}
    return {"questions": count, "identical": same["restored"], "controls": {"questions": controls} | found}


def in_new_engine(bench: Bench, *prompts: Prompt) -> str:
    """Give these prompts to an engine that has seen nothing; return how it continues the last."""
    with bench.engine() as engine:
        for prompt in prompts[:-1]:
            generated(engine, prompt, 1)
        return generated(engine, prompts[-1], ANSWER_TOKENS)[0]


def peers(bench: Bench, point: int) -> dict[str, Any]:
    """Return the first token of what else there is: the engine's own cache after a restart, and sent passages."""
    store = Store(bench.folder / "peers")
    asked = questions(bench.passages, 3, random.Random(2))
    layout, size, _ = stored(bench, store, point)
    ours = statistics.median(from_store(bench, store, layout, question, 1)[1] for question in asked)
    with bench.engine() as engine:  # what it has cached in memory is gone with its process
        _, restarted, _ = generated(engine, layout.asking(asked[0]), 1)
        raw = bench.folder / "slot"
        saving(engine).save(raw)
    with bench.engine() as engine:
        began = time.perf_counter()
        saving(engine).restore(raw)
        took = time.perf_counter() - began
        by_hand = took + generated(engine, layout.asking(asked[1]), 1)[1]
    sent, sizes = [], []
    with bench.engine() as engine:
        for question in asked:
            hits = [hit.passage for hit in bench.archive.search(question, RETRIEVED)]
            prompt = lay_out(engine, hits, reserve=ROOM_FOR_QUESTION).asking(question)
            sizes.append(len(engine.tokenize(prompt)))
            sent.append(generated(engine, prompt, 1)[1])
    result = {
        "tokens": len(layout.prefix_tokens()),
        "ours_s": round(ours, 3),
        "ours_bytes": size,
        "engine_cache_after_restart_s": round(restarted, 3),
        "slot_file_by_hand_s": round(by_hand, 3),
        "slot_file_bytes": raw.stat().st_size,
        "passages_sent_s": round(statistics.median(sent), 3),
        "passages_sent_tokens": int(statistics.median(sizes)),
    }
    print(f"peers      at {result['tokens']:,} tokens, first token: {json.dumps(result)}", flush=True)
    return result


def edit(bench: Bench) -> dict[str, Any]:
    """Return the share of a notebook of 40 notes that an edit has read again, by the order of the notes."""
    print(f"predicted  {EDITS} edits of a {NOTES}-note notebook: file order reads half of it again, whoever is edited")
    with bench.engine() as engine:
        sizes: dict[Path, int] = {}
        for passage in bench.passages:
            if passage.path in sizes or len(sizes) < NOTES:
                sizes[passage.path] = sizes.get(passage.path, 0) + len(engine.tokenize(passage.text))
    shares: dict[str, dict[str, float]] = {"stable_first": {}, "file_order": {}}
    for kind in ("uniform", "zipf"):
        chance = random.Random(3)
        paths = sorted(sizes)
        ranked = chance.sample(paths, len(paths))
        weights = [1.0 if kind == "uniform" else 1 / rank for rank in range(1, len(ranked) + 1)]
        edits = chance.choices(ranked, weights, k=EDITS)
        for order, by_kind in shares.items():
            by_kind[kind] = round(read_again(sizes, edits, stable=order == "stable_first"), 4)
    for order, by_kind in shares.items():
        print(f"measured   {order}: {', '.join(f'{share:.1%} read again ({kind})' for kind, share in by_kind.items())}")
    return {"notes": len(sizes), "tokens": sum(sizes.values()), "edits": EDITS, **shares}


def read_again(sizes: Mapping[Path, int], edits: Sequence[Path], *, stable: bool) -> float:
    """Return the mean share of the tokens that stand at or behind the first note that differs, over some edits."""
    now = {Member(path): Version("0", 0) for path in sizes}
    order = tuple(sorted(now, key=lambda member: str(member.path)))
    total, shares = sum(sizes.values()), []
    for when, path in enumerate(edits, 1):
        before = [(member, now[member].sha256) for member in order]
        now[Member(path)] = Version(str(when), when)
        place = [member.path for member in order].index(path)
        kept = list(accumulate((sizes[member.path] for member in order), initial=0))[place]
        shares.append(1 - kept / total)
        order = arranged(before, now) if stable else order
    return statistics.mean(shares)


@contextmanager
def prepared(model: str, text: Path, context: int) -> Iterator[Bench]:
    """Index the notes and plan the model."""
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder) / "workspace", create=True) as archive:
        archive.index(text)
        start = prepare(model, Ask(context), warn=lambda line: print(f"warning: {line}", file=sys.stderr))
        passages = [passage for passage in archive.sample(count=1 << 30) if passage.text.strip()]
        yield Bench(model, start, archive, passages, Path(folder))


def main() -> None:
    """Print predictions, measurements, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--text", type=Path, default=EXAMPLES)
    parser.add_argument("--points", default="1k,4k,8k")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--controls", type=int, default=8)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    points = [parse_tokens(point) for point in given.points.split(",")]
    parts = given.parts.split(",")
    with prepared(given.model, given.text, max(points)) as bench:
        result: dict[str, Any] = {"model": bench.start.card.name, "points": []}
        if "speed" in parts:
            result["points"] = speed(bench, points)
        if "identity" in parts:
            result |= identity(bench, points[0], given.questions, given.controls)
        if "edit" in parts:
            result["edit"] = edit(bench)
        if "peers" in parts:
            result["peers"] = peers(bench, points[min(1, len(points) - 1)])
        if "faults" in parts:
            result["faults"] = notebook_faults.all_faults(given.model, given.text, bench.folder, given.kills)
        if "questions" in parts:
            result["answers"] = notebook_questions.asked(given.model, bench.folder)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
