"""Whole tools over the same folder of pages: each reads, cuts and indexes in its own way, and searches by words.

Their time to index is all of it, from the files to the first answer, as ours is.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from archive_child import main, page_files, timed_answers
from archive_peers import Offer

_WORD = re.compile(r"\w+")
_PAGES, _CHUNKS = 12, 100  # asked of a tool: enough for eleven pages

TOOLS = {
    "llama-index": Offer(
        None,
        ("llama_index.core", "llama_index.retrievers.bm25"),
        "pip install llama-index-core llama-index-retrievers-bm25",
        "its own chunks",
    ),
    "haystack": Offer(None, ("haystack",), "pip install haystack-ai", "its own chunks"),
    "markdown-vault-mcp": Offer(None, ("markdown_vault_mcp",), "pip install markdown-vault-mcp", "its own chunks"),
}
_PACKAGES = {"llama-index": "llama-index-core", "haystack": "haystack-ai", "markdown-vault-mcp": "markdown-vault-mcp"}

Search = Callable[[str], Sequence[str]]


class _Stems:
    """English stems, then Russian ones: a word of the one script is left alone by the stemmer of the other."""

    def __init__(self) -> None:
        made = import_module("Stemmer").Stemmer
        self._stemmers = [made("english"), made("russian")]

    def stemWords(self, words: Sequence[str]) -> list[str]:  # noqa: N802 - what its caller calls
        stems = list(words)
        for stemmer in self._stemmers:
            stems = stemmer.stemWords(stems)
        return stems


def llama_index(pages: Path, _: Path) -> Search:
    """Return the search of LlamaIndex: its splitter of sentences, its BM25, stems of both languages."""
    core = import_module("llama_index.core")
    splitter = import_module("llama_index.core.node_parser").SentenceSplitter()
    documents = [
        core.Document(text=f"{Path(path).name}\n{_text(pages / path)}", metadata={"path": path})
        for path in page_files(pages)
    ]
    nodes = splitter.get_nodes_from_documents(documents)
    retriever = import_module("llama_index.retrievers.bm25").BM25Retriever.from_defaults(
        nodes=nodes, similarity_top_k=min(_CHUNKS, len(nodes)), stemmer=_Stems()
    )
    return lambda query: [found.metadata["path"] for found in retriever.retrieve(query)]


def haystack(pages: Path, _: Path) -> Search:
    """Return the search of Haystack: its splitter by words and its BM25 in memory, which has no stemmer."""
    document = import_module("haystack").Document
    splitter = import_module("haystack.components.preprocessors").DocumentSplitter(split_by="word", split_length=200)
    splitter.warm_up()
    documents = [
        document(content=f"{Path(path).name}\n{_text(pages / path)}", meta={"path": path}) for path in page_files(pages)
    ]
    store = import_module("haystack.document_stores.in_memory").InMemoryDocumentStore()
    store.write_documents(
        splitter.run(documents)["documents"],
        policy=import_module("haystack.document_stores.types").DuplicatePolicy.SKIP,
    )
    return lambda query: [found.meta["path"] for found in store.bm25_retrieval(query, top_k=_CHUNKS)]


def markdown_vault_mcp(pages: Path, folder: Path) -> Search:
    """Return the keyword search of markdown-vault-mcp, asked for any of the words: all of them find too little."""
    vault = import_module("markdown_vault_mcp.vault").Vault(source_dir=_copied(pages, folder))
    vault.index.build_index()

    def search(query: str) -> list[str]:
        asked = " OR ".join(f'"{word}"' for word in _WORD.findall(query))
        return [found.path for found in vault.reader.search(asked, limit=_PAGES, mode="keyword")] if asked else []

    return search


_MADE = {"llama-index": llama_index, "haystack": haystack, "markdown-vault-mcp": markdown_vault_mcp}


def measure(name: str, task: dict[str, Any]) -> dict[str, Any]:
    """Have the tool of this name index the pages and answer the queries."""
    began = time.perf_counter()
    search = _MADE[name](Path(task["pages"]), Path(task["scratch"]))
    took = time.perf_counter() - began
    found, ms = timed_answers(search, task["queries"], float(task["seconds"]))
    about = {"version": version(_PACKAGES[name]), "unit": TOOLS[name].unit}
    return {"index_s": round(took, 2), "found": found, "ms": ms} | about


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _copied(pages: Path, folder: Path) -> Path:
    """Return a copy of the pages: a tool may write beside them."""
    copy = folder / "vault"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(pages, copy)
    return copy


if __name__ == "__main__":
    main({name: partial(measure, name) for name in TOOLS})
