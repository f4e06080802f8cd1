"""``quietmind watch``: one line for each batch, one watcher for each workspace, an end at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import pytest

Quietmind = Callable[..., subprocess.CompletedProcess[str]]
Watcher = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    """Start ``quietmind watch`` with these arguments; what still runs at the end is killed."""
    pytest.importorskip("watchfiles")
    environment = os.environ | {
        "QUIETMIND_WORKSPACE": str(tmp_path / "workspace"),
        "QUIETMIND_SETTINGS": str(tmp_path / "settings.toml"),
        "PYTHONIOENCODING": "utf-8",
    }
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "quietmind", "watch", *arguments]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, encoding="utf-8", env=environment, cwd=tmp_path)
        started.append(child)
        return child

    yield start
    for child in started:
        with child:
            child.kill()


class Embeddings(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data = [{"index": index, "embedding": [1.0, index, 2.0]} for index, _ in enumerate(asked["input"])]
        content = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def embeddings() -> Iterator[str]:
    """Yield the address of a real server of embeddings."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Embeddings) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}#some-model"
        listening.shutdown()
        thread.join()


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


def appears(path: Path, text: str) -> None:
    """Make a note all at once: a watcher that saw it empty first would tell of it twice."""
    beside = path.parents[1] / path.name
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def test_changes_are_told_and_found_and_a_signal_ends_it(
    quietmind: Quietmind, watcher: Watcher, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова")
    quietmind("index", "notes")
    watching = watcher()
    assert line_of(watching.stdout)[10:].startswith("notes: 1 note, read in ")
    appears(tmp_path / "notes" / "b.md", "The zanzibar sensor is green.")
    assert line_of(watching.stdout)[10:].startswith("notes: 1 added, searchable after ")
    assert json.loads(quietmind("search", "zanzibar", "--json").stdout)[0]["path"].endswith("b.md")
    second = quietmind("watch")
    assert (second.returncode, second.stdout) == (1, "")
    assert "follows its notes already" in second.stderr
    assert second.stderr.count("\n") == 1
    watching.send_signal(signal.SIGTERM)
    assert watching.communicate(timeout=60) == ("", "")
    assert watching.returncode == 0


def test_json_is_one_document_a_line_and_ctrl_c_ends_it(quietmind: Quietmind, watcher: Watcher, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("слова")
        quietmind("index", name)
    watching = watcher("b", "--json", "--poll", "0.1")
    told = json.loads(line_of(watching.stdout))
    assert (told["news"], Path(told["root"]).name, told["unchanged"]) == ("current", "b", 1)
    (tmp_path / "b" / "a.md").unlink()
    told = json.loads(line_of(watching.stdout))
    assert (told["news"], "--forget" in told["said"]) == ("away", True)
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert (out, err.strip()) == ("", "stopped")
    assert watching.returncode == 130


def test_a_changed_note_gets_its_vector_without_a_second_command(
    quietmind: Quietmind, watcher: Watcher, tmp_path: Path, embeddings: str
) -> None:
    (tmp_path / "settings.toml").write_text(f'embedder = "{embeddings}"\n', encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова", encoding="utf-8")
    quietmind("index", "notes")
    watching = watcher("--poll", "0.2")
    assert "1 note, read in" in line_of(watching.stdout)
    assert line_of(watching.stdout)[10:] == "vectors: 1 passage embedded, every passage has one"
    appears(tmp_path / "notes" / "b.md", "иначе")
    assert "1 added" in line_of(watching.stdout)
    assert line_of(watching.stdout)[10:] == "vectors: 1 passage embedded, every passage has one"
    (told,) = json.loads(quietmind("status", "--json").stdout)["vectors"]
    assert (told["embedded"], told["complete"]) == (2, True)
    watching.send_signal(signal.SIGTERM)
    assert watching.communicate(timeout=60) == ("", "")
    assert watching.returncode == 0


def test_an_embedder_that_is_away_is_told_of_and_following_goes_on(
    quietmind: Quietmind, watcher: Watcher, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text('embedder = "http://127.0.0.1:9#gone"\n', encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова", encoding="utf-8")
    quietmind("index", "notes")
    watching = watcher("--poll", "0.2", "--json")
    assert json.loads(line_of(watching.stdout))["news"] == "current"
    told = json.loads(line_of(watching.stdout))
    assert (told["news"], "http://127.0.0.1:9 cannot be reached" in told["said"]) == ("delayed", True)
    appears(tmp_path / "notes" / "b.md", "иначе")
    assert json.loads(line_of(watching.stdout))["added"] == 1
    watching.send_signal(signal.SIGTERM)
    assert watching.communicate(timeout=60) == ("", "")


def test_only_indexed_folders_are_watched(quietmind: Quietmind, tmp_path: Path) -> None:
    done = quietmind("watch")
    assert (done.returncode, "quietmind index FOLDER" in done.stderr) == (1, True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("слова")
    quietmind("index", "notes")
    done = quietmind("watch", "nosuch")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "nosuch: is not among the indexed folders (notes); index it first: quietmind index nosuch" in done.stderr
