"""Other search libraries over the same pages: each with what its documentation offers for two languages.

A unit is a whole page, or a passage cut as ours are: both are tried, and the better one counts. Cutting is not counted
to their time. A unit is a place (the title and the name of the file, the headings over a passage) and a text.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from archive_child import main, page_files, timed_answers

_RANKED_UNITS = {"pages": 12, "passages": 100}  # asked of a peer: enough for eleven pages
UNITS = ("pages", "passages")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Unit:
    """What a peer finds as one: of the page ``path``."""

    path: str
    place: str
    text: str


class Peer(Protocol):
    """A library: it takes all units at once, and gives the numbers of the best, best first."""

    def index(self, units: Sequence[Unit]) -> None:
        """Make what is searched."""

    def search(self, query: str, count: int) -> list[int]:
        """Return at most ``count`` numbers of units."""


class Bm25s:
    """bm25s with the stemmers it recommends, one after the other, and its stop words of both languages."""

    def index(self, units: Sequence[Unit]) -> None:
        """Make what is searched."""
        stemmer = import_module("Stemmer")
        self._bm25s = import_module("bm25s")
        english, russian = stemmer.Stemmer("english"), stemmer.Stemmer("russian")
        self._stem = lambda words: russian.stemWords(english.stemWords(list(words)))
        stop = import_module("bm25s.stopwords")
        self._stop = [*stop.STOPWORDS_EN_PLUS, *stop.STOPWORDS_RUSSIAN]
        self._retriever = self._bm25s.BM25()
        self._retriever.index(self._tokens([f"{unit.place}\n{unit.text}" for unit in units]), show_progress=False)
        self._count = len(units)

    def search(self, query: str, count: int) -> list[int]:
        """Return the best units."""
        found, scored = self._retriever.retrieve(
            self._tokens([query]), k=min(count, self._count), show_progress=False, return_as="tuple"
        )
        return [int(number) for number, score in zip(found[0], scored[0], strict=True) if score > 0]

    def _tokens(self, texts: list[str]) -> Any:
        return self._bm25s.tokenize(texts, stopwords=self._stop, stemmer=self._stem, show_progress=False)


class Tantivy:
    """tantivy with an analyzer that stems English and then Russian; the place counts twice."""

    def index(self, units: Sequence[Unit]) -> None:
        """Make what is searched."""
        tantivy = import_module("tantivy")
        analyzer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        kinds = tantivy.Filter
        for each in (kinds.remove_long(64), kinds.lowercase(), kinds.stemmer("english"), kinds.stemmer("russian")):
            analyzer = analyzer.filter(each)
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("place", tokenizer_name="both")
        schema.add_text_field("text", tokenizer_name="both")
        schema.add_integer_field("number", stored=True)
        self._index = tantivy.Index(schema.build())
        self._index.register_tokenizer("both", analyzer.build())
        writer = self._index.writer()
        for number, unit in enumerate(units):
            writer.add_document(tantivy.Document(place=unit.place, text=unit.text, number=number))
        writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, query: str, count: int) -> list[int]:
        """Return the best units."""
        words = " ".join(_WORD.findall(query))
        asked = self._index.parse_query(words, ["place", "text"], field_boosts={"place": 2.0})
        hits = self._searcher.search(asked, count).hits
        return [int(self._searcher.doc(address)["number"][0]) for _, address in hits]


class Lance:
    """LanceDB's full text: an index stems one language, so the text stands in two columns, searched together."""

    def index(self, units: Sequence[Unit]) -> None:
        """Make what is searched."""
        index = import_module("lancedb.index")
        self._query = import_module("lancedb.query")
        self._folder = tempfile.TemporaryDirectory(prefix="quietmind-lance-")
        rows = [
            {"number": number, "en": (text := f"{unit.place}\n{unit.text}"), "ru": text}
            for number, unit in enumerate(units)
        ]
        self._table = import_module("lancedb").connect(self._folder.name).create_table("units", rows)
        for column, language in (("en", "English"), ("ru", "Russian")):
            self._table.create_index(
                column, config=index.FTS(language=language, ascii_folding=False, max_token_length=64)
            )

    def search(self, query: str, count: int) -> list[int]:
        """Return the best units."""
        asked = self._query.MultiMatchQuery(query, ["en", "ru"])
        rows = self._table.search(asked, query_type="fts").select(["number"]).limit(count).to_list()
        return [int(row["number"]) for row in rows]


class Fts5:
    """SQLite's FTS5 with its porter tokenizer; the place counts twice."""

    def index(self, units: Sequence[Unit]) -> None:
        """Make what is searched."""
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE VIRTUAL TABLE units USING fts5(place, text, tokenize = 'porter unicode61')")
        rows = ((number, unit.place, unit.text) for number, unit in enumerate(units))
        self._connection.executemany("INSERT INTO units (rowid, place, text) VALUES (?, ?, ?)", rows)

    def search(self, query: str, count: int) -> list[int]:
        """Return the best units."""
        asked = " OR ".join(f'"{word}"' for word in _WORD.findall(query))
        best = "SELECT rowid FROM units WHERE units MATCH ? ORDER BY bm25(units, 2.0, 1.0) LIMIT ?"
        return [number for (number,) in self._connection.execute(best, (asked, count))] if asked else []


@dataclass(frozen=True)
class Offer:
    """A peer, what it is imported as and installed with, and the units it is given where nothing else is said."""

    make: type[Peer] | None
    modules: tuple[str, ...]
    install: str
    unit: str


LIBRARIES = {
    "bm25s": Offer(Bm25s, ("bm25s", "Stemmer"), "pip install bm25s PyStemmer", "pages"),
    "tantivy": Offer(Tantivy, ("tantivy",), "pip install tantivy", "pages"),
    "lancedb": Offer(Lance, ("lancedb",), "pip install lancedb", "pages"),
    "fts5-porter": Offer(Fts5, ("sqlite3",), "comes with Python", "pages"),
}


def missing(offer: Offer) -> bool:
    """Say whether the peer cannot be imported here."""
    return not all(map(_there, offer.modules))


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def measure(name: str, task: dict[str, Any]) -> dict[str, Any]:
    """Have the library of this name index the pages and answer the queries."""
    offer = LIBRARIES[name]
    unit = task.get("unit") or offer.unit
    units = list(_units(Path(task["pages"]), unit))
    assert offer.make is not None
    peer = offer.make()
    began = time.perf_counter()
    peer.index(units)
    took = time.perf_counter() - began

    def search(query: str) -> list[str]:
        return [units[number].path for number in peer.search(query, _RANKED_UNITS[unit])]

    found, ms = timed_answers(search, task["queries"], float(task["seconds"]))
    return {"index_s": round(took, 2), "unit": unit, "found": found, "ms": ms, "version": _version(offer)}


def _units(pages: Path, unit: str) -> Iterator[Unit]:
    from quietmind.notes.passages import passages
    from quietmind.notes.reading import read_document

    for path in page_files(pages):
        document = read_document(pages / path)
        name = f"{document.title}\n{Path(path).name}"
        if unit == "pages":
            yield Unit(path, name, "\n".join(document.lines))
        else:
            for each in passages(document):
                yield Unit(path, "\n".join([name, *each.heading]), each.text)


def _version(offer: Offer) -> str:
    return sqlite3.sqlite_version if offer.modules == ("sqlite3",) else version(offer.modules[0])


if __name__ == "__main__":
    main({name: partial(measure, name) for name in LIBRARIES})
