"""What codecs do to a real engine's answers, its own small cache types beside them: for benchmarks/snapshot_codecs.py.

One context is prefilled and saved once. Each codec packs and unpacks that file; the engine restores it and is asked the
same questions. Its probabilities are looked at too, but on a processor llama.cpp multiplies by activations of 8 bits:
noise of a ten-thousandth in K and V alone then shows as a KL divergence of 0.001, so finer levels are told apart in
32-bit floats only (snapshot_codecs_float.py).
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import snapshot_codecs_table as table
import snapshot_codecs_text as text
from snapshot_codecs_float import Following
from snapshot_codecs_table import Entry, Row
from snapshot_codecs_text import Case

from quietmind.base.errors import UsageError
from quietmind.engine.port import Engine, Finished, Prompt, Request, Segment, probing, saving
from quietmind.kvstore.store import Store
from quietmind.plan.plan import Ask
from quietmind.workspace.damage import TOP, Continuation, Damage
from quietmind.workspace.floor import NOISE, write_with_noise
from quietmind.workspace.identity import can_go_back, fingerprint_of
from quietmind.workspace.launch import Start, prepare

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ANSWER_TOKENS = 10  # a code of five digits, a word or two before it, and the end
CONTINUATION_TOKENS = 64
ROOM = 320  # tokens of context for a question and its answer
ENGINE_TYPES = ("q8_0", "q4_0")
ZSTD_LEVEL = 3  # what the command line tool takes by default


@dataclass(frozen=True)
class Replies:
    """What an engine has said to the needles' questions, and to the open ones."""

    answers: tuple[Continuation, ...]
    continuations: tuple[Continuation, ...]

    def right(self, case: Case) -> list[bool]:
        """Say of each needle whether its code is in the answer."""
        said = ["".join(position.text for position in answer) for answer in self.answers]
        return [needle.code in answer for needle, answer in zip(case.needles, said, strict=True)]


@dataclass(frozen=True)
class Exact:
    """A context that has been read: the engine's file of it, its replies with that, and what reading it
    and loading the file again took.
    """

    case: Case
    slot: Path
    values: int
    replies: Replies
    prefill_s: float
    load_s: float

    def judged(self, row: Row, replies: Replies) -> Row:
        """Return ``row`` with how ``replies`` compare."""
        exactly, now = self.replies.right(self.case), replies.right(self.case)
        answers = Damage.between(
            (*self.replies.answers, *self.replies.continuations), (*replies.answers, *replies.continuations)
        )
        kept = zip(self.replies.answers, exactly, now, strict=True)
        lost_by = tuple(sorted(margin(answer) for answer, was, still in kept if was and not still))
        open_ones = Damage.between(self.replies.continuations, replies.continuations)
        return replace(
            row,
            engine_kl_mean=answers.mean,
            engine_kl_worst=answers.worst,
            needles=len(exactly),
            needles_right=sum(now),
            needles_right_exact=sum(exactly),
            needles_lost=len(lost_by),
            lost_by=lost_by,
            continuations=open_ones.probes,
            continuations_identical=open_ones.same,
            prefill_s=self.prefill_s,
        )


def margin(answer: Continuation) -> float:
    """Return by how many nats the likeliest token was preferred to the next, where that was least."""
    likeliest = (sorted(position.logprobs.values()) for position in answer)
    return min((found[-1] - found[-2] for found in likeliest if len(found) > 1), default=0.0)


def asked(engine: Engine, case: Case) -> Replies:
    """Ask everything of ``case`` of an engine that holds its context."""
    probe = probing(engine).probe
    return Replies(
        tuple(probe(case.asking(needle.question), ANSWER_TOKENS, TOP) for needle in case.needles),
        tuple(probe(case.asking(question), CONTINUATION_TOKENS, TOP) for question in case.open_questions),
    )


def generated(engine: Engine, prompt: Prompt) -> tuple[float, Finished]:
    """Return the seconds that the first token of an answer to ``prompt`` took, and how it ended."""
    began = time.perf_counter()
    for event in engine.generate(Request(prompt, max_tokens=1)):
        if isinstance(event, Finished):
            return time.perf_counter() - began, event
    raise AssertionError("a generation ends with Finished or an error")


@contextmanager
def running(model: str, tokens: int, folder: Path, kv_type: str = "f16") -> Iterator[tuple[Start, Engine]]:
    """Start an engine whose context holds ``tokens`` and a question."""
    start = prepare(model, Ask(tokens + ROOM, kv_type=kv_type), warn=lambda line: print(f"warning: {line}"))
    with start.engine(folder) as engine:
        yield start, engine


def exact(engine: Engine, case: Case, slot: Path) -> Exact:
    """Read the context of ``case``, save it to ``slot``, and ask everything of what was saved."""
    prefill_s, end = generated(engine, case.context())
    assert end.timings.cached == 0, "the engine had seen something of the context"
    saving(engine).save(slot)
    began = time.perf_counter()
    saving(engine).restore(slot)
    load_s = time.perf_counter() - began
    return Exact(case, slot, table.values_in(slot), asked(engine, case), prefill_s, load_s)


