"""From bytes to a document: Markdown, chats, plain text; and what cannot be read says so in one line."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import NotesError
from quietmind.notes import markdown, reading
from quietmind.notes.document import Document, Form, Kind, Link
from quietmind.notes.reading import parse, read_bytes, read_document

CHAT = """\
# Выгрузка

>[!nexus_user] **User** - 30.06.2025 at 9:04
> Какая модель
> поместится в память?
<!-- UID: one -->


>[!nexus_agent] **Assistant** - 30.06.2025 at 11:05
> Вот ответ:
> # Память
> - раз
>
> ```python
> # не заголовок
> ```
> ## Подробно
> > цитата
<!-- UID: two -->

Заметка между репликами, [[Планы#Июнь|ссылка]].

>[!nexus_user] **User** - 31.02.2025 at 11:06
> Без конца
>[!nexus_tool] **Tool**
> конец файла
"""


def document(text: str, name: str = "note.md") -> Document:
    return parse(Path("/notes") / name, text.encode())


def outline(found: Document) -> list[tuple[int, int, tuple[str, ...]]]:
    return [(section.first_line, section.last_line, section.heading) for section in found.sections]


def test_headings_make_sections_that_follow_each_other_without_gaps() -> None:
    text = "intro\n\n# One **bold**\ntext\n## Two\n```\n# no heading\n```\nSetext\n------\n# Three\n"
    assert outline(document(text)) == [
        (1, 2, ()),
        (3, 4, ("One bold",)),
        (5, 8, ("One bold", "Two")),
        (9, 10, ("One bold", "Setext")),
        (11, 11, ("Three",)),
    ]


def test_title_is_front_matter_then_first_h1_then_file_name() -> None:
    assert document('---\ntags: x\ntitle: "План: год"\n---\n# Other\n').title == "План: год"
    assert document("## Low\n\n# High `code`\n\n# Later").title == "High code"
    assert document("## Low", "Моя заметка.md").title == "Моя заметка"
    assert document("---\ntitle:\n---\ntext").title == "note"
    assert document("text\n\n---\ntitle: no\n---\n").title == "note"


def test_blocks_have_their_exact_lines() -> None:
    text = "para\nmore\n\n| a |\n|---|\n| b |\n| c |\n\n- i\n\n  j\n- k\n  - l\n\n\n1. m\n\n~~~\n\ncode\n~~~\n[ref]: http://x\n"
    blocks = [(block.first_line, block.last_line, block.form, block.cuts) for block in document(text).blocks]
    assert blocks == [
        (1, 2, Form.PARAGRAPH, ()),
        (4, 7, Form.TABLE, (6, 7)),
        (9, 13, Form.LIST, (12,)),
        (16, 16, Form.LIST, ()),
        (18, 21, Form.CODE, ()),
        (22, 22, Form.PARAGRAPH, ()),
    ]


def test_wiki_links_are_found_where_they_stand_and_not_in_code() -> None:
    text = (
        "[[A]] `[[no]]` ``x ` [[no]]``\nnext [[B#H|label]]\n\n```\n[[no]]\n```\n> - ![[C.png]]\n\n"
        "| [[D\\|e]] |\n|---|\n\n[[#Here]] [[]]\n"
    )
    assert document(text).links == (
        Link(1, "A"),
        Link(2, "B", "H", "label"),
        Link(7, "C.png", embed=True),
        Link(9, "D", None, "e"),
        Link(12, "", "Here"),
    )


@pytest.mark.parametrize("name", ["chat.md", "chat.txt", "chat.idea"])
def test_a_chat_export_becomes_turns_whatever_the_ending(name: str) -> None:
    found = document(CHAT, name)
    assert found.kind is Kind.CHAT
    assert found.title == "Какая модель поместится в память?"
    turns = [(s.first_line, s.last_line, s.heading, s.speaker, s.when, s.uid) for s in found.sections]
    assert turns == [
        (1, 2, ("Выгрузка",), None, None, None),
        (3, 6, (), "user", "2025-06-30T09:04", "one"),
        (7, 8, (), None, None, None),
        (9, 10, (), "assistant", "2025-06-30T11:05", "two"),
        (11, 16, ("Память",), "assistant", "2025-06-30T11:05", "two"),
        (17, 19, ("Память", "Подробно"), "assistant", "2025-06-30T11:05", "two"),
        (20, 22, (), None, None, None),
        (23, 24, (), "user", None, None),
        (25, 26, (), "tool", None, None),
    ]
    assert found.links == (Link(21, "Планы", "Июнь", "ссылка"),)


def test_a_chat_loses_its_quote_marks_and_keeps_its_line_numbers() -> None:
    found = document(CHAT)
    assert len(found.lines) == len(CHAT.splitlines())
    assert found.lines[2] == "[!nexus_user] **User** - 30.06.2025 at 9:04"
    assert found.lines[3:5] == ("Какая модель", "поместится в память?")
    assert found.lines[12] == ""
    assert found.lines[17] == "> цитата"


def test_a_chat_header_inside_a_code_fence_is_an_example() -> None:
    found = document("How exports look:\n\n```\n>[!nexus_user] **User** - 01.01.2025 at 1:00\n> x\n```\n")
    assert found.kind is Kind.MARKDOWN


def test_a_long_first_question_is_shortened_for_the_title_at_a_word() -> None:
    title = document(">[!nexus_user] **User**\n> " + "очень длинный вопрос " * 20).title
    assert len(title) <= 80
    assert title.endswith(("очень…", "длинный…", "вопрос…"))


def test_pseudocode_keeps_what_is_indented_with_its_header() -> None:
    text = "module A\nconst x\n\nfunction f(x):\n    if x:\n\n        y\n    return\nfunction g:\n\tz\n\nlast\n"
    blocks = [(block.first_line, block.last_line, block.cuts) for block in document(text, "a.pseudo").blocks]
    assert blocks == [(1, 2, ()), (4, 8, (5, 8)), (9, 10, (10,)), (12, 12, ())]


def test_plain_text_is_paragraphs_and_its_number_signs_are_no_headings() -> None:
    found = document("# a\nb\n\n\nc [[Link]]\n", "a.txt")
    assert found.kind is Kind.TEXT
    assert [(b.first_line, b.last_line) for b in found.blocks] == [(1, 2), (5, 5)]
    assert outline(found) == [(1, 5, ())]
    assert found.links == (Link(5, "Link"),)


def test_an_empty_file_is_a_document_without_lines() -> None:
    found = document("")
    assert (found.lines, found.sections, found.blocks) == ((), (), ())


def test_encoding_and_hash_are_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("Старая заметка про дачу".encode("koi8-r"))
    found = read_document(file)
    assert (found.encoding, found.lines) == ("koi8-r", ("Старая заметка про дачу",))
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.path == file


@pytest.mark.parametrize(
    "text",
    [
        "> " * 5000,
        "- " * 5000,
        "[" * 50000,
        "`" * 9999 + " [[x",
        "[[" * 9999,
        "|" * 9999 + "\n|-|",
        "#" * 9999,
        "*" * 9999,
    ],
)
def test_hostile_markdown_is_read_without_trouble(text: str) -> None:
    assert "\n".join(document(text).lines) == text


BLOCKS = st.sampled_from(
    [
        "# Глава",
        "Заголовок\n---",
        "текст [[A]]",
        "- a\n- b\n\n  c",
        "| a |\n|---|\n| b |",
        "```\n" + "# no heading\n\n" * 60 + "```",
        "    code\n\n    code",
        "> quote\nlazy",
        "<!-- x\n\n# no heading\n-->",
        "\n\n\n\n",
        "слово " * 100,
    ]
)


@given(st.lists(BLOCKS, max_size=30))
def test_a_large_file_parsed_in_windows_is_what_it_is_parsed_as_one(parts: list[str]) -> None:
    lines = "\n\nмежду\n\n".join(parts).split("\n")
    with pytest.MonkeyPatch.context() as patch:
        whole = markdown.parse(lines)
        patch.setattr(markdown, "_WINDOW_CHARS", 100)
        assert markdown.parse(lines) == whole


def refusal(path: Path) -> str:
    with pytest.raises(NotesError) as caught:
        read_document(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refusals_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    assert "missing.md: cannot be read (No such file" in refusal(tmp_path / "missing.md")
    assert "not a regular file" in refusal(tmp_path)
    (tmp_path / "a\nb.md").write_bytes(b"\x89PNG\0\0")
    assert r"a\nb.md: binary" in refusal(tmp_path / "a\nb.md")
    assert "is not a file name" in refusal(Path("/a\0b.md"))


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    assert "not a regular file" in refusal(tmp_path / "pipe.md")


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "huge.md").open("wb") as file:
        file.truncate(200 << 20)
    assert "200.0 MiB is more than the 20.0 MiB" in refusal(tmp_path / "huge.md")


def test_a_file_of_nothing_but_lines_is_refused() -> None:
    with pytest.raises(NotesError, match="2,000,000 lines are more than the 1,000,000"):
        document("x\n" * 2_000_000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "a.md").chmod(0)
    assert "Permission denied" in refusal(tmp_path / "a.md")


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.md"
    file.write_text("first")
    real = reading._read_at_most
    calls = 0

    def disturbed(descriptor: int, count: int) -> bytes:
        nonlocal calls
        data = real(descriptor, count)
        calls += 1
        if calls == 1:
            file.write_text("second, longer")
        return data

    monkeypatch.setattr(reading, "_read_at_most", disturbed)
    data, state = read_bytes(file)
    assert data == b"second, longer"
    assert state == reading.FileState.of(file.stat())


def test_a_file_that_never_stands_still_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.md"
    file.write_text("x")
    real = reading._read_at_most

    def disturbed(descriptor: int, count: int) -> bytes:
        data = real(descriptor, count)
        with file.open("a") as grown:
            grown.write("more")
        return data

    monkeypatch.setattr(reading, "_read_at_most", disturbed)
    assert "keeps changing" in refusal(file)
