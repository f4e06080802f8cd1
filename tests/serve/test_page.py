"""What the page is sent: its files with what keeps them shut in, and what its views show, which must add up."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import httpx2
import pytest

from quietmind.base.settings import Settings
from quietmind.base.units import GIB
from quietmind.cli.main import cli
from quietmind.machine.load import load_machine
from quietmind.model.open import open_card
from quietmind.plan import Ask, plan
from quietmind.serve.guard import Guard
from quietmind.serve.page_memory import kind_of, memory_of
from quietmind.serve.page_views import settings_of
from quietmind.workspace.launch import Start
from quietmind.workspace.notebook import Reading, Source
from quietmind.workspace.workspace import Workspace

pytest.importorskip("uvicorn", reason="serving takes more packages: pip install 'quietmind[serve]'")
pytest.importorskip("fastapi", reason="serving takes more packages: pip install 'quietmind[serve]'")

FILES = Path(__file__).resolve().parents[2] / "src" / "quietmind" / "serve" / "page_files"
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def get(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url, headers=headers, trust_env=False)


def lines(served: Any, path: Path | str, first: int = 1, last: int = 1, **more: int) -> httpx2.Response:
    asked: dict[str, str | int] = {"path": str(path), "first": first, "last": last, **more}
    return httpx2.get(f"{served.url}/page/lines", params=asked, trust_env=False)


def test_the_page_may_load_its_own_files_and_nothing_else(served: Any) -> None:
    page = get(served.url, **BROWSER)
    policy = dict(each.split(" ", 1) for each in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    for name in re.findall(r'(?:src|href)="/page/files/([^"]+)"', page.text):
        assert get(f"{served.url}/page/files/{name}").status_code == 200, name


def test_every_file_of_the_page_names_its_kind_and_no_other_host(served: Any) -> None:
    for file in FILES.iterdir():
        sent = get(f"{served.url}/page/files/{file.name}")
        assert sent.content == file.read_bytes()
        assert sent.headers["x-content-type-options"] == "nosniff"
        hosts = set(re.findall(r"https?://([\w.-]+)", sent.text)) - {"www.w3.org"}  # the name of SVG, never asked
        assert not hosts, file.name


def test_nothing_in_the_page_makes_markup_of_a_string() -> None:
    for file in FILES.glob("*.js"):
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTML", code
        )
        assert not found, file.name


def test_a_file_that_the_browser_has_is_not_sent_again(served: Any) -> None:
    first = get(f"{served.url}/page/files/app.js")
    again = get(f"{served.url}/page/files/app.js", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    assert get(f"{served.url}/page/files/app.js", **{"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "../../page.py", "__init__.py"])
def test_no_other_file_can_be_named(served: Any, name: str) -> None:
    assert get(f"{served.url}/page/files/{name}").status_code == 404


def test_the_key_is_asked_for_what_is_shown_and_not_for_the_page(serve: Any, tmp_path: Path) -> None:
    key = "k" * 32
    with serve(tmp_path, guard=Guard(key)) as served:
        assert get(served.url, **BROWSER).status_code == 200
        assert get(f"{served.url}/page/files/app.js").status_code == 200
        views = ("start", "queue", "plan", "status", "notebooks", "settings", "lines?path=a&first=1&last=1")
        for view in views:
            assert get(f"{served.url}/page/{view}").status_code == 401, view
        assert get(f"{served.url}/page/start", Authorization=f"Bearer {key}").status_code == 200


def test_the_cited_lines_are_those_of_the_file(served: Any) -> None:
    note = served.notes / "decisions" / "adr-002-radio-868.md"
    whole = note.read_text(encoding="utf-8").splitlines()
    found = lines(served, note, 5, 6, before=2, after=1).json()
    assert found["lines"] == whole[2:7]
    assert (found["first"], found["total"], found["shown"]) == (3, len(whole), "decisions/adr-002-radio-868.md")
    assert lines(served, note, 1, len(whole) + 5, before=9).json()["lines"] == whole
    assert lines(served, note, len(whole) + 3, len(whole) + 4).json()["lines"] == whole[-1:]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../etc/passwd", "decisions/../../../pyproject.toml", "\0", " ", "no such note"]
)
def test_no_line_of_what_is_no_note_is_shown(served: Any, path: str) -> None:
    refused = lines(served, path)
    assert 400 <= refused.status_code < 500
    assert "root:" not in refused.text
    assert refused.json()["error"]["message"].count("\n") == 0


def test_a_note_that_has_become_a_link_out_of_the_archive_is_not_opened(served: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "secret.txt").write_text("nobody is to see this\n", encoding="utf-8")
    note = notes / "note.md"
    note.write_text("# A note\n\nplain words\n", encoding="utf-8")
    with Workspace(served.workspace) as workspace:
        workspace.index(notes)
    assert lines(served, note, 3, 3).json()["lines"] == ["plain words"]
    note.unlink()
    note.symlink_to(tmp_path / "secret.txt")
    refused = lines(served, note, 1, 1)
    assert 400 <= refused.status_code < 500
    assert "nobody" not in refused.text
    with Workspace(served.workspace) as workspace:
        workspace.forget(notes)


def test_a_line_without_end_is_cut(served: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    note = tmp_path / "notes" / "long.md"
    note.write_text("# Long\n\n" + "word " * 100_000 + "\n", encoding="utf-8")
    with Workspace(served.workspace) as workspace:
        workspace.index(tmp_path / "notes")
        found = lines(served, note, 1, 3).json()["lines"]
        workspace.forget(tmp_path / "notes")
    assert found[0] == "# Long"
    assert len(found[2]) == 20_001
    assert found[2].endswith("…")


@pytest.mark.parametrize("asked", ["first=0&last=1", "first=2&last=1", "first=x&last=1", "first=1&last=1&before=99999"])
def test_lines_that_make_no_sense_are_refused(served: Any, asked: str) -> None:
    assert get(f"{served.url}/page/lines?path=index.md&{asked}").status_code == 400


def test_the_memory_picture_is_the_ledger_of_all_models_together() -> None:
    machine = load_machine("rtx-pro-6000-192")
    devices = [replace(each, free_bytes=each.memory_bytes and each.memory_bytes - GIB) for each in machine.devices]
    machine = replace(machine, devices=tuple(devices))
    starts = []
    for name in ("Qwen3-30B-A3B", "gpt-oss-20b"):
        card, ask = open_card(name), Ask(context=8192)
        starts.append(Start(machine, card, plan(machine, card, ask), ask))
    picture = memory_of(starts)
    assert [each["name"] for each in picture["models"]] == [start.plan.title for start in starts]
    for device in picture["devices"]:
        of_ledger = sum(start.plan.ledger.total(device["device"]) for start in starts)
        assert device["needed"] == of_ledger == sum(part["bytes"] for part in device["parts"])
        assert device["others"] == GIB
        assert device["needed"] + device["others"] + device["free"] == device["capacity"] + device["missing"]
    rows = [row for start in starts for row in start.plan.ledger.rows]
    assert [row["bytes"] for row in picture["ledger"]] == [row.bytes for row in rows]
    assert memory_of(())["devices"] == []


@pytest.mark.parametrize(
    ("component", "kind"),
    [
        ("weights: experts", "experts"),
        ("second: weights: experts", "experts"),
        ("weights: attention", "weights"),
        ("KV cache, sliding window", "kv"),
        ("compute buffer, weights in transit", "compute"),
        ("engine overhead", "compute"),
    ],
)
def test_a_component_is_shown_as_what_it_is(component: str, kind: str) -> None:
    assert kind_of(component) == kind


def test_the_archive_is_told_as_status_tells_it(served: Any) -> None:
    told = get(f"{served.url}/page/status").json()
    (root,) = told["roots"]
    with Workspace(served.workspace) as workspace:
        (census,) = workspace.status("none").roots
    assert (root["documents"], root["passages"]) == (census.documents, census.passages)
    assert (root["new"], root["changed"], root["gone"], root["away"]) == (0, 0, 0, None)
    start = get(f"{served.url}/page/start").json()
    assert start["archive"]["notes"] == census.documents
    assert start["archive"]["roots"] == [str(census.root)]


def test_notebooks_are_told_with_what_was_read_of_them(served: Any) -> None:
    with Workspace(served.workspace) as workspace:
        workspace.notebooks.make("radio", Source("path", str(served.notes / "decisions")))
        workspace.notebooks.note_reading("radio", Reading("f", "c", 1234, 2.5, "2026-01-02T03:04:05+00:00"))
    (told,) = get(f"{served.url}/page/notebooks").json()["notebooks"]
    assert (told["name"], told["tokens"], told["read"]) == ("radio", 1234, "2026-01-02T03:04:05+00:00")
    assert told["due"] == "its notes have changed"
    assert get(f"{served.url}/page/start").json()["archive"]["notebooks"] == ["radio"]
    with Workspace(served.workspace) as workspace:
        workspace.notebooks.drop("radio")


def test_an_empty_workspace_is_no_error(serve: Any, tmp_path: Path) -> None:
    with serve(tmp_path, index=False) as served:
        assert get(f"{served.url}/page/start").json()["archive"] == {"notes": 0, "roots": [], "notebooks": []}
        assert get(f"{served.url}/page/status").json() is None
        assert get(f"{served.url}/page/notebooks").json() is None
        assert lines(served, "index.md").status_code == 409


def test_the_command_beside_a_setting_is_one_that_there_is() -> None:
    told = settings_of(Settings(workspace=Path("/w"), passages=9))["settings"]
    assert {each["name"]: each["usual"] for each in told}["passages"] is False
    assert {each["name"]: each["usual"] for each in told}["max_tokens"] is True
    for each in told:
        if each["command"] is None:
            continue
        _, name, *words = each["command"].split()
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, each["command"]
        options = {option for param in command.params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= options, each["command"]


def test_both_languages_say_the_same_things() -> None:
    keys = {}
    for language in ("en", "ru"):
        text = (FILES / f"words.{language}.js").read_text(encoding="utf-8")
        keys[language] = re.findall(r'^  (?=\S)"?([^":\n]+)"?:(?: ["{]|$)', text, re.MULTILINE)
        assert len(keys[language]) == len(set(keys[language]))
        assert set(re.findall(r"\{(\w+)\}", text)) <= set(
            re.findall(r"\{(\w+)\}", (FILES / "words.en.js").read_text(encoding="utf-8"))
        )
    assert keys["en"] == keys["ru"]
    code = "".join(file.read_text(encoding="utf-8") for file in FILES.iterdir() if file.suffix in (".js", ".html"))
    said = set(re.findall(r'\bsay\("([^"]+)"', code)) | set(re.findall(r'data-(?:word|label)="([^"]+)"', code))
    assert said <= set(keys["en"])
    settings = {f"setting.{each['name']}" for each in settings_of(Settings(workspace=Path("/w")))["settings"]}
    assert settings <= set(keys["en"])


def test_words_can_be_told_from_what_is_behind_them_in_both_looks() -> None:
    style = (FILES / "style.css").read_text(encoding="utf-8")
    looks = {
        name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    }
    for look in (0, 1):
        for words, grounds in {
            "ink": ("paper", "raised", "sunk", "wash"),
            "quiet": ("paper", "raised", "sunk"),
            "accent": ("paper", "raised", "wash"),
            "trouble": ("paper", "raised"),
            "on-accent": ("accent",),
        }.items():
            for ground in grounds:
                assert contrast(looks[words][look], looks[ground][look]) >= 4.5, (words, ground, look)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2, "contrast ratio"), of which 4.5 is enough for text."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
