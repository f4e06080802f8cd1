"""The benchmark of the archive: its halves, its scores, its copies and its report, on a dozen pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietmind.base.errors import UsageError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
REPORT = {"pages", "passages", "lexical_s", "dense_per_s", "rescan_s", "peak_mb", "p50_ms", "p99_ms", "legs", "peers"}
TOPICS = {
    "pump": ("The pump starts when the float falls", "Насос включается, когда поплавок опускается"),
    "roof": ("Slates of the roof are laid in autumn", "Черепицу на крышу кладут осенью"),
    "bees": ("Bees winter in the shed behind the well", "Пчёлы зимуют в сарае за колодцем"),
    "wire": ("Copper wire is measured in square millimetres", "Сечение медного провода измеряют в квадратах"),
    "jams": ("Jam of gooseberries boils for an hour", "Варенье из крыжовника кипит целый час"),
    "keys": ("Spare keys hang under the third step", "Запасные ключи висят под третьей ступенькой"),
}


def part(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return __import__(name)


known, copies, child = map(part, ("archive_known", "archive_copies", "archive_child"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    lines = []
    for name, texts in TOPICS.items():
        for lang, text in zip(("en", "ru"), texts, strict=True):
            path = tmp_path / "pages" / lang / f"{name}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name}\n\n{text}.\n", encoding="utf-8")
            lines.append(json.dumps({"query": text, "path": f"{lang}/{name}.md", "lang": lang}))
    (tmp_path / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_the_last_line_is_the_report_of_one_half(archive: Path) -> None:
    asked = ["--pages", f"{archive}/pages", "--queries", f"{archive}/queries.jsonl", "--peers", "fts5-porter"]
    said = subprocess.run(
        [sys.executable, str(BENCHMARKS / "archive.py"), *asked, "--legs", "words", "--times", "2"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    report = json.loads(said[-1])
    assert report.keys() == REPORT
    assert (report["pages"], report["dense_per_s"]) == (24, None)
    reported = [each for each in known.read(archive / "queries.jsonl") if known.half(each.path) == "report"]
    by_language = report["legs"]["words"]["by_language"]
    assert sum(by_language[lang]["queries"] for lang in ("en", "ru") if lang in by_language) == len(reported)
    assert report["legs"]["words"]["mrr"] > 0.5
    assert report["peers"]["fts5-porter"]["mrr"] > 0.5
    assert any(line.startswith("predicted:") for line in said)
    assert f"asked here: {len(reported)} (report)" in said[0]


def test_a_peer_that_is_not_there_is_named_with_what_installs_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = part("archive")
    absent = part("archive_peers").Offer(None, ("no_such_module.part",), "pip install no-such-module", "pages")
    monkeypatch.setitem(benchmark.PEERS, "absent", absent)
    trial = benchmark.Trial(archive / "pages", [], {}, {}, archive, 1.0, 1)
    assert benchmark.measure_peer("absent", trial) == {"missing": "pip install no-such-module"}
    assert "pip install no-such-module" in capsys.readouterr().out


def test_a_child_that_dies_is_named_by_its_last_words(archive: Path) -> None:
    with pytest.raises(child.ChildFailed, match=r"no-such-part|KeyError"):
        child.run("archive_ours.py", "no-such-part", {}, archive, 60)


@given(st.text(min_size=1))
def test_a_page_is_in_one_half_for_good(path: str) -> None:
    assert known.half(path) in known.HALVES
    assert known.half(path) == known.half(path)


def test_both_halves_get_about_as_many_pages() -> None:
    tuned = sum(known.half(f"man/page-{number}.md") == "tune" for number in range(2_000))
    assert 900 < tuned < 1_100


def test_across_languages_the_page_of_the_query_is_not_counted() -> None:
    asked = [known.Known("насос", "ru/a.md", "ru"), known.Known("pump", "en/a.md", "en")]
    other = known.partners(["ru/a.md", "en/a.md", "en/b.md"])
    found = [["ru/a.md", "en/b.md", "en/a.md"], ["en/b.md"]]
    scores = known.scores(asked, found, other, known.other_languages(asked, other))
    assert {name: score.mrr for name, score in scores.items()} == {
        "all": 0.5,
        "ru": 1.0,
        "en": 0.0,
        "ru>en": 0.5,
        "en>ru": 0.0,
    }


def test_past_the_tenth_page_nothing_counts() -> None:
    pages = [f"{number}.md" for number in range(20)]
    assert known.reciprocal("9.md", pages) == pytest.approx(0.1)
    assert known.reciprocal("10.md", pages) == 0


def test_a_subset_holds_pages_of_queries_with_their_partners_and_others() -> None:
    paths = [f"{lang}/{number}.md" for lang in ("ru", "en") for number in range(50)]
    asked = [known.Known("q", f"ru/{number}.md", "ru") for number in range(50)]
    chosen = known.subset(asked, paths, known.partners(paths), 20)
    assert chosen == known.subset(asked, sorted(paths, reverse=True), known.partners(paths), 20)
    assert len(chosen) == 20
    assert sum(path.startswith("ru") for path in chosen) >= 5


def test_copies_keep_the_length_of_a_page_and_change_some_of_its_words(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    words = [f"word{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}" for n in range(100)]
    (pages / "a.md").write_text(" ".join(words), encoding="utf-8")
    copies.write_copies(pages, tmp_path / "more", 3)
    original, one, two = (
        (tmp_path / "more" / path).read_text(encoding="utf-8").split() for path in ("a.md", "1/a.md", "2/a.md")
    )
    assert original == words
    assert sorted(one) == sorted(two) == sorted(words)
    assert one != two
    assert 10 < sum(a != b for a, b in zip(words, one, strict=True)) < 50


@pytest.mark.parametrize("line", ["{", "[]", '{"query": "a"}', "3"])
def test_a_line_that_is_no_query_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('{"query": "a", "path": "b.md", "lang": "en"}\n' + line, encoding="utf-8")
    with pytest.raises(UsageError, match=r"queries.jsonl:2: is no query"):
        known.read(file)