def following(engine: Engine, found: Exact) -> tuple[Following, ...]:
    """Return what follows the context, in tokens: each needle's question with the engine's answer, then the texts."""
    case, replies = found.case, []
    for needle, answer in zip(case.needles, found.replies.answers, strict=True):
        question = case.question_tokens(engine, needle.question)
        said = engine.tokenize("".join(position.text for position in answer))
        replies.append(Following((*question, *said), len(question) - 1, answer=True))
    return (*replies, *(Following(stretch, 0, answer=False) for stretch in case.stretches))


def calibration_slots(engine: Engine, folder: Path, tokens: int, scratch: Path) -> Iterator[Path]:
    """Yield the engine's files of pages below ``folder``, as many as have ``tokens`` together. Each fills a context."""
    chance = random.Random(tokens)
    pages, done = text.pages_of(folder, chance), 0
    while done < tokens:
        segments: list[Segment] = []
        room = min(tokens - done, engine.context - ROOM)
        while pages and room > 0:
            page = pages.pop()
            segments.append(Segment(page, trusted=False, tokens=tuple(engine.tokenize(f"{page}\n\n"))[:room]))
            room -= len(segments[-1].tokens or ())
        if not segments:
            raise UsageError(f"{folder}: its pages have {done:,} tokens, and {tokens:,} are asked for; give more text")
        generated(engine, Prompt(segments))
        saving(engine).save(slot := scratch / f"calibration-{done}")
        done += sum(len(segment.tokens or ()) for segment in segments)
        yield slot


def codec_row(engine: Engine, start: Start, found: Exact, entry: Entry, store: Store) -> Row:
    """Store the context with a codec, ask everything of what comes back, and return what that took and showed."""
    case = found.case
    fingerprint = fingerprint_of(engine, start.card, start.plan)
    kept = store.save(
        found.slot,
        fingerprint,
        case.tokens,
        label=entry.title,
        seconds=found.prefill_s,
        cut=can_go_back(start.card),
        codec=entry.codec,
    )
    row = table.sized(Row(entry.name, entry.level, len(case.tokens)), kept.bytes, found.values)
    packed = table.packed(entry.codec, found.slot)
    row = replace(packed.timed(row), encode_of_prefill=packed.encode_s / found.prefill_s)
    restored = found.slot.with_name("restored")
    began = time.perf_counter()
    store.restore(kept, fingerprint, restored)
    saving(engine).restore(restored)
    loaded = time.perf_counter() - began
    first, end = generated(engine, case.asking(case.needles[0].question))
    assert end.timings.cached >= len(case.tokens) - 1, f"only {end.timings.cached} tokens came from the snapshot"
    saving(engine).restore(restored)  # without the question, so that all are asked in the same batches as before
    row = found.judged(replace(row, first_token_s=loaded + first), asked(engine, case))
    store.remove(kept)
    restored.unlink()
    return row


def last_bits_row(engine: Engine, found: Exact) -> Row:
    """Return what happens to the answers when about the last bits of all numbers change: less cannot be lost."""
    changed = found.slot.with_name("changed")
    write_with_noise(found.slot, changed)
    size = changed.stat().st_size
    saving(engine).restore(changed)
    changed.unlink()
    row = table.sized(Row("last bits", f"{NOISE:g}", len(found.case.tokens)), size, found.values)
    return found.judged(row, asked(engine, found.case))


def zstd_row(found: Exact) -> Row:
    """Return what Zstandard makes of the engine's file, whole and as it is."""
    content = found.slot.read_bytes()
    began = time.perf_counter()
    packed = zstd.compress(content, ZSTD_LEVEL)
    between = time.perf_counter()
    zstd.decompress(packed)
    ended = time.perf_counter()
    row = table.sized(Row("zstd", str(ZSTD_LEVEL), len(found.case.tokens)), len(packed), found.values)
    megabytes = len(content) / 1e6
    row = replace(row, encode_mb_s=megabytes / (between - began), decode_mb_s=megabytes / (ended - between))
    return found.judged(row, found.replies)  # lossless: what the engine says is what it has said


def engine_row(model: str, found: Exact, kv_type: str, folder: Path) -> Row:
    """Prefill the same context into a cache of another type of the engine's own, and ask it the same."""
    case = found.case
    with running(model, len(case.tokens), folder, kv_type) as (_, engine):
        prefill_s, _ = generated(engine, case.context())
        saving(engine).save(slot := folder / kv_type)
        began = time.perf_counter()
        saving(engine).restore(slot)
        loaded = time.perf_counter() - began
        first, _ = generated(engine, case.asking(case.needles[0].question))
        saving(engine).restore(slot)
        row = table.sized(Row("llama.cpp", kv_type, len(case.tokens)), slot.stat().st_size, found.values)
        slot.unlink()
        row = found.judged(replace(row, first_token_s=loaded + first), asked(engine, case))
        return replace(row, prefill_s=prefill_s)


def read_exactly(engine: Engine, folder: Path, tokens: int, sizes: tuple[int, int], slot: Path) -> Exact:
    """Make the context of ``tokens`` tokens with so many questions and continuations, and read it."""
    return exact(engine, text.case(engine, folder, tokens, *sizes), slot)


def peers(model: str, found: Exact, folder: Path, types: Sequence[str] = ENGINE_TYPES) -> Iterator[Row]:
    """Yield what there is without codecs: Zstandard alone, and the engine's own small types."""
    yield zstd_row(found)
    for kv_type in types:
        yield engine_row(model, found, kv_type, folder)
