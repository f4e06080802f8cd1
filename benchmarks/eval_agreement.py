"""Whether `quietmind eval` can be believed: whether it puts ways to search in the order that other queries put them in.

    python benchmarks/eval_agreement.py --pages DIR --queries FILE.jsonl [--workspace DIR] [--questions N]

FILE has lines ``{"query", "path", "lang"}``: queries whose page is known, and whose words stand nowhere in it. A dozen
ways to search by words, good and bad ones, are measured by these queries and by questions that `quietmind eval` makes
of the same pages. It is worth something if both agree which of two ways is better wherever the queries say so with more
than chance. The last line is JSON. A workspace in which the pages are indexed already saves the time for that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from quietmind.base.sqlite import connect
from quietmind.notes.document import Hit
from quietmind.notes.lemmas import content_lemmas
from quietmind.notes.search import hits_of, search
from quietmind.workspace.evaluation import ByWords, evaluate
from quietmind.workspace.schema import ALL_MIGRATIONS, DATABASE
from quietmind.workspace.scoring import DEPTH, Rank, difference, figures
from quietmind.workspace.workspace import Workspace

FOUND = 30  # passages that each way is asked for, at least
SEED = 1


def bm25(title: float, heading: float, body: float, *, cover: float = 0.0, most: int = 48) -> ByWords:
    """Return a way to search: BM25 with these weights, times the covered share of the question to the power ``cover``.

    Of the question only the ``most`` rarest lemmas count.
    """

    def find(connection: sqlite3.Connection, query: str, limit: int) -> Sequence[Hit]:
        lemmas = _rarest(connection, content_lemmas(query), most)
        if not lemmas:
            return ()
        rows = connection.execute(
            "SELECT rowid, -bm25(lemmas, ?, ?, ?) AS score FROM lemmas WHERE lemmas MATCH ?"
            " ORDER BY score DESC LIMIT ?",
            (title, heading, body, " OR ".join(f'"{lemma}"' for lemma in lemmas), 5 * limit),
        ).fetchall()
        hits = hits_of(connection, query, [rowid for rowid, _ in rows])
        scored = sorted(rows, key=lambda row: -row[1] * hits[row[0]].coverage ** cover)
        return [hits[rowid] for rowid, _ in scored[:limit]]

    return find


def _rarest(connection: sqlite3.Connection, lemmas: Sequence[str], most: int) -> list[str]:
    def passages(lemma: str) -> int:
        row = connection.execute("SELECT doc FROM lemma_counts WHERE term = ?", (lemma,)).fetchone()
        return int(row[0]) if row else 0

    return sorted((lemma for lemma in lemmas if passages(lemma)), key=passages)[:most]


WAYS: dict[str, ByWords] = {
    "as quietmind searches": search,
    "title 2, heading 1.5": bm25(2, 1.5, 1),
    "title 2, heading 1.5, coverage": bm25(2, 1.5, 1, cover=1),
    "title 2, heading 1.5, coverage squared": bm25(2, 1.5, 1, cover=2),
    "all alike": bm25(1, 1, 1),
    "body alone": bm25(0, 0, 1),
    "title alone": bm25(1, 0, 0),
    "headings alone": bm25(0, 1, 0),
    "title 10": bm25(10, 1.5, 1),
    "heading 10": bm25(2, 10, 1),
    "the rarest word": bm25(2, 1.5, 1, most=1),
    "the two rarest words": bm25(2, 1.5, 1, most=2),
    "the four rarest words": bm25(2, 1.5, 1, most=4),
}


def by_queries(
    connection: sqlite3.Connection, pages: Path, known: Sequence[dict[str, Any]], find: ByWords
) -> list[Rank]:
    """Return where the page of each query stands among the passages that are found."""
    ranks: list[Rank] = []
    for query in known:
        paths = [hit.passage.path for hit in find(connection, query["query"], FOUND)][:DEPTH]
        right = pages / query["path"]
        ranks.append(paths.index(right) + 1 if right in paths else None)
    return ranks


def agreement(queries: dict[str, list[Rank]], questions: dict[str, list[Rank]]) -> dict[str, Any]:
    """Return Kendall's tau of both orders, and how the pairs that the queries tell apart fare by the questions."""
    pairs = list(itertools.combinations(WAYS, 2))
    concordant = told = agreed = contradicted = 0
    for one, other in pairs:
        by_known = difference(queries[one], queries[other], SEED)
        by_eval = difference(questions[one], questions[other], SEED)
        same = by_known.value * by_eval.value > 0
        concordant += 1 if same else -1
        if by_known.beyond_chance:
            told += 1
            agreed += same
            contradicted += by_eval.beyond_chance and not same
    return {
        "tau": round(concordant / len(pairs), 3),
        "told_apart": told,
        "agreed": agreed,
        "contradicted": contradicted,
    }


def measure(database: Path, pages: Path, known: Sequence[dict[str, Any]], questions: int) -> dict[str, Any]:
    """Print each way's figures by both, and return them with how they agree."""
    queried: dict[str, list[Rank]] = {}
    asked: dict[str, list[Rank]] = {}
    print(f"{'':40} {'by queries':>24} {'by eval':>24}")
    with closing(connect(database, ALL_MIGRATIONS)) as connection:
        found = evaluate(connection, None, questions=questions, seed=SEED, by_words=WAYS)
        for name, find in WAYS.items():
            queried[name] = by_queries(connection, pages, known, find)
            asked[name] = [each.ranks[name] for each in found.asked]
            cells = [figures(ranks[name], SEED).mrr for ranks in (queried, asked)]
            print(f"{name:40} " + " ".join(f"{c.value:10.3f} ({c.low:.3f}-{c.high:.3f})" for c in cells), flush=True)
    ways = {name: [figures(ranks[name], SEED).mrr.value for ranks in (queried, asked)] for name in WAYS}
    return {"queries": len(known), "questions": len(asked[next(iter(WAYS))]), "ways": ways} | agreement(queried, asked)


def main() -> None:
    """Index the pages if need be, measure all ways, say how both agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--questions", type=int, default=300, help="of each kind")
    given = parser.parse_args()
    pages = given.pages.resolve()
    lines = [json.loads(line) for line in given.queries.read_text(encoding="utf-8").splitlines()]
    known = random.Random(SEED).sample(lines, min(given.questions, len(lines)))
    print("predicted: a Kendall's tau of 0.7 or more; of the pairs that the queries tell apart, eval contradicts none")
    with tempfile.TemporaryDirectory() as folder:
        workspace: Path = given.workspace or Path(folder)
        with Workspace(workspace, create=True) as archive:
            if pages not in archive.roots():
                archive.index(pages)
        result = measure(workspace / DATABASE, pages, known, given.questions)
    print(
        f"Kendall's tau {result['tau']:.2f}; of {result['told_apart']} pairs that the queries tell apart, eval puts "
        f"{result['agreed']} in the same order and contradicts {result['contradicted']} with more than chance"
    )
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
