"""How well search finds what the example archive says, and knows what it does not say.

    python benchmarks/relevance.py

For every question of examples/archive.truth.json: is the passage that answers it among the first k? And at which
coverage should `ask` decide that nothing is relevant? The last line is JSON.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from quietmind.notes.document import Hit
from quietmind.think.ask import RELEVANT_COVERAGE
from quietmind.workspace.workspace import Workspace

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEPTH = 10
# People do not ask in keywords: the same question, as it might be typed.
CHATTY = {
    "en": "Hi! Quick thing before I forget: {} My colleague insists it was otherwise, seventy-something I believe",
    "ru": "Слушай, напомни пожалуйста, что-то совсем запамятовал: {} Коллега уверяет, что было по-другому",
}


def rank_of(question: dict[str, Any], hits: list[Hit]) -> int | None:
    """Return the 1-based rank of the first hit that overlaps a place which answers the question."""
    for rank, hit in enumerate(hits, 1):
        for place in question["places"]:
            if (
                hit.passage.path == EXAMPLES / "archive" / place["path"]
                and hit.passage.first_line <= place["last_line"]
                and place["first_line"] <= hit.passage.last_line
            ):
                return rank
    return None


def main() -> None:
    """Print recall by language, then the trade-off of the coverage threshold."""
    truth = json.loads((EXAMPLES / "archive.truth.json").read_text(encoding="utf-8"))
    print("predicted: recall@6 at least 0.85 where question and note share a language; across languages well under 0.5")
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder), create=True) as archive:
        archive.index(EXAMPLES / "archive")
        asked = [(question, archive.search(question["question"], DEPTH)) for question in truth["questions"]]
        chatty = [
            archive.search(CHATTY[question["lang"]].format(question["question"]), DEPTH)
            for question in truth["questions"]
            if not question.get("cross")
        ]
        unanswerable = [archive.search(question["question"], DEPTH) for question in truth["unanswerable"]]

    result: dict[str, Any] = {}
    groups = {
        "en": [pair for pair in asked if pair[0]["lang"] == "en" and not pair[0].get("cross")],
        "ru": [pair for pair in asked if pair[0]["lang"] == "ru" and not pair[0].get("cross")],
        "cross": [pair for pair in asked if pair[0].get("cross")],
    }
    for name, pairs in groups.items():
        ranks = [rank_of(question, hits) for question, hits in pairs]
        result[name] = {
            "questions": len(ranks),
            "recall_1": round(sum(rank == 1 for rank in ranks) / len(ranks), 3),
            "recall_6": round(sum(rank is not None and rank <= 6 for rank in ranks) / len(ranks), 3),
            "mrr": round(sum(1 / rank for rank in ranks if rank) / len(ranks), 3),
        }
        print(f"{name:6} {result[name]}")
        for (question, _), rank in zip(pairs, ranks, strict=True):
            if rank is None or rank > 6:
                print(f"       rank {rank}: {question['question']}")

    answerable = [max((hit.coverage for hit in hits), default=0.0) for q, hits in asked if not q.get("cross")]
    other = [max((hit.coverage for hit in hits), default=0.0) for hits in unanswerable]
    print("coverage of the best passage: answerable", sorted(round(c, 2) for c in answerable))
    talked = [max((hit.coverage for hit in hits), default=0.0) for hits in chatty]
    print("                     the same, as chatted", sorted(round(c, 2) for c in talked))
    print("                            unanswerable", sorted(round(c, 2) for c in other))
    for threshold in (0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7):
        kept = sum(c >= threshold for c in answerable) / len(answerable)
        chatted = sum(c >= threshold for c in talked) / len(talked)
        refused = sum(c < threshold for c in other) / len(other)
        chosen = "  <- in use" if threshold == RELEVANT_COVERAGE else ""
        print(
            f"  threshold {threshold:.2f}: answerable asked {kept:.2f}, chatty {chatted:.2f}, "
            f"unanswerable refused {refused:.2f}{chosen}"
        )
        if chosen:
            result |= {
                "threshold": threshold,
                "answerable_asked": kept,
                "chatty_asked": chatted,
                "unanswerable_refused": refused,
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
