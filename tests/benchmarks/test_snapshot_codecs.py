"""The arithmetic of the benchmark of snapshot codecs: its contexts, its peers' rounding, its masks, sizes and rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.engine.port import Finished, Message, Position, Prompt, Request, Segment, Timings
from quietmind.kvstore.rotation import Pairs, Rotation

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def part(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return __import__(f"snapshot_codecs_{name}")


text, table, floats, peers = map(part, ("text", "table", "float", "peers"))
sizes, plot, engines, kvtc = map(part, ("sizes", "plot", "engine", "kvtc"))


class Letters:
    """An engine whose tokens are letters, with a template of two marks."""

    context = 10_000

    def tokenize(self, given: str) -> list[int]:
        if isinstance(given, Prompt):
            return [
                token
                for segment in given.segments
                for token in (map(ord, segment.text) if segment.tokens is None else segment.tokens)
            ]
        return [ord(letter) for letter in given]

    def render(self, messages: Sequence[Message]) -> Prompt:
        said = [Segment(message.content, trusted=False) for message in messages]
        return Prompt([Segment("<", True), said[0], Segment("|", True), said[1], Segment(">", True)])


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    for number in range(12):
        words = " ".join(f"page{number}word{word}" for word in range(120))
        (tmp_path / f"{number:02}.md").write_text(words, "utf-8")
    return tmp_path


def a_rotation(length: int = 8) -> Rotation:
    return Rotation(Pairs.HALVES, length, length, 10_000.0)


def a_cache(layers: int = 2, tokens: int = 300, heads: int = 2, length: int = 32, seed: int = 0) -> Any:
    chance = np.random.default_rng(seed)
    shape = (layers, tokens, heads, length)
    return floats.Cache(*(chance.normal(size=shape).astype(np.float32) for _ in range(2)))


def test_no_two_needles_share_a_name_or_a_code() -> None:
    found = text.needles(200, random.Random(1))
    assert len({needle.name for needle in found}) == len({needle.code for needle in found}) == 200
    assert sum(needle.name.isascii() for needle in found) == 100


@pytest.mark.parametrize("count", [0, 201])
def test_needles_that_cannot_differ_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="1 to 200"):
        text.needles(count, random.Random(1))


def test_a_context_has_exactly_its_tokens_and_every_needle_once(pages: Path) -> None:
    case = text.case(Letters(), pages, 4000, 6, 2)
    whole = "".join(map(chr, case.tokens))
    assert len(case.tokens) == 4000
    assert [whole.count(needle.sentence) for needle in case.needles] == [1] * 6
    places = sorted(whole.index(needle.sentence) for needle in case.needles)
    assert all(np.diff(places) > 200), "they are spread"


def test_what_follows_a_context_does_not_stand_in_it(pages: Path) -> None:
    case = text.case(Letters(), pages, 4000, 6, 2)
    whole = "".join(map(chr, case.tokens))
    assert [len(stretch) for stretch in case.stretches] == [text.STRETCH_TOKENS] * text.STRETCHES
    assert not any("".join(map(chr, stretch)) in whole for stretch in case.stretches)


def test_the_tokens_of_a_question_are_what_comes_behind_the_context(pages: Path) -> None:
    case = text.case(Letters(), pages, 4000, 6, 2)
    assert "".join(map(chr, case.question_tokens(Letters(), "What?"))) == "\n\nQuestion: What?>"


def test_a_context_is_the_same_each_time(pages: Path) -> None:
    one, two = (text.case(Letters(), pages, 3000, 4, 3) for _ in range(2))
    assert one == two


def test_too_few_pages_are_refused(pages: Path) -> None:
    with pytest.raises(UsageError, match="fill no context of 40,000 tokens"):
        text.case(Letters(), pages, 40_000, 6, 2)


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.md file"):
        text.pages_of(tmp_path, random.Random(1))


def test_neighbours_are_the_channels_that_stood_half_a_head_apart() -> None:
    keys = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    assert floats.as_neighbours(keys).tolist() == [[[[0, 4, 1, 5, 2, 6, 3, 7]]]]
    assert floats.as_halves(floats.as_neighbours(keys)).tolist() == keys.tolist()


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_cache_comes_back_from_its_file_as_16_bit_floats_hold_it(tmp_path: Path, neighbours: bool) -> None:
    cache = a_cache(tokens=5).halved()
    cache.save(tmp_path / "file", range(5), neighbours)
    found = cache.loaded((tmp_path / "file").read_bytes(), neighbours)
    assert np.array_equal(found.keys, cache.keys)
    assert np.array_equal(found.values, cache.values)
    assert table.values_in(tmp_path / "file") == cache.numbers == 2 * 2 * 5 * 2 * 32


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 30))
def test_batches_hold_everything_in_order_and_no_more_than_fits(sizes_: list[int], most: int) -> None:
    following = [floats.Following(tuple(range(size)), 0, answer=False) for size in sizes_]
    found = list(floats.batches(following, most))
    assert [each for batch in found for each in batch] == following
    assert all(len(batch) == 1 or sum(len(each.tokens) for each in batch) <= most for batch in found)


def test_divergences_are_those_of_the_definition() -> None:
    exact, other = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    found = floats.divergences(exact.astype(np.float32), other.astype(np.float32))
    assert found == pytest.approx([0.5 * np.log(2) + 0.5 * np.log(2 / 3), 0.0], abs=1e-6)


def test_the_hadamard_matrix_is_its_own_inverse() -> None:
    matrix = peers.hadamard(64)
    assert np.allclose(matrix @ matrix, np.eye(64), atol=1e-5)


def test_rounding_to_8_bits_is_off_by_half_a_step_at_most() -> None:
    block = np.linspace(-1, 3, 32, dtype=np.float32)[None]
    assert np.abs(peers.q8_0(block) - block).max() <= 3 / 127 / 2 * 1.01


def test_rounding_to_4_bits_keeps_the_largest_and_is_off_by_a_step_at_most() -> None:
    block = np.linspace(-1, 3, 32, dtype=np.float32)[None]
    found = peers.q4_0(block)
    assert found[0, -1] == 3.0
    assert np.abs(found - block).max() <= 3 / 8 / 2 * 1.01
    assert peers.q4_0(np.zeros((1, 32), np.float32)).tolist() == [[0.0] * 32]


def test_the_engines_types_are_counted_with_their_scales() -> None:
    rows = {peer.level: peer.code(a_cache()) for peer in peers.peers(["llama.cpp"], None)}
    numbers = a_cache().numbers
    assert {level: 8 * coded.size / numbers for level, coded in rows.items()} == {"q8_0": 8.5, "q4_0": 4.5}


def test_a_peer_that_has_nothing_to_learn_from_is_left_out_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(peers.peers(["KVTC"], None)) == []
    assert "KVTC is left out (it learns from other pages: give --calibrate)" in capsys.readouterr().out


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(UsageError, match="'zip' is no peer"):
        list(peers.peers(["zip"], None))


def test_clusters_are_where_the_values_are() -> None:
    values = np.repeat(np.array([-0.9, -0.1, 0.2, 0.8], np.float32), 100)
    assert peers.clustered(values, 4) == pytest.approx([-0.9, -0.1, 0.2, 0.8])


def test_values_outside_the_span_are_kept_as_they_are_and_counted() -> None:
    values = np.array([[0.1], [-5.0], [0.9]], np.float32)
    span = (np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))
    found, apart = peers.coded_by(values, span, np.array([0.0, 1.0], np.float32))
    assert (found.tolist(), apart) == ([[0.0], [-5.0], [1.0]], 1)


def test_kvquant_spends_its_bits_and_keeps_the_first_token() -> None:
    cache, known = a_cache(), a_cache(seed=1)
    calibration = peers.Calibration(known.keys.swapaxes(0, 1), known.values.swapaxes(0, 1), a_rotation(32))
    coded = peers.KvQuant(calibration, 4)(cache)
    assert np.array_equal(coded.cache.keys[:, 0], cache.keys[:, 0])
    assert 4.3 < 8 * coded.size / cache.numbers < 5.3
    assert np.abs(coded.cache.keys - cache.keys).mean() < 0.15


def test_steps_between_the_least_and_the_largest_are_half_off_at_most() -> None:
    block = np.random.default_rng(3).normal(size=(7, 16)).astype(np.float32)
    steps, scales, restored = kvtc.quantized(block, 4)
    assert steps.max() == 15
    assert (np.abs(restored - block).max(1) <= 0.51 * scales[:, 0].astype(np.float32) + 2e-3).all()


def principal(channels: int = 64, falling: float = 0.9) -> Any:
    values = np.random.default_rng(2).normal(size=(400, channels)) * falling ** np.arange(channels)
    return kvtc.Principal.of(values.astype(np.float32))


def test_bits_go_where_the_variance_is_and_stay_within_their_number() -> None:
    found = principal()
    runs = kvtc.allocated(found.runs, 2.0)
    spent = sum(16 if kind == 16 else run * kind + 32 for run, kind in runs)
    assert spent <= 2.0 * 64
    assert runs
    assert sum(run for run, _ in runs) < 64, "the last components are left out"
    assert sorted((kind for _, kind in runs), reverse=True) == [kind for _, kind in runs]


def test_more_bits_make_less_error() -> None:
    found = principal()
    errors = [
        float(((kvtc.stored(found.sample, kvtc.allocated(found.runs, bits))[1] - found.sample) ** 2).sum())
        for bits in (1.0, 2.0, 4.0)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_kvtc_keeps_the_first_and_the_newest_tokens_and_counts_them() -> None:
    cache = a_cache(tokens=400)
    bases = tuple(kvtc.Principal.of(part.swapaxes(0, 1)) for part in (cache.keys, cache.values))
    coded = kvtc.Kvtc(a_rotation(32), bases, 2.0)(cache)
    exact = [*range(kvtc.SINKS), *range(400 - kvtc.NEWEST, 400)]
    assert np.array_equal(coded.cache.keys[:, exact], cache.keys[:, exact])
    assert np.array_equal(coded.cache.values[:, exact], cache.values[:, exact])
    assert coded.size > len(exact) * 2 * 2 * 2 * 32 * 2
    assert coded.size < cache.numbers * 16 / 8


def test_kvtc_is_left_out_where_its_basis_would_take_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvtc, "_MOST_CHANNELS", 63)
    with pytest.raises(floats.NotHere, match="hours"):
        principal(64)


def said(*answers: str) -> tuple[tuple[Position, ...], ...]:
    return tuple(tuple(Position(ord(each), each, {ord(each): -0.1, 0: -2.5}) for each in answer) for answer in answers)


def an_exact(pages: Path, *answers: str) -> Any:
    case = text.case(Letters(), pages, 3000, len(answers), 1)
    return engines.Exact(case, pages / "slot", 1, engines.Replies(said(*answers), said("so")), 2.0, 0.1)


def test_what_follows_is_looked_at_from_the_first_word_of_the_answer_on(pages: Path) -> None:
    found = an_exact(pages, "12345", "")
    first, second, *texts = engines.following(Letters(), found)
    question = found.case.needles[0].question
    assert "".join(map(chr, first.tokens)) == f"\n\nQuestion: {question}>12345"
    assert [chr(first.tokens[at]) for at in first.positions] == [*">12345"]
    assert [chr(second.tokens[at]) for at in second.positions] == [">"]
    assert [(len(each.positions), each.answer) for each in texts] == [(text.STRETCH_TOKENS, False)] * text.STRETCHES


def test_an_answer_that_was_right_and_is_not_any_more_is_lost(pages: Path) -> None:
    codes = [needle.code for needle in an_exact(pages, "", "", "").case.needles]
    found = an_exact(pages, f"It is {codes[0]}.", codes[1], "none")
    now = engines.Replies(said(codes[0], "99", codes[2]), said("no"))
    row = found.judged(table.Row("exact", "exact", 3000), now)
    assert (row.needles, row.needles_right, row.needles_right_exact, row.needles_lost) == (3, 2, 2, 1)
    assert row.lost_by == pytest.approx([2.4])
    assert "1 lost by 2.40 nats" in row.line()
    assert (row.continuations, row.continuations_identical) == (1, 0)


def test_pages_to_learn_from_must_be_enough(pages: Path) -> None:
    class Saving(Letters):
        context = 1000

        def generate(self, _request: Request) -> Iterator[Finished]:
            yield Finished("length", Timings(0, 1, 1.0, 1, 1.0))

        def save(self, file: Path) -> int:
            return file.write_bytes(b"saved")

        def restore(self, _file: Path) -> int:
            return 1

        build = "letters"

    slots = engines.calibration_slots(Saving(), pages, 1000, pages)
    assert [slot.read_bytes() for slot in slots] == [b"saved"] * 2
    with pytest.raises(UsageError, match="give more text"):
        list(engines.calibration_slots(Saving(), pages, 1_000_000, pages))


def test_sizes_count_every_byte_against_16_bits() -> None:
    row = table.sized(table.Row("exact", "exact", 10), 500, 1000)
    assert (row.ratio, row.bits_per_value, row.bytes_per_token) == (4.0, 4.0, 50.0)


def test_a_row_says_what_its_summary_must_even_where_nothing_was_measured() -> None:
    row = table.Row("CacheGen", "published", 0, ratio=3.5).to_json()
    assert row["ratio"] == 3.5
    assert row["kl_mean"] is None
    assert "first_token_s" not in row


def test_codecs_pack_and_restore_a_file_of_arrays(tmp_path: Path) -> None:
    cache = a_cache(tokens=40).halved()
    cache.save(file := tmp_path / "file", range(40), neighbours=False)
    entries = table.entries(["exact", "perchannel"], a_rotation(32), None)
    assert [entry.title for entry in entries] == ["exact exact", "perchannel 4", "perchannel 3"]
    for entry in entries:
        packed = table.packed(entry.codec, file, 1)
        found = cache.loaded(packed.restored, neighbours=False)
        assert np.abs(found.keys - cache.keys).max() < (0 if entry.name == "exact" else 1) + 1e-9
        assert packed.timed(table.Row("", "", 40)).decode_mb_s > 0


def test_finer_steps_run_at_equal_ratios() -> None:
    levels = [entry.level for entry in table.entries(["perchannel"], None, None, 3)]
    assert levels == ["4", "3", "4 x 0.50", "4 x 1.41", "4 x 4.00"]


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(UsageError, match="'zip' is no codec"):
        table.entries(["zip"], None, None)


def test_ten_million_tokens_of_the_published_configurations() -> None:
    values = sizes.VALUES_PER_TOKEN
    assert {model: sizes.archive_bytes(count, 16) / 1e9 for model, count in values.items()} == pytest.approx(
        {"Qwen3-30B-A3B": 983.04, "Qwen3-235B-A22B": 1925.12}
    )
    assert sizes.archive_bytes(values["Qwen3-30B-A3B"], 0.8) / 1e9 == pytest.approx(49.152)


def test_a_context_is_back_after_it_is_read_decoded_and_loaded() -> None:
    row = table.Row("transform", "near", 1, bits_per_value=1.6, decode_mb_s=1000.0)
    raw = 131_072 * 49_152 * 2
    assert sizes.first_token_s(49_152, row, 2e9) == pytest.approx(raw / 10 / 5e9 + raw / 1e9 + raw / 2e9)


def a_level(**changes: Any) -> Any:
    measured = {"ratio": 12.0, "needles_right_exact": 20, "needles_lost": 0, "text": "like"}
    return table.Row("transform", "near", 100, **(measured | changes))


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, True),
        ({"ratio": 9.9}, False),
        ({"kl_mean": 0.0005}, True),
        ({"kl_mean": 0.00051}, False),
        ({"needles_lost": 1}, False),
        ({"needles_right_exact": 0}, False),
        ({"ratio": 5.1, "text": "unlike"}, True),
        ({"ratio": 4.9, "text": "unlike"}, False),
        ({"kl_mean": 0.0005, "text": "unlike"}, True),
        ({"kl_mean": 0.00051, "text": "unlike"}, False),
    ],
)
def test_a_level_holds_where_it_is_small_enough_and_loses_no_answer_and_little_else(
    changes: dict[str, Any], held: bool
) -> None:
    assert [each["held"] for each in sizes.targets([a_level(**changes)], "unlike")] == [held]


def test_only_levels_that_were_asked_questions_are_judged() -> None:
    rows = [table.Row("perchannel", "4", 100, ratio=4.0), a_level(needles_lost=None)]
    assert sizes.targets(rows, None) == []


def test_only_what_is_tried_is_predicted() -> None:
    assert [*table.predicted(["perchannel"], ["hqq", "KVTC"])] == [
        "perchannel 4",
        "perchannel 3",
        "last bits",
        "zstd 3",
        "QuantizedCache",
        "KVTC recipe",
    ]


def test_a_curve_falls_from_large_to_small_and_leaves_out_what_was_not_measured() -> None:
    rows = [
        table.Row("transform", level, 9, bits_per_value=bits, kl_mean=divergence)
        for level, bits, divergence in (("small", 0.8, 0.005), ("near", 1.6, 0.0004), ("other", None, 0.1))
    ]
    assert plot.lines(rows) == {"transform": [(1.6, 0.0004, "near"), (0.8, 0.005, "small")]}


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(plot, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(UsageError, match="pip install matplotlib"):
        plot.require(Path("rate.svg"))


def test_a_picture_that_is_to_be_something_else_than_an_svg_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rate\.png: .*ends in \.svg"):
        plot.require(Path("rate.png"))
