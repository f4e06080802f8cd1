"""Damaged text is repaired exactly; sound text, whatever its language, is never touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.notes.mojibake import CODECS, repair

SHARED = Path(__file__).resolve().parents[3] / "shared"

SOUND = {
    "russian": """Заметка о «СССР» и «РФ»: № 5 — это ещё не всё…
        ЕЁ ОБЪЁМ — 12 м³, t = 20 °C; §3, §4. ПРОТОКОЛ №5. Р–300, С–400, С°
        Кто же… «Быть может», и… «раз и»—сказал он. Ёлка, ёж, её.""",
    "ukrainian": "Їжак є ґанок, СІРІ РІЗНІ НІЧ. В Україні — «ВІТІ»",
    "german": "Für die Öffentlichkeit: „Das ist Spaß“, Größe, ÄÖÜ, Äpfel»",
    "french": "Café « VOILÀ », Ça c’est déjà l’été – où êtes-vous ? À côté… L’Œuvre",
    "spanish": "“ESPAÑA” ¿Qué? ¡Año!",
    "greek": "Καλημέρα κόσμε, α + β = γ, Δx ≥ π/2, Ω",
    "mathematics": "x ∈ (–∞; 0) ∪ (0; +∞), √π·r, 2√πr, ∑∂f/∂x ≠ ∫, –Ω ≤ x ≤ —Ω, ¬∞, (–∞, –π) (–∞; –Ω)",
    "code": "if a ≠ b: x = '–Ω'; y = \"√ó\"  # ‚Äî is how a dash looks",
    "boxes": "┌──┬──┐\n│ Имя │ п│я │\n├──┼──┤ ╔═══╗\n└──┴──┘ ║ да ║ ─┐ ╠═╬═╣ ▓▒░",
    "chinese": "你好，世界。这是一个笔记。",
    "emoji": "✅ Да 🚀 → ← ★ 👩‍💻",
    "turkish": "İstanbul'da şğçöü",
}

DAMAGED = {
    "russian": """Привет, это заметка о работе.
        Нужно проверить «ИНН» — и Энтропию. Рано утром…
        x × 2
        1–2
        plain ASCII""",
    "german": "Für die Öffentlichkeit über Größe.\nSchöne Straße\nDas heißt: größer als früher.",
    "french": "Café crème à la carte.\nÇa c’est déjà l’été, où êtes-vous\nVoilà",
    "english": "It’s “quoted” — really…\nDon’t\nit’s\nplain",
    "greek": "Καλημέρα κόσμε",
    "ukrainian": "Їжак сидить на ґанку",
}


def damage(text: str, codec: str) -> str:
    """Read the UTF-8 bytes of ``text`` as ``codec``; bytes that it does not define become C1 controls."""
    chars = []
    for byte in text.encode():
        char = bytes([byte]).decode(codec, "replace")
        chars.append(chr(byte) if char == "\ufffd" else char)
    return "".join(chars)


def lines(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n"))


@pytest.mark.parametrize("language", SOUND)
def test_sound_text_is_never_changed(language: str) -> None:
    for text in (SOUND[language], SOUND[language].upper(), SOUND[language].lower(), (SOUND[language] + "\n") * 50):
        assert repair(lines(text)) == (lines(text), ())


def test_all_sound_languages_in_one_file_are_not_changed() -> None:
    text = "\n".join(SOUND.values())
    assert repair(lines(text)) == (lines(text), ())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("language", DAMAGED)
def test_damage_is_repaired_exactly(language: str, codec: str) -> None:
    text = DAMAGED[language]
    broken = lines(damage(text, codec))
    mended, repairs = repair(broken)
    assert mended == lines(text)
    assert {r.codec for r in repairs} == {codec}
    assert [(r.before, r.after) for r in repairs] == [
        (b, a) for b, a in zip(broken, lines(text), strict=True) if a != b
    ]
    assert all(lines(text)[r.line - 1] == r.after for r in repairs)


@given(
    st.lists(st.text("абвгдежзийклмнопрстуфхцчшщъыьэюяАБВГДЕЁЖЗабвёabc .,—«»-", min_size=1), min_size=1),
    st.sampled_from(CODECS),
)
def test_damaged_russian_comes_back_whatever_stands_around_it(texts: list[str], codec: str) -> None:
    # One word makes it certain that the file is damaged; from then on every line must come back.
    text = "\n".join(["проверка", *texts])
    assert "\n".join(repair(lines(damage(text, codec)))[0]) == text


@given(st.lists(st.text("абвгдежзиклмнопрстуфхцчшщыьэюяёАБВЕЁРС .,!?—–«»…№°§-“”’éüñ"), max_size=5))
def test_random_letters_and_punctuation_are_never_changed(texts: list[str]) -> None:
    assert repair(tuple(texts)) == (tuple(texts), ())


@pytest.mark.parametrize("codec", ["mac_roman", "cp1251"])
def test_a_line_that_is_damaged_in_part_is_repaired_in_part(codec: str) -> None:
    line = "Хорошо, " + damage("это правда", codec) + " вот"
    assert repair((line,))[0] == ("Хорошо, это правда вот",)


def test_sound_dashes_survive_beside_damage() -> None:
    broken = (damage("Это было повреждено", "mac_roman"), "А это – нет, (–∞; 0) и 2√π")
    assert repair(broken)[0] == ("Это было повреждено", broken[1])


def test_a_lone_sign_is_repaired_only_beside_certain_damage() -> None:
    assert repair(("2 √ó 2",))[0] == ("2 √ó 2",)
    assert repair(("2 √ó 2", damage("Умножение", "mac_roman")))[0] == ("2 × 2", "Умножение")


def test_a_hard_space_that_an_editor_made_plain_is_found_again() -> None:
    broken = damage("Рано утром поехал в Рим", "cp1251").replace("\xa0", " ")
    assert repair((broken,))[0] == ("Рано утром поехал в Рим",)


@pytest.mark.skipif(not SHARED.exists(), reason="the five real exports are not in this checkout")
def test_the_five_real_exports_are_repaired_line_by_line() -> None:
    for file in sorted((SHARED / "seeds").glob("*.txt")):
        broken = lines(file.read_text(encoding="utf-8"))
        meant = lines((SHARED / "seeds" / "decoded" / f"{file.stem}.md").read_text(encoding="utf-8"))
        mended, repairs = repair(broken)
        assert mended == meant[: len(mended)]
        assert len(repairs) > 30
        assert repair(meant) == (meant, ())
