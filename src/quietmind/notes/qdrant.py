"""A copy of the index in a Qdrant server, or a cluster of them: past one machine.

One collection, two named vectors of each passage: ``words`` (sparse, BM25; see notes/sparse.py) and ``meaning`` (dense,
where the passage has a vector). No text is sent. But whoever has the server can hash a dictionary and find the
words again, and vectors of meaning tell what a text is about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quietmind.base.errors import IndexAway
from quietmind.notes.filtering import Filter
from quietmind.notes.finding import Counts, Entry, Held, Worded
from quietmind.notes.marks import asked
from quietmind.notes.sparse import Sparse, query_vector
from quietmind.notes.vectors import Near, Nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qdrant_client import QdrantClient
    from qdrant_client import models as types
    from qdrant_client.http.exceptions import UnexpectedResponse

WORDS, MEANING = "words", "meaning"

_PAGE = 2000  # points of a page when all are listed
_SAID = 200  # characters of a server's own words that are passed on


def connect(address: str, key: str = "", seconds: float = 60.0) -> QdrantClient:
    """Return a client of the server at ``address``, which nothing is asked yet.

    ``seconds`` is the longest that a call may take. No proxy is used, whatever the environment says. Raises IndexAway
    where the client is not installed.
    """
    import warnings

    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise IndexAway("the client of Qdrant is not installed; pip install 'quietmind[qdrant]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a key without TLS: whoever consented to that has said so
        return QdrantClient(
            url=address,
            api_key=key or None,
            timeout=math.ceil(seconds),
            check_compatibility=False,
            trust_env=False,
        )


class Qdrant:
    """The collection ``name`` as a Copy (notes/finding.py). ``who`` is what messages call the server."""

    def __init__(self, client: QdrantClient, name: str, who: str) -> None:
        self._client = client
        self._name = name
        self._who = who

    def close(self) -> None:
        """Close the client, which may be shared."""
        self._client.close()

    def exists(self) -> bool:
        """Say whether the server has the collection."""
        with self._translated():
            return bool(self._client.collection_exists(self._name))

    def make(self, dimensions: int | None, *, shards: int | None = None, replicas: int | None = None) -> None:
        """Make the collection where it is missing, for vectors of ``dimensions``; None: for words alone.

        ``shards`` and ``replicas`` are Qdrant's ``shard_number`` and ``replication_factor``; None: its own choice. An
        existing collection keeps those that it has.
        """
        from qdrant_client import models

        if self.exists():
            return
        dense = {}
        if dimensions is not None:  # of length 1 but for the rounding to int8, as in the archive: the product is enough
            dense[MEANING] = models.VectorParams(size=dimensions, distance=models.Distance.DOT)
        with self._translated():
            self._client.create_collection(
                self._name,
                vectors_config=dense,
                sparse_vectors_config={WORDS: models.SparseVectorParams()},
                shard_number=shards,
                replication_factor=replicas,
            )
            self._client.create_payload_index(self._name, "marks", models.PayloadSchemaType.KEYWORD)
            self._client.create_payload_index(self._name, "day", models.PayloadSchemaType.INTEGER)

    def drop(self) -> None:
        """Remove the collection; one that is not there is no fault."""
        with self._translated():
            self._client.delete_collection(self._name)

    def drop_others(self, prefix: str) -> None:
        """Remove every other collection whose name begins with ``prefix``."""
        with self._translated():
            names = [each.name for each in self._client.get_collections().collections]
            for name in names:
                if name.startswith(prefix) and name != self._name:
                    self._client.delete_collection(name)

    def held(self) -> dict[int, Held]:
        """See Copy."""
        held: dict[int, Held] = {}
        offset: Any = None
        while True:
            with self._translated():
                points, offset = self._client.scroll(
                    self._name, limit=_PAGE, offset=offset, with_payload=["state", "average"]
                )
                for point in points:
                    said = point.payload or {}
                    held[int(point.id)] = Held(bytes.fromhex(said["state"]), float(said["average"]))
            if offset is None:
                return held

    def put(self, entries: Sequence[Entry]) -> None:
        """See Copy."""
        from qdrant_client import models

        points = [
            models.PointStruct(id=entry.passage, vector=_vectors(entry), payload=_payload(entry)) for entry in entries
        ]
        if points:
            with self._translated():
                self._client.upsert(self._name, points, wait=True)

    def remove(self, passages: Sequence[int]) -> None:
        """See Copy."""
        from qdrant_client import models

        if passages:
            with self._translated():
                self._client.delete(self._name, models.PointIdsList(points=list(passages)), wait=True)

    def by_words(self, weights: Mapping[str, float], count: int, within: Filter | None) -> list[Worded]:
        """See Copy."""
        if not weights or count < 1:
            return []
        found = self._nearest(_sparse(query_vector(weights)), WORDS, count, within)
        return [Worded(passage, key, score) for passage, key, score in found]

    def by_meaning(self, query: NDArray[np.float32], count: int, within: Filter | None) -> Nearest:
        """See Copy. Passages with the same text count one each, other than in the archive's own index."""
        found = self._nearest([float(number) for number in query], MEANING, count, within)
        return Nearest(tuple(Near(*each) for each in found), self._count(_with_vector(within)))

    def placed(self, passages: Sequence[int]) -> set[int]:
        """See Copy."""
        from qdrant_client import models

        having = models.Filter(
            must=[models.HasIdCondition(has_id=list(passages)), models.HasVectorCondition(has_vector=MEANING)]
        )
        with self._translated():
            points, _ = self._client.scroll(self._name, having, limit=max(len(passages), 1), with_payload=False)
        return {int(point.id) for point in points}

    def counts(self) -> Counts:
        """See Copy."""
        return Counts(self._count(None), self._count(_with_vector(None)))

    def _nearest(self, query: Any, using: str, count: int, within: Filter | None) -> list[tuple[int, bytes, float]]:
        """Return passage, key and score, best first."""
        with self._translated():
            points = self._client.query_points(
                self._name, query, using=using, query_filter=_filter(within), limit=count, with_payload=["key"]
            ).points
            found = [(int(point.id), bytes.fromhex((point.payload or {})["key"]), point.score) for point in points]
        return sorted(found, key=lambda each: (-each[2], each[0]))  # what is as good comes as the archive has it

    def _count(self, which: types.Filter | None) -> int:
        with self._translated():
            return int(self._client.count(self._name, which, exact=True).count)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the client raises into ours."""
        from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            raise IndexAway(f"{self._who} {_refusal(error)}") from error
        except ResponseHandlingException as error:
            raise IndexAway(f"{self._who} does not answer as Qdrant does ({_reason(error.source)})") from error
        except (ApiException, AssertionError, ValueError, LookupError, TypeError) as error:  # asserts: of the client
            raise IndexAway(f"{self._who} gives an answer that makes no sense ({_reason(error)})") from error


def _refusal(error: UnexpectedResponse) -> str:
    if error.status_code in (401, 403):
        return "refuses the key that it was given; give the right one"
    said = error.content.decode("utf-8", "replace")
    if error.status_code == 404:
        return f"lacks the copy of the index, or is no Qdrant ({_cut(said)}); run `quietmind index`"
    return f"answers {error.status_code} ({_cut(said)})"


def _reason(error: BaseException) -> str:
    return _cut(str(error) or type(error).__name__)


def _cut(said: str) -> str:
    line = " ".join(said.split())
    return line if len(line) <= _SAID else f"{line[:_SAID]}…"


def _vectors(entry: Entry) -> dict[str, Any]:
    vectors: dict[str, Any] = {WORDS: _sparse(entry.words)}
    if entry.vector is not None:
        vectors[MEANING] = list(entry.vector)
    return vectors


def _payload(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key.hex(),
        "state": entry.state.hex(),
        "average": entry.average,
        "marks": list(entry.marks),
        "day": entry.day,
    }


def _sparse(vector: Sparse) -> types.SparseVector:
    from qdrant_client import models

    return models.SparseVector(indices=list(vector), values=list(vector.values()))


def _filter(within: Filter | None, *more: types.Condition) -> types.Filter | None:
    from qdrant_client import models

    wanted = asked(within)
    conditions: list[types.Condition] = [
        models.FieldCondition(key="marks", match=models.MatchAny(any=list(marks))) for marks in wanted.marks
    ]
    if wanted.first is not None or wanted.last is not None:
        days = models.Range(gte=wanted.first, lte=wanted.last)
        conditions.append(models.FieldCondition(key="day", range=days))
    conditions += more
    return models.Filter(must=conditions) if conditions else None


def _with_vector(within: Filter | None) -> types.Filter | None:
    from qdrant_client import models

    return _filter(within, models.HasVectorCondition(has_vector=MEANING))
