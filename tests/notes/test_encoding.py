"""Bytes become the text that was meant, or a refusal of one line."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import NotesError
from quietmind.notes.encoding import decode, split_lines

WORDS = """
дом время человек год дело жизнь день рука работа слово место друг вопрос система память модель заметка архив контекст
ответ запрос книга страница ключ окно сервер файл папка текст строка ошибка проверка требование функция экран кнопка
пользователь доступ пароль сеть скорость объём чтение запись поиск это как что для при или если когда можно нужно
сделать проверить купить молоко хлеб позвонить маме завтра утром вечером быстро хорошо новый старый большой первый
мой наш он она мы я не да нет по на в с к у о за под съезд подъезд вьюга щенок чашка шёпот жёлтый эхо юг цвет хочу
"""


def notes(words: int, count: int) -> list[str]:
    chance = random.Random(words)
    known = WORDS.split()
    texts = []
    for number in range(count):
        text = " ".join(chance.choice(known) for _ in range(words))
        texts.append([text, text.capitalize(), f"- {text}, API v2.0", text.title(), text.upper()][number % 5])
    return texts


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "cp866"])
@pytest.mark.parametrize(("words", "wrong_of_500"), [(2, 10), (3, 2), (5, 0), (12, 0)])
def test_short_russian_notes_are_read_in_the_encoding_they_were_written_in(
    encoding: str, words: int, wrong_of_500: int
) -> None:
    wrong = [text for text in notes(words, 500) if decode(text.encode(encoding)) != (text, encoding)]
    assert len(wrong) <= wrong_of_500, wrong


def test_western_text_in_cp1252_is_not_taken_for_russian() -> None:
    for text in ["Café crème, naïve façade", "Für die Öffentlichkeit: über Größe", "El niño comió piñas", "Straße"]:
        assert decode(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Привет, мир\nещё строка — «да»", "plain English\r\ntext", "Смета: 12 000 EUR"])
def test_unicode_is_recognised_without_a_byte_order_mark(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides_and_is_dropped(encoding: str) -> None:
    assert decode("Заметка".encode(encoding))[0] == "Заметка"


def test_a_few_damaged_bytes_leave_utf8_what_it_is() -> None:
    text, encoding = decode("Это длинная русская заметка с одним битым байтом".encode() + b"\xff!")
    assert encoding == "utf-8"
    assert text.endswith("байтом\ufffd!")


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00",
        bytes(range(256)),
        b"text and then\x00zero",
        bytes(random.Random(1).choices(range(1, 256), k=4000)),
    ],
)
def test_binary_is_refused(data: bytes) -> None:
    with pytest.raises(NotesError, match="binary"):
        decode(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    with suppress(NotesError):
        assert "\0" not in decode(data)[0]


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"])))
def test_utf8_comes_back_as_it_was(text: str) -> None:
    assert decode(text.encode())[0] == text.removeprefix("\ufeff")


def test_lines_end_where_editors_end_them() -> None:
    assert split_lines("a\nb\r\nc\rd") == ("a", "b", "c", "d")
    assert split_lines("a\u2028b\x0cc\x0bd\x85e") == ("a\u2028b\x0cc\x0bd\x85e",)
    assert split_lines("a\n\n") == ("a", "")
    assert split_lines("") == ()
