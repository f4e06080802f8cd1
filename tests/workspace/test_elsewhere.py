"""A copy of the index elsewhere: searched first, never waited for, whole again after whatever happened."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest

from quietmind.base.errors import IndexAway, UsageError
from quietmind.base.settings import Settings
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.notes.finding import Entry
from quietmind.workspace.elsewhere import KEY_VARIABLE, Elsewhere, Place, place_of, searched_elsewhere
from quietmind.workspace.embedding import NONE, Searcher
from quietmind.workspace.workspace import Workspace

WORDS = ["насос", "ёлка", "дом", "сад", "снег", "крыша", "река", "реле", "окно", "дверь", "мост", "лес"]


class Server(Protocol):
    """See tests/conftest.py."""

    address: str
    key: str

    def start(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Workspace]:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number, word in enumerate(WORDS):
        (notes / f"{number:02}.md").write_text(f"{word} всегда\n", encoding="utf-8")
    with Workspace(tmp_path / "workspace", create=True) as archive:
        archive.index(notes)
        yield archive


def _elsewhere(archive: Workspace, server: Server) -> Elsewhere:
    return Elsewhere(archive.folder, Place(server.address, server.key))


def _searched(
    archive: Workspace, elsewhere: Elsewhere, query: str, embedder: FakeEmbedder | None = None
) -> tuple[list[str], list[str]]:
    """Return the names of the notes that a search finds, and what is warned of."""
    warned: list[str] = []
    wanted = embedder.name if embedder is not None else NONE
    archive.search_with(
        Searcher(archive.folder, wanted, lambda _: embedder or FakeEmbedder(), warned.append, elsewhere)
    )
    return [hit.passage.path.name for hit in archive.search(query, 1)], warned


def test_notes_are_found_in_the_copy(archive: Workspace, qdrant_here: Server) -> None:
    elsewhere = _elsewhere(archive, qdrant_here)
    brought = archive.bring_copy(elsewhere, NONE)
    assert brought is not None
    assert (brought.put, brought.counts.passages, brought.counts.with_vector) == (12, 12, 0)
    assert _searched(archive, elsewhere, "реле") == (["07.md"], [])


def test_before_there_is_a_copy_the_own_index_answers_and_it_is_said(archive: Workspace, qdrant_here: Server) -> None:
    found, warned = _searched(archive, _elsewhere(archive, qdrant_here), "реле")
    assert found == ["07.md"]
    (line,) = warned
    assert "no copy of this index yet; run `quietmind index`" in line


def test_without_the_server_the_own_index_answers_and_it_is_said_once(
    archive: Workspace, mortal_qdrant: Server
) -> None:
    elsewhere = _elsewhere(archive, mortal_qdrant)
    embedder = FakeEmbedder()
    archive.embed(embedder)
    archive.bring_copy(elsewhere, embedder.name)
    assert _searched(archive, elsewhere, "реле", embedder) == (_own(archive, "реле", embedder), [])
    mortal_qdrant.close()
    found, warned = _searched(archive, elsewhere, "реле", embedder)
    assert found == _own(archive, "реле", embedder)
    (line,) = warned
    assert line.startswith(f"found in the archive's own index: {mortal_qdrant.address} ")
    with pytest.raises(IndexAway, match="does not answer"):
        archive.bring_copy(elsewhere, embedder.name)


def _own(archive: Workspace, query: str, embedder: FakeEmbedder) -> list[str]:
    archive.search_with(Searcher(archive.folder, embedder.name, lambda _: embedder))
    return [hit.passage.path.name for hit in archive.search(query, 1)]


def test_a_server_that_is_killed_while_it_is_filled_serves_only_when_the_rest_is_there(
    archive: Workspace, mortal_qdrant: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quietmind.notes.qdrant import Qdrant

    monkeypatch.setattr("quietmind.notes.copying._BATCH", 4)
    put = Qdrant.put
    calls = 0

    def put_until_the_end(copy: Qdrant, entries: Sequence[Entry]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            mortal_qdrant.close()
        put(copy, entries)

    monkeypatch.setattr(Qdrant, "put", put_until_the_end)
    with pytest.raises(IndexAway):
        archive.bring_copy(_elsewhere(archive, mortal_qdrant), NONE)
    mortal_qdrant.start()
    elsewhere = _elsewhere(archive, mortal_qdrant)  # on another port
    assert elsewhere.counts() is None
    brought = archive.bring_copy(elsewhere, NONE)
    assert brought is not None
    assert (brought.put, brought.counts.passages) == (4, 12)
    assert _searched(archive, elsewhere, "реле") == (["07.md"], [])


def test_another_embedder_has_a_collection_of_its_own_and_the_old_one_goes(
    archive: Workspace, qdrant_here: Server
) -> None:
    elsewhere = _elsewhere(archive, qdrant_here)
    archive.bring_copy(elsewhere, NONE)
    first, second = FakeEmbedder("first", 64), FakeEmbedder("second", 128)
    archive.embed(first)
    found, warned = _searched(archive, elsewhere, "реле", first)
    assert found[0] == "07.md"
    assert "no copy of these vectors yet" in warned[0]
    archive.bring_copy(elsewhere, first.name)
    assert _searched(archive, elsewhere, "реле", first) == (_own(archive, "реле", first), [])
    archive.embed(second)
    brought = archive.bring_copy(elsewhere, second.name)
    assert brought is not None
    assert brought.put == 12
    assert _searched(archive, elsewhere, "реле", second) == (_own(archive, "реле", second), [])
    prefix = f"quietmind-{json.loads((archive.folder / 'copy.json').read_text())['id']}-"
    assert [name for name in _collections(qdrant_here) if name.startswith(prefix)] == [f"{prefix}{second.digest[:12]}"]


def test_a_copy_that_the_server_lost_serves_only_when_it_is_whole_again(
    archive: Workspace, qdrant_here: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quietmind.notes.qdrant import Qdrant, connect

    elsewhere = _elsewhere(archive, qdrant_here)
    archive.bring_copy(elsewhere, NONE)
    name = json.loads((archive.folder / "copy.json").read_text())["collection"]
    copy = Qdrant(connect(qdrant_here.address, qdrant_here.key), name, "it")
    copy.drop()
    copy.close()
    found, warned = _searched(archive, elsewhere, "реле")
    assert found == ["07.md"]
    assert "lacks the copy of the index" in warned[0]
    with monkeypatch.context() as patch:
        patch.setattr(Qdrant, "put", _ends)
        with pytest.raises(KeyboardInterrupt):
            archive.bring_copy(elsewhere, NONE)
    assert elsewhere.counts() is None
    archive.bring_copy(elsewhere, NONE)
    assert _searched(archive, elsewhere, "реле") == (["07.md"], [])


def _ends(*_: Any) -> None:
    raise KeyboardInterrupt


def _collections(server: Server) -> list[str]:
    from quietmind.notes.qdrant import connect

    client = connect(server.address, server.key)
    try:
        return [each.name for each in client.get_collections().collections]
    finally:
        client.close()


def test_two_processes_do_not_fill_it_at_once(archive: Workspace, qdrant_here: Server) -> None:
    from quietmind.kvstore.lock import try_hold

    with (archive.folder / "copy.lock").open("ab") as lock:
        assert try_hold(lock.fileno())
        assert archive.bring_copy(_elsewhere(archive, qdrant_here), NONE) is None


def test_a_wrong_key_is_said(archive: Workspace, qdrant_here: Server) -> None:
    if not qdrant_here.key:
        pytest.skip("the server that $QUIETMIND_TEST_QDRANT names asks for no key")
    with pytest.raises(IndexAway, match="refuses the key that it was given"):
        archive.bring_copy(Elsewhere(archive.folder, Place(qdrant_here.address, "another")), NONE)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>hello</html>"),
        (200, b'{"result": {"exists": "perhaps"}}'),
        (200, b"{}"),
        (404, b"no such page"),
        (500, b"\xff\xfe" + b"x" * 100_000),
        (302, b""),
    ],
)
def test_what_is_no_qdrant_is_named_in_one_line(archive: Workspace, status: int, content: bytes) -> None:
    pytest.importorskip("qdrant_client", reason="the client of Qdrant is not installed (extra `qdrant`)")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            with pytest.raises(IndexAway) as caught:
                archive.bring_copy(Elsewhere(archive.folder, Place(address)), NONE)
        finally:
            server.shutdown()
            thread.join()
    assert str(caught.value).startswith(address)
    assert len(str(caught.value)) < 500


def _settings(index: str | None, **others: Any) -> Settings:
    return Settings(workspace=Path("unused"), index=index, **others)


def test_a_setting_says_where_the_copy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert place_of(_settings(None), ()) is None
    assert place_of(_settings("embedded"), ()) is None
    assert place_of(_settings("qdrant:http://127.0.0.1:6333/"), ()) == Place("http://127.0.0.1:6333")
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    assert place_of(_settings("qdrant:http://localhost:6333"), ()) == Place(
        "http://localhost:6333", "of-the-environment"
    )
    file = tmp_path / "key"
    file.write_text("of-the-file\n")
    file.chmod(0o600)
    place = place_of(_settings("qdrant:http://[::1]:1", index_key_file=str(file), index_shards=3, index_replicas=2), ())
    assert place == Place("http://[::1]:1", "of-the-file", 3, 2)
    assert "of-the-file" not in repr(place)


@pytest.mark.parametrize("index", ["chroma", "qdrant", "qdrant:", "qdrant:6333", "http://127.0.0.1:6333"])
def test_a_setting_that_makes_no_sense_is_refused(index: str) -> None:
    with pytest.raises(UsageError):
        place_of(_settings(index), ())


def test_another_host_needs_consent_that_names_it(tmp_path: Path) -> None:
    settings = _settings("qdrant:https://index.lan:6333")
    with pytest.raises(UsageError, match=r"index\.lan"):
        place_of(settings, ())
    told: list[str] = []
    assert place_of(settings, ["index.lan"], told.append) == Place("https://index.lan:6333")
    assert "leave this machine" in told[0]
    warned: list[str] = []
    assert searched_elsewhere(tmp_path, settings, (), warned.append) is None
    assert warned[0].startswith("found in the archive's own index: ")


def test_a_damaged_memory_of_the_copy_is_named(archive: Workspace, qdrant_here: Server) -> None:
    (archive.folder / "copy.json").write_text('{"id": "../.."}')
    with pytest.raises(IndexAway, match=r"copy\.json.*remove it"):
        archive.bring_copy(_elsewhere(archive, qdrant_here), NONE)
    found, warned = _searched(archive, _elsewhere(archive, qdrant_here), "реле")
    assert (found, len(warned)) == (["07.md"], 1)
