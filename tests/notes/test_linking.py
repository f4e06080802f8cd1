"""Links lead where their writer would expect, follow the notes that come and go, and say when they are in doubt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quietmind.base.errors import NotesError
from quietmind.base.sqlite import connect
from quietmind.notes import schema
from quietmind.notes.index import Index
from quietmind.notes.linking import Linking, Outcome, Place
from quietmind.notes.links import Via

if TYPE_CHECKING:
    from tests.notes.conftest import Archive


class Linked:
    """An archive that is indexed whenever its links are asked for."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.root, self.connection, self.index = archive.root, archive.connection, archive.index

    def write(self, **notes: str) -> None:
        self.write_all(notes)

    def write_all(self, notes: dict[str, str]) -> None:
        for name, text in notes.items():
            self._archive.write(name if "." in name else f"{name}.md", text)

    @property
    def links(self) -> Linking:
        self.index.update(self.root)
        return Linking(self.connection)

    def of(self, name: str) -> list[tuple[str, list[str]]]:
        """The outcome of each link of a note, and the lines that it leads to."""
        return [(edge.outcome.value, self.shown(edge.leads)) for edge in self.links.of(self.root / name)]

    def to(self, name: str) -> list[str]:
        return self.shown(edge.source for edge in self.links.to(self.root / name))

    def shown(self, places: Iterator[Place] | tuple[Place, ...]) -> list[str]:
        return [
            f"{place.path.relative_to(self.root)}" + (f":{place.line}" if place.line is not None else "")
            for place in places
        ]


@pytest.fixture
def linked(archive: Archive) -> Linked:
    return Linked(archive)


@pytest.mark.parametrize(
    ("link", "leads"),
    [
        ("[[pump]]", "parts/pump.md"),
        ("[[Pump]]", "parts/pump.md"),
        ("[[parts/pump]]", "parts/pump.md"),
        ("[[pump.md]]", "parts/pump.md"),
        ("[[../parts/pump]]", "parts/pump.md"),
        ("[[/parts/pump]]", "parts/pump.md"),
        ("[x](../parts/pump.md)", "parts/pump.md"),
        ("[x](pump.html)", "parts/pump.md"),
        ("[[valve]]", "here/valve.md"),  # the one beside the note, not the other of its name
        ("[[parts/valve]]", "parts/valve.md"),
        ("[[guard]]", "parts/guard.md"),  # Markdown before pseudocode
        ("[[guard.pseudo]]", "parts/guard.pseudo"),
        ("[[Case]]", "parts/Case.md"),
        ("[[case]]", "here/case.md"),
        ("[[CASE]]", "here/case.md"),
        ("[[#Own]]", "here/note.md:1"),
        ("[x](valve.md)", "here/valve.md"),
        ("[[v1.2]]", "parts/v1.2.md"),
    ],
)
def test_a_link_leads_to_the_note_that_is_meant(linked: Linked, link: str, leads: str) -> None:
    names = ["parts/pump", "here/valve", "parts/valve", "parts/guard", "parts/Case", "here/case"]
    linked.write_all({f"{name}.md": "text\n" for name in [*names, "parts/v1.2"]} | {"parts/guard.pseudo": "stop\n"})
    linked.write_all({"here/note.md": f"# Own\n\n{link}\n"})
    assert linked.of("here/note.md") == [("found", [leads])]


def test_a_name_of_several_notes_is_ambiguous_and_may_lead_to_each(linked: Linked) -> None:
    linked.write_all({"a/x.md": "x\n", "b/x.md": "x\n", "c/note.md": "see [[x]]\n"})
    assert linked.of("c/note.md") == [("ambiguous", ["a/x.md", "b/x.md"])]
    assert linked.to("a/x.md") == linked.to("b/x.md") == ["c/note.md:1"]
    assert [edge.outcome for edge in linked.links.wrong()] == [Outcome.AMBIGUOUS]
    assert {one.path.name for one in linked.links.orphans()} == {"x.md", "note.md"}


def test_a_renamed_target_breaks_its_links_without_reading_their_sources(linked: Linked) -> None:
    linked.write(pump="text\n", note="a\n\n[[pump]]\n")
    assert linked.of("note.md") == [("found", ["pump.md"])]
    (linked.root / "pump.md").rename(linked.root / "pumps.md")
    report = linked.index.update(linked.root)
    assert (report.added, report.changed, report.removed) == (1, 0, 1)
    (edge,) = linked.links.wrong()
    assert (edge.source, edge.outcome) == (Place(linked.root / "note.md", 3), Outcome.BROKEN)
    assert linked.links.suggestion(edge.target) == linked.root / "pumps.md"
    linked.write(pump="text\n")
    assert linked.links.wrong() == []


def test_links_of_a_note_that_is_gone_or_rewritten_are_gone(linked: Linked) -> None:
    linked.write(pump="text\n", a="[[pump]]\n", b="[[pump]]\n")
    assert linked.to("pump.md") == ["a.md:1", "b.md:1"]
    (linked.root / "a.md").unlink()
    linked.write(b="nothing any more\n")
    assert linked.to("pump.md") == []
    assert linked.connection.execute("SELECT count(*) FROM links").fetchone() == (0,)


