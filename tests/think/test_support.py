"""A sentence passes only when a passage really holds it."""

from __future__ import annotations

import pytest

from quietmind.think.support import closest, find_support, is_claim

PASSAGE = """## Watering
The pump starts when soil moisture falls below 32 % and runs for at most 90 seconds.
It never starts between 23:00 and 06:00.
Полив включается, если влажность почвы ниже 32 %. Насос работает не дольше 90 секунд."""


@pytest.mark.parametrize(
    "sentence",
    [
        "The pump starts when soil moisture falls below 32 %.",
        "The pump runs for at most 90 seconds.",
        "Pumps start below 32% soil moisture.",
        "Полив включится при влажности почвы ниже 32 %.",
    ],
)
def test_what_the_passage_says_is_supported(sentence: str) -> None:
    support = find_support(sentence, PASSAGE)
    assert support is not None
    assert "32" in PASSAGE[support.start : support.end] or "90" in PASSAGE[support.start : support.end]


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("The pump starts when soil moisture falls below 23 %.", "another number"),
        ("The pump does not start when soil moisture falls below 32 %.", "negated"),
        ("Полив не включается, если влажность почвы ниже 32 %.", "negated"),
        ("It starts between 23:00 and 06:00.", "the passage says never"),
        ("The greenhouse door opens when the lamp is bright.", "nothing of it is there"),
        (
            "Полив включается, если влажность почвы ниже 32 % и открыта форточка крыши теплицы соседа.",
            "mostly invented",
        ),
    ],
)
def test_what_the_passage_does_not_say_is_not(sentence: str, why: str) -> None:
    assert find_support(sentence, PASSAGE) is None, why


@pytest.mark.parametrize(
    ("note", "sentence"),
    [
        ("The hub works down to 5 °C.", "The hub works down to −5 °C."),
        ("The tank holds 85 litres.", "The tank holds 85 millilitres."),
        ("Насос выключается летом.", "Насос включается летом."),
        ("Boris approved the tank design.", "Anna approved the tank design."),
        (
            "After a long talk on Monday, Boris approved the tank.",
            "After a long talk on Monday, Anna approved the tank.",
        ),
        ("The valve is open in winter.", "The valve is closed in winter."),
        ("The battery lasts two days.", "The battery lasts ten days."),
        ("The vent opens after the pump.", "The vent opens before the pump."),
        ("Порог выше 40 %.", "Порог ниже 40 %."),
        ("# The red tank\n\nIt is old.", "The red tank."),
    ],
)
def test_one_deciding_word_sign_or_unit_makes_the_difference(note: str, sentence: str) -> None:
    assert find_support(sentence, note) is None


def test_the_quote_is_the_shortest_stretch_that_holds_the_sentence() -> None:
    support = find_support("It never starts between 23:00 and 06:00.", PASSAGE)
    assert support is not None
    assert PASSAGE[support.start : support.end] == "It never starts between 23:00 and 06:00."


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1 200 litres of water", "1,200 litres of water"), ("2,5 литра воды", "2.5 литра воды")],
)
def test_a_number_is_the_same_in_either_spelling(written: str, meant: str) -> None:
    assert find_support(written, f"The tank holds {meant}.") is not None


def test_small_talk_questions_and_headings_are_no_claims() -> None:
    assert not is_claim("Sure!")
    assert is_claim("Да.")
    assert is_claim("Красный.")
    assert is_claim("# The tank holds 900 litres")
    assert not is_claim("Сколько воды в баке стенда?")
    assert not is_claim("## Water tank")
    assert is_claim("Порог влажности равен 32 %.")


def test_the_closest_sentence_shares_most_with_the_question() -> None:
    near = closest("How long does the pump run?", PASSAGE)
    assert PASSAGE[near.start : near.end].startswith("The pump starts")
    assert PASSAGE[near.start : near.end].endswith("90 seconds.")
