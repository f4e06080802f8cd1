"""``quietmind embed`` and a search by meaning, as a person runs them, against a real server of embeddings."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from quietmind.engine.embedders.fake import FakeEmbedder

Quietmind = Callable[..., subprocess.CompletedProcess[str]]
FAKE = FakeEmbedder(synonyms={"помпа": "насос"})


class Embeddings(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        made = FAKE.passages(asked["input"]).tolist()
        data = [{"index": index, "embedding": vector} for index, vector in enumerate(made)]
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Embeddings) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}#some-model"
        listening.shutdown()
        thread.join()


@pytest.fixture
def notes(tmp_path: Path, quietmind: Quietmind) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("насос стоит у бака\n", encoding="utf-8")
    (folder / "b.md").write_text("ёлка в декабре\n", encoding="utf-8")
    assert quietmind("index", str(folder)).returncode == 0
    return folder


@pytest.mark.usefixtures("notes")
def test_what_was_embedded_is_found_in_other_words(quietmind: Quietmind, server: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(f'embedder = "{server}"\n', encoding="utf-8")
    assert quietmind("search", "помпа").stdout == "nothing found\n"
    done = quietmind("embed")
    assert done.returncode == 0, done.stderr
    assert "2 passages embedded" in done.stdout
    assert "every passage has a vector" in done.stdout
    assert "nothing embedded" in quietmind("embed").stdout
    found = json.loads(quietmind("search", "помпа стоит", "--json").stdout)
    assert Path(found[0]["path"]).name == "a.md"
    assert found[0]["similarity"] > 0.5


@pytest.mark.usefixtures("notes")
def test_a_server_that_is_gone_leaves_the_words_and_one_line(quietmind: Quietmind, server: str, tmp_path: Path) -> None:
    assert quietmind("embed", "--embedder", server).returncode == 0
    (matrix,) = (tmp_path / "workspace" / "vectors").glob("*/rows.db")
    gone = server.replace(server.partition("#")[0], "http://127.0.0.1:9")
    _rename(matrix, gone)
    (tmp_path / "settings.toml").write_text(f'embedder = "{gone}"\n', encoding="utf-8")
    found = quietmind("search", "насосы")
    assert "a.md" in found.stdout
    assert found.stderr.startswith("warning: found by words alone: http://127.0.0.1:9 cannot be reached")
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--embedder", "none"], "there is no embedder"),
        (["--embedder", "word2vec"], "'word2vec' is no embedder"),
        (["--embedder", "https://gpu.lan#m"], "--allow-remote gpu.lan"),
    ],
)
def test_what_cannot_embed_is_refused_in_one_line(quietmind: Quietmind, arguments: list[str], said: str) -> None:
    refused = quietmind("embed", *arguments)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.usefixtures("notes")
def test_status_tells_what_serves_and_earlier_vectors_go_when_one_asks(
    quietmind: Quietmind, server: str, tmp_path: Path
) -> None:
    first, second = server, server.replace("some-model", "other-model")
    settings = tmp_path / "settings.toml"
    settings.write_text(f'embedder = "{second}"\n', encoding="utf-8")
    assert quietmind("embed", "--embedder", first).returncode == 0
    waiting = quietmind("embed", "--budget", "1s", "--forget-old", "--embedder", "http://127.0.0.1:9#gone")
    assert waiting.returncode != 0
    (tmp_path / "notes" / "c.md").write_text("новая заметка\n", encoding="utf-8")
    quietmind("index", "notes")
    lines = quietmind("status").stdout.splitlines()
    assert "  with a vector: 2 of 3 passages" in lines
    (line,) = [line for line in lines if line.startswith("vectors: ")]
    assert line.startswith(f"vectors: {first} serves, 2 of 3 passages, about ")
    assert line.endswith(" a second: quietmind embed")
    done = quietmind("embed")
    assert f"the vectors of {first} serve no more, " in done.stdout
    lines = quietmind("status").stdout.splitlines()
    assert f"vectors: {second} serves, 3 of 3 passages" in lines
    (line,) = [line for line in lines if first in line]
    assert line.endswith("`quietmind embed --forget-old` removes it")
    assert f"the vectors of {first} removed, " in quietmind("embed", "--forget-old").stdout
    (told,) = json.loads(quietmind("status", "--json").stdout)["vectors"]
    assert (told["embedder"], told["embedded"], told["serves"], told["growing"]) == (second, 3, True, False)
    assert told["below"] == {str(tmp_path / "notes"): 3}


def _rename(table: Path, name: str) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(table)) as connection:
        connection.execute("UPDATE facts SET value = ? WHERE name = 'name'", (name,))
        connection.commit()