@pytest.mark.parametrize(
    ("anchor", "line"),
    [("First part", 3), ("first-part", 3), ("Above#First part", 3), ("Under", 7), ("^mark", 5), ("own", 10)],
)
def test_anchors_lead_to_headings_and_marked_places(linked: Linked, anchor: str, line: int) -> None:
    linked.write(a="top\n\n## First *part*\n\nx ^mark\n\nUnder\n-----\n\n<a id='own'>\n", note=f"[[a#{anchor}]]\n")
    assert linked.of("note.md") == [("found", [f"a.md:{line}"])]


def test_a_heading_that_is_not_there_is_told_and_still_leads_to_the_note(linked: Linked) -> None:
    linked.write(a="# Here\n", note="[[a#There]]\n")
    assert linked.of("note.md") == [("no such heading", ["a.md"])]
    assert linked.to("a.md") == ["note.md:1"]


def test_files_beside_the_notes_are_not_broken(linked: Linked) -> None:
    linked.write_all({"files/p.png": "", "files/q.pdf": "", "note.md": "![[p.png]] [q](files/q.pdf) [r](r.pdf)\n"})
    assert [outcome for outcome, _ in linked.of("note.md")] == ["file", "file", "broken"]


def test_ids_lead_to_their_definition_and_slips_are_told(linked: Linked) -> None:
    linked.write(
        spec="| REQ-1 | The pump stops. |\n|---|---|\n| REQ-2 | The valve opens. |\n| REQ-3 | It is white. |\n",
        matrix="| REQ-1 | `stop_pump` |\n|---|---|\n| REQ-2 | `open_valve` |\n",
        note="REQ-1, REQ-9 in UTF-8\n",
    )
    assert linked.of("note.md") == [("found", ["spec.md:1"]), ("undefined", [])]
    assert linked.to("spec.md") == ["note.md:1"]
    named = linked.links.named("REQ-1")
    assert linked.shown(named.defined) == ["spec.md:1"]
    assert linked.shown(named.elsewhere) == ["matrix.md:1"]
    assert linked.shown(named.used) == ["note.md:1"]


def test_code_leads_to_its_definition_and_what_nobody_defines_is_no_link(linked: Linked) -> None:
    linked.write_all(
        {
            "pump.pseudo": "function stop_pump(now):\n    off()\n",
            "a.md": "calls `stop_pump()` and `start_pump`\n",
            "b.md": "```\nstop_pump(1)\nprint(2)\n```\n",
        }
    )
    assert linked.to("pump.pseudo") == ["a.md:1", "b.md:2"]
    assert [edge.target for edge in linked.links.edges()] == ["stop_pump", "stop_pump"]
    assert [one.path.name for one in linked.links.orphans()] == ["a.md", "b.md"]


def test_a_summary_counts_what_the_lists_hold(linked: Linked) -> None:
    linked.write(a="[[b]] [[c]] [[nope]]\n", b="[[c]] [[b]]\n", c="text\n")
    summary = linked.links.summary()
    assert summary.notes == 3
    assert summary.counts == {(Via.WIKI, Outcome.FOUND): 4, (Via.WIKI, Outcome.BROKEN): 1}
    assert summary.most_linked == ((linked.root / "c.md", 2), (linked.root / "b.md", 1))
    assert summary.orphans == len(linked.links.orphans()) == 1
    assert linked.links.orphans()[0].leads_to == 2


def test_links_stay_inside_their_root_where_they_can(linked: Linked, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.md").write_text("x\n")
    (other / "only.md").write_text("x\n")
    linked.index.update(other)
    linked.write_all({"deep/x.md": "x\n", "note.md": "[[x]] [[only]]\n"})
    leads = [edge.leads[0].path for edge in linked.links.of(linked.root / "note.md")]
    assert leads == [linked.root / "deep" / "x.md", other / "only.md"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("x", "2 notes are called so"),
        ("pumps", "did you mean"),
        ("zzzz", "no note of the index"),
        ("", "no note of the index"),
    ],
)
def test_a_note_that_is_not_one_is_refused_in_one_line(linked: Linked, given: str, said: str) -> None:
    linked.write_all({"a/x.md": "x\n", "b/x.md": "x\n", "pump.md": "x\n"})
    with pytest.raises(NotesError, match=said):
        linked.links.note(given)
    assert linked.links.note("pump") == linked.links.note(str(linked.root / "pump.md")) == linked.root / "pump.md"


def test_an_index_from_before_links_says_so_and_the_next_update_fills_it(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("[[a]]\n")
    database = tmp_path / "archive.db"
    before = tuple(one for one in schema.MIGRATIONS if one.name != "notes-2-links")
    connect(database, before).close()
    connection = connect(database, schema.MIGRATIONS)
    index = Index(connection, database)
    index.update(tmp_path / "notes")
    connection.execute("UPDATE documents SET made_by = 'reader 1, cutter 1, lemmas 1'")
    connection.execute("DELETE FROM links")
    assert Linking(connection).unread == 1
    assert index.update(tmp_path / "notes").changed == 1
    assert Linking(connection).unread == 0
    assert len(list(Linking(connection).edges())) == 1
    connection.close()
