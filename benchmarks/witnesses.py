"""How long a sentence takes to be held against a whole notebook of passages, and how long they take to be prepared.

    python benchmarks/witnesses.py [--passages 1000] [--text DIR]

The passages are those of DIR (default: the example archive), over again until there are enough: every true sentence
then has many that support it, which is harder than real notes are. The sentences are true ones out of them, and the
same with a number or a word changed. Prediction first, then what was measured; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from itertools import cycle, islice
from pathlib import Path

from quietmind.notes.passages import passages
from quietmind.notes.reading import read_document
from quietmind.notes.scan import scan
from quietmind.think.sentences import sentence_spans
from quietmind.think.support import find_support, is_claim
from quietmind.think.witnesses import Witnesses

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "archive"
SENTENCES = 200
COMPARED = 5  # sentences that are also held against every passage, for the ratio


def main() -> None:
    """Print the times."""
    options = argparse.ArgumentParser(description="Time the support check over many passages.")
    options.add_argument("--passages", type=int, default=1000)
    options.add_argument("--text", type=Path, default=EXAMPLES)
    given = options.parse_args()
    cut = [passage for found in scan(given.text).found for passage in passages(read_document(Path(found.path)))]
    notes = [(passage.text, passage.place) for passage in islice(cycle(cut), given.passages)]
    chance = random.Random(7)
    sentences = _sentences([text for text, _ in notes], chance)
    print(f"{len(notes):,} passages ({len(cut):,} different), {sum(len(text) for text, _ in notes):,} characters")
    print("predicted: prepared within 3 s; a sentence under 50 ms in 95 of 100")

    witnesses = Witnesses(notes)
    began = time.perf_counter()
    witnesses.best("A sentence that prepares them.")
    prepared = time.perf_counter() - began
    times, borne = [], 0
    for sentence in sentences:
        began = time.perf_counter()
        borne += witnesses.best(sentence) is not None
        times.append(time.perf_counter() - began)
    times.sort()
    began = time.perf_counter()
    for sentence in sentences[:COMPARED]:
        for text, place in notes:
            find_support(sentence, text, place)
    against_all = (time.perf_counter() - began) / COMPARED
    result = {
        "passages": len(notes),
        "sentences": len(sentences),
        "borne": borne,
        "prepared_ms": round(prepared * 1000),
        "median_ms": round(times[len(times) // 2] * 1000, 1),
        "p95_ms": round(times[int(0.95 * len(times))] * 1000, 1),
        "worst_ms": round(times[-1] * 1000, 1),
        "against_all_ms": round(against_all * 1000),
    }
    print("measured:")
    for name, value in result.items():
        print(f"  {name:15} {value:,}")
    print(json.dumps(result))


def _sentences(texts: list[str], chance: random.Random) -> list[str]:
    """Return true sentences of ``texts``, every second one with a number or its last word made another."""
    every = [text[start:end] for text in texts for start, end in sentence_spans(text)]
    chosen = [sentence for sentence in chance.sample(every, min(len(every), 4 * SENTENCES)) if is_claim(sentence)]
    return [_changed(sentence) if number % 2 else sentence for number, sentence in enumerate(chosen[:SENTENCES])]


def _changed(sentence: str) -> str:
    changed = re.sub(r"\d+", lambda found: str(int(found[0]) + 7), sentence, count=1)
    return changed if changed != sentence else re.sub(r"[^\W\d_]+(\W*)$", r"zanzibar\1", sentence)


if __name__ == "__main__":
    main()
