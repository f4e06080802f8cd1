"""A server of the part of Qdrant's REST that we use, over Qdrant's own engine (qdrant-edge-py), on the loopback.

    python tests/qdrant_here.py FOLDER KEY

Prints the port that it listens on. What it holds stands in FOLDER and outlives it, also where it is killed.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import qdrant_edge as edge

Answer = tuple[int, Any]


class Collections:
    """The collections below ``folder``, each a shard of the engine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._shards = {path.name: edge.EdgeShard.load(str(path)) for path in sorted(folder.iterdir())}

    def answer(self, method: str, path: str, body: Any) -> Answer:
        with self._lock:
            for pattern, call in _CALLS.items():
                if match := re.fullmatch(pattern, f"{method} {path}"):
                    name = match[1] if match.groups() else ""
                    if name and name not in self._shards and call not in (Collections.exists, Collections.create):
                        return 404, f"Not found: Collection `{name}` doesn't exist!"
                    return 200, call(self, name, body)
        return 404, "no such path"

    def names(self, _name: str, _body: Any) -> Any:
        return {"collections": [{"name": name} for name in self._shards]}

    def exists(self, name: str, _body: Any) -> Any:
        return {"exists": name in self._shards}

    def create(self, name: str, body: Any) -> Any:
        vectors = {
            key: edge.EdgeVectorParams(size=each["size"], distance=getattr(edge.Distance, each["distance"]))
            for key, each in (body.get("vectors") or {}).items()
        }
        sparse = {key: edge.EdgeSparseVectorParams() for key in body["sparse_vectors"]}
        self._shards[name] = edge.EdgeShard.create(
            str(self._folder / name), edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)
        )
        return True

    def drop(self, name: str, _body: Any) -> Any:
        self._shards.pop(name).close()
        shutil.rmtree(self._folder / name)
        return True

    def index(self, name: str, body: Any) -> Any:
        schema = getattr(edge.PayloadSchemaType, body["field_schema"].capitalize())
        return self._update(name, edge.UpdateOperation.create_field_index(body["field_name"], schema))

    def upsert(self, name: str, body: Any) -> Any:
        points = [edge.Point(each["id"], _vectors(each["vector"]), each["payload"]) for each in body["points"]]
        return self._update(name, edge.UpdateOperation.upsert_points(points))

    def delete(self, name: str, body: Any) -> Any:
        return self._update(name, edge.UpdateOperation.delete_points(body["points"]))

    def scroll(self, name: str, body: Any) -> Any:
        points, offset = self._shards[name].scroll(
            edge.ScrollRequest(
                offset=body.get("offset"),
                limit=body["limit"],
                filter=_filter(body.get("filter")),
                with_payload=body["with_payload"],
            )
        )
        return {
            "points": [{"id": point.id, "payload": point.payload} for point in points],
            "next_page_offset": offset,
        }

    def count(self, name: str, body: Any) -> Any:
        return {"count": self._shards[name].count(edge.CountRequest(exact=True, filter=_filter(body.get("filter"))))}

    def query(self, name: str, body: Any) -> Any:
        asked = body["query"]["nearest"]
        vector = edge.SparseVector(**asked) if isinstance(asked, dict) else asked
        points = self._shards[name].query(
            edge.QueryRequest(
                limit=body["limit"],
                query=edge.Query.Nearest(vector, using=body["using"]),
                filter=_filter(body.get("filter")),
                with_payload=body["with_payload"],
            )
        )
        return {
            "points": [
                {"id": point.id, "version": point.version, "score": point.score, "payload": point.payload}
                for point in points
            ]
        }

    def _update(self, name: str, operation: edge.UpdateOperation) -> Any:
        self._shards[name].update(operation)
        return {"operation_id": 0, "status": "completed"}


_CALLS: dict[str, Callable[[Collections, str, Any], Any]] = {
    r"GET /collections": Collections.names,
    r"GET /collections/([^/]+)/exists": Collections.exists,
    r"PUT /collections/([^/]+)": Collections.create,
    r"DELETE /collections/([^/]+)": Collections.drop,
    r"PUT /collections/([^/]+)/index": Collections.index,
    r"PUT /collections/([^/]+)/points": Collections.upsert,
    r"POST /collections/([^/]+)/points/delete": Collections.delete,
    r"POST /collections/([^/]+)/points/scroll": Collections.scroll,
    r"POST /collections/([^/]+)/points/count": Collections.count,
    r"POST /collections/([^/]+)/points/query": Collections.query,
}


def _vectors(said: dict[str, Any]) -> dict[str, Any]:
    return {name: edge.SparseVector(**vector) if isinstance(vector, dict) else vector for name, vector in said.items()}


def _filter(said: Any) -> edge.Filter | None:
    return edge.Filter(must=[_condition(each) for each in said["must"]]) if said else None


def _condition(said: Any) -> Any:
    if "has_id" in said:
        return edge.HasIdCondition(set(said["has_id"]))
    if "has_vector" in said:
        return edge.HasVectorCondition(said["has_vector"])
    if "match" in said:
        return edge.FieldCondition(said["key"], match=edge.MatchAny(said["match"]["any"]))
    return edge.FieldCondition(said["key"], range=edge.RangeFloat(**said["range"]))


def serve(folder: Path, key: str) -> None:
    """Serve what is in ``folder`` until the process ends."""
    collections = Collections(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("api-key") != key:
                status, result = 401, "Must provide an API key or an Authorization bearer token"
            else:
                try:
                    status, result = collections.answer(
                        self.command, self.path.partition("?")[0], json.loads(content or b"{}")
                    )
                except Exception as error:  # the engine's own
                    status, result = 500, repr(error)
            said: Any = {"result": result, "status": "ok"} if status == 200 else {"status": {"error": result}}
            answer = json.dumps(said | {"time": 0.0}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the library's own names

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
