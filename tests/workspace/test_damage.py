"""How far a cache's answers are from the exact one's: nothing for the same one, more for one that is further off."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import ModelNotFound
from quietmind.engine.fake import FakeEngine, Likely, Step
from quietmind.engine.llamacpp import LlamaCpp, LlamaCppOptions
from quietmind.engine.port import Finished, Position, Request
from quietmind.kvstore.slots import parse, put_rows, rows
from quietmind.model.locate import locate
from quietmind.notes.document import Passage
from quietmind.workspace.damage import Damage, Probe, Probes, kl, measure
from quietmind.workspace.layout import Layout, lay_out

LINE = "Note {n}: in the summer the pump was opened at {hour}:25 and closed again by the gardener"


def passages(count: int) -> list[Passage]:
    text = "a line that is said in every note, word for word, many times over\n"
    return [Passage(Path(f"/n/{n}.md"), 1, 2, text + LINE.format(n=n, hour=10 + n), f"Note {n}") for n in range(count)]


def an_engine(step: Step = "an answer") -> FakeEngine:
    return FakeEngine(lambda _: step, context=10_000)


def laid(engine: FakeEngine, count: int = 12) -> Layout:
    return lay_out(engine, passages(count), reserve=200)


def place(token: int, logprobs: dict[int, float]) -> Position:
    return Position(token, str(token), {key: math.log(value) for key, value in logprobs.items()})


def test_equal_continuations_do_not_differ() -> None:
    positions = (place(1, {1: 0.7, 2: 0.2}), place(2, {2: 0.6, 3: 0.3}))
    assert kl(positions, positions) == [0.0, 0.0]


def test_the_divergence_is_that_of_the_two_distributions() -> None:
    (found,) = kl([place(1, {1: 0.6, 2: 0.3})], [place(1, {1: 0.5, 2: 0.2})])
    assert found == pytest.approx(0.6 * math.log(0.6 / 0.5) + 0.3 * math.log(0.3 / 0.2) + 0.1 * math.log(0.1 / 0.3))


def test_what_only_one_lists_counts_as_the_rest() -> None:
    (found,) = kl([place(1, {1: 0.6, 2: 0.3})], [place(1, {1: 0.6, 3: 0.3})])
    assert found == 0.0


def test_nothing_counts_behind_the_first_place_where_the_words_differ() -> None:
    exact = [place(1, {1: 0.9}), place(2, {2: 0.6, 3: 0.4}), place(4, {4: 0.9})]
    other = [place(1, {1: 0.9}), place(3, {2: 0.4, 3: 0.6}), place(4, {4: 0.1})]
    first, second = kl(exact, other)
    assert first == 0.0
    assert second > 0.05


def test_a_probability_of_nothing_is_far_and_still_a_number() -> None:
    never = Position(1, "1", {1: -3.4e38, 2: 0.0})
    (found,) = kl([place(1, {1: 0.5, 2: 0.5})], [never])
    assert 10 < found < 100


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)), min_size=2, max_size=9))
def test_a_divergence_is_never_negative(weights: list[tuple[float, float]]) -> None:
    sums = [sum(each[side] for each in weights) + 0.1 for side in (0, 1)]
    one, two = ({n: each[side] / sums[side] for n, each in enumerate(weights)} for side in (0, 1))
    assert min(kl([place(0, one)], [place(0, two)])) >= 0.0


def test_damage_counts_the_continuations_that_are_the_same() -> None:
    exact = ((place(1, {1: 0.9}),), (place(2, {2: 0.9}), place(3, {3: 0.9})))
    other = ((place(1, {1: 0.9}),), (place(2, {2: 0.9}), place(4, {3: 0.4, 4: 0.5})))
    damage = Damage.between(exact, other)
    assert (damage.positions, damage.same, damage.probes) == (3, 1, 2)
    assert damage.worst == pytest.approx(3 * damage.mean)


def test_without_an_answer_there_is_no_damage_to_speak_of() -> None:
    with pytest.raises(ValueError, match="no probe"):
        Damage.between(((),), ((),))


def test_facts_are_asked_for_up_to_their_value_and_the_rest_in_the_models_own_words() -> None:
    probes = Probes.of(laid(an_engine()), subjects=1, facts=4)
    facts, open_ones = probes.asked[:4], probes.asked[4:]
    assert [probe.value for probe in facts] == ["10:25", "13:25", "16:25", "19:25"]
    assert [probe.value for probe in open_ones] == ["", "", ""]
    for probe in facts:
        assert probe.ending[-1].text.endswith("was opened at")
        assert probe.tokens > len(probe.value)
        assert not any(segment.trusted for segment in (probe.ending[0], probe.ending[-1]))
    assert probes == Probes.of(laid(an_engine()), subjects=1, facts=4)


def test_lines_are_written_out_where_that_is_asked_for() -> None:
    probes = Probes.of(laid(an_engine()), subjects=0, facts=0, lines=2, tokens=5)
    assert [probe.value for probe in probes.asked] == [""] * 4
    assert [probe.tokens for probe in probes.asked] == [5] * 4
    for probe in probes.asked[:2]:
        assert probe.ending[-1].text.endswith("in the summer the pump was opened")
        assert not probe.ending[-1].trusted


def test_only_what_is_held_is_asked_for() -> None:
    probes = Probes.of(laid(an_engine()), blocks=2, subjects=2, facts=2)
    assert [probe.value for probe in probes.asked[:2]] == ["10:25", "11:25"]
    assert ["Note 0" in probes.asked[4].ending[0].text, "Note 1" in probes.asked[5].ending[0].text] == [True, True]


def spoken(*words: str) -> tuple[Position, ...]:
    return tuple(Position(number, word, {number: -0.1}) for number, word in enumerate(words))


def test_of_a_fact_only_what_says_its_value_counts() -> None:
    probe = Probe((), 6, "10:25")
    answer = probe.answer(spoken(" 10", ":", "25", " each", " day"))
    assert [position.text for position in answer] == [" 10", ":", "25"]
    assert probe.is_right(answer)
    assert not probe.is_right(spoken(" 10", ":", "30"))
    assert len(Probe((), 6).answer(spoken("in", " my", " own", " words"))) == 4


def test_facts_that_the_exact_cache_does_not_know_say_nothing() -> None:
    def known(right: int) -> tuple[int, list[str]]:
        probes = Probes((*(Probe((), 3, "12") for _ in range(6)), Probe((), 3)))
        answers = [spoken("12") if number < right else spoken("13") for number in range(6)] + [spoken("words")]
        left, kept = probes.known(answers)
        assert len(kept) == len(left.asked)
        return sum(bool(probe.value) for probe in left.asked), [position.text for position in kept[-1]]

    assert known(5) == (5, ["words"])
    assert known(3) == (0, ["words"])  # too few: what is said in its own words has to do


def test_facts_are_held_to_the_bound_and_the_models_own_words_told_apart() -> None:
    probes = Probes((Probe((), 3, "12"), Probe((), 3)))
    exact = ((place(1, {1: 0.9}),), (place(2, {2: 0.6, 3: 0.4}), place(4, {4: 0.9})))
    other = ((place(1, {1: 0.8}),), (place(3, {2: 0.4, 3: 0.6}), place(5, {5: 0.9})))
    damage = Damage.between(exact, other, probes)
    assert (damage.positions, damage.same, damage.probes, damage.prose_positions) == (1, 1, 1, 1)
    assert damage.prose is not None
    assert damage.mean < damage.everywhere < damage.prose
    assert damage.everywhere == pytest.approx((damage.mean + damage.prose) / 2)


def test_subjects_are_of_one_note_alone_and_asked_about_in_its_language() -> None:
    notes = [
        Passage(Path("/n/1.md"), 1, 1, "The pump is started by hand.", "Pumps", ("Start",)),
        Passage(Path("/n/2.md"), 1, 1, "Said twice.", "Chat"),
        Passage(Path("/n/2.md"), 2, 2, "And again.", "Chat"),
        Passage(Path("/n/3.md"), 1, 1, "Насос включают вручную, потом открывают клапан valve.", "Насосы"),
    ]
    probes = Probes.of(lay_out(an_engine(), notes, reserve=200), subjects=4, facts=0)
    first, second = (probe.ending[0] for probe in probes.asked[2:4])
    assert first.text == "What do the notes say about “Pumps > Start”? Answer in one sentence."
    assert second.text == "Что сказано в заметках о «Насосы»? Ответь одним предложением."
    assert {first.trusted, second.trusted} == {False}  # what a note is called is no control token


def test_notes_without_a_fact_are_still_asked_about() -> None:
    engine = an_engine()
    layout = lay_out(engine, [Passage(Path("/n/1.md"), 1, 1, "short", "Note")], reserve=200)
    assert len(Probes.of(layout, subjects=0).asked) == 2


def test_every_probe_begins_with_the_prefix_that_is_held() -> None:
    engine = an_engine()
    layout = laid(engine)
    answers = measure(engine, layout.prefix(), Probes.of(layout, facts=0, tokens=3))
    assert [len(each) for each in answers] == [2] * 6
    prefix = layout.prefix_tokens()
    for request in engine.requests:
        assert engine.tokenize(request.prompt)[: len(prefix)] == prefix
        assert request.max_tokens == 3


def test_an_engine_less_sure_of_itself_is_further_off() -> None:
    def answers(probability: float) -> tuple[tuple[Position, ...], ...]:
        engine = an_engine(Likely("an answer of five words", probability))
        layout = laid(engine)
        return measure(engine, layout.prefix(), Probes.of(layout))

    damages = [Damage.between(answers(0.9), answers(probability)).mean for probability in (0.9, 0.8, 0.5)]
    assert damages[0] == 0.0
    assert damages == sorted(set(damages))


def test_of_a_real_cache_the_damage_grows_with_the_noise(tmp_path: Path) -> None:
    try:
        model = locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")
    with LlamaCpp.start(LlamaCppOptions(model, context=1024, threads=1, batch=256, micro_batch=256)) as engine:
        layout = lay_out(engine, passages(6), reserve=256)
        probes = Probes.of(layout, subjects=1, facts=0, tokens=4)
        *_, last = engine.generate(Request(layout.prefix(), 1))
        assert isinstance(last, Finished)
        engine.save(tmp_path / "exact")

        def with_noise(size: float) -> tuple[tuple[Position, ...], ...]:
            (tmp_path / "noisy").write_bytes(noisy((tmp_path / "exact").read_bytes(), size))
            engine.restore(tmp_path / "noisy")
            return measure(engine, layout.prefix(), probes)

        exact = with_noise(0.0)
        assert Damage.between(exact, with_noise(0.0)).mean == 0.0
        slight, strong = (Damage.between(exact, with_noise(size)).mean for size in (0.01, 0.5))
        assert slight < strong / 10


def noisy(content: bytes, size: float) -> bytes:
    """Return a slot's file with noise of so many standard deviations in the V of every layer."""
    target, generator = memoryview(bytearray(content)), np.random.default_rng(1)
    for plane in parse(BytesIO(content)).values:
        values = rows(content, plane)
        noise = generator.standard_normal(values.shape).astype(np.float32) * values.std() * np.float32(size)
        put_rows(target, plane, 0, values + noise)
    return bytes(target)
