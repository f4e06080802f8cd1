"""An outline says what a note links to, how large it is and which words tell it from others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quietmind.notes.outlines import Names, Outline, Size, link_targets
from quietmind.workspace.workspace import Workspace

NOTES = {
    "pumps/start.md": "# Start\n\nSee [[Tank]], [the hub](../hubs/hub.md#wiring) and [[hubs/hub|a hub]]. Flamingo.\n",
    "pumps/list.md": "# List\n\nFrom [start](start.md), [a site](https://example.org/x.md), [[nowhere]]. Flamingo.\n",
    "hubs/hub.md": "# Hub\n\nThe [name](%D0%B1%D0%B0%D0%BA.md) of it, and [[#here]].\n",
    "hubs/бак.md": "# Бак\n\nБак на 85 литров стоит у стены.\n",
    "tank.md": "# Tank\n\nIt holds [85](litres) of water, and [[tank]] is me.\n",
}


@pytest.fixture
def outlines(tmp_path: Path) -> Iterator[dict[str, Outline]]:
    folder = (tmp_path / "notes").resolve()
    for name, text in NOTES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with Workspace(tmp_path / "ws", create=True) as workspace:
        workspace.index(folder)
        yield {each.path.relative_to(folder).as_posix(): each for each in workspace.outlines()}


def linked(outline: Outline) -> set[str]:
    return {path.name for path in outline.links}


def test_links_are_resolved_by_path_and_by_name_whatever_the_case(outlines: dict[str, Outline]) -> None:
    assert linked(outlines["pumps/start.md"]) == {"tank.md", "hub.md"}
    assert linked(outlines["pumps/list.md"]) == {"start.md"}


def test_links_of_percent_and_cyrillic_are_resolved_and_none_leads_to_itself(outlines: dict[str, Outline]) -> None:
    assert linked(outlines["hubs/hub.md"]) == {"бак.md"}
    assert linked(outlines["tank.md"]) == set()


def test_of_two_notes_of_one_name_the_nearest_is_meant() -> None:
    names = Names([Path("/n/a/tank.md"), Path("/n/b/tank.md"), Path("/n/b/start.md")])
    assert names.resolved(Path("/n/b/start.md"), "tank") == Path("/n/b/tank.md")
    assert names.resolved(Path("/n/a/list.md"), "tank") == Path("/n/a/tank.md")


@pytest.mark.parametrize("target", ["", "nowhere", "..", "a\0b", "/", "../../../../etc/passwd"])
def test_a_link_that_leads_nowhere_is_none(target: str) -> None:
    assert Names([Path("/n/a.md")]).resolved(Path("/n/a.md"), target) is None


def test_web_addresses_and_images_elsewhere_are_no_links_to_notes() -> None:
    text = "[a](https://x.org/a.md) ![b](b.png) [c](<my.md>) [[d|e]] [[f#g]] [[|]] mailto:[x](mailto:a@b.c)"
    assert list(link_targets(text)) == ["d", "f", "b.png", "my.md"]


def test_sizes_are_told_apart_by_script() -> None:
    size = Size.of(1, "Бак on 85")
    assert (size.cyrillic, size.other) == (3, 6)


def test_telling_words_are_shared_by_few_and_not_by_one_alone(outlines: dict[str, Outline]) -> None:
    assert "flamingo" in outlines["pumps/start.md"].words & outlines["pumps/list.md"].words
    assert not any("site" in outline.words for outline in outlines.values())


def test_below_a_folder_only_its_notes_count(tmp_path: Path, outlines: dict[str, Outline]) -> None:
    with Workspace(tmp_path / "ws") as workspace:
        below = workspace.outlines((tmp_path / "notes" / "pumps").resolve())
        assert [each.path.name for each in below] == ["list.md", "start.md"]
        assert linked(below[1]) == set()
        assert len(workspace.sample(count=2)) == 2
