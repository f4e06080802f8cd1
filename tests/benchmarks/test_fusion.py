"""The benchmark of fusion keeps what it embeds, and ranks the same pages in every way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from quietmind.engine.embedders.fake import FakeEmbedder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PAGES = {
    "pump.md": "The pump fills the tank.",
    "relay.md": "The relay starts the pump.",
    "tree.md": "A tree in winter.",
}


@pytest.fixture
def fusion(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("fusion_benchmark", BENCHMARKS / "fusion.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fusion_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_what_was_embedded_is_not_embedded_again(fusion: ModuleType, tmp_path: Path) -> None:
    first, again = FakeEmbedder(), FakeEmbedder()
    kept = fusion.Kept(first, tmp_path / "kept.npz")
    vectors, query = kept.passages(["a pump", "a tank"]), kept.query("a pump")
    kept.close()
    later = fusion.Kept(again, tmp_path / "kept.npz")
    assert (later.passages(["a tank", "a pump"]) == vectors[::-1]).all()
    assert (later.query("a pump") == query).all()
    assert (first.embedded, again.embedded) == (["a pump", "a tank"], [])


def test_every_way_to_rank_finds_the_page_that_says_it(fusion: ModuleType, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, text in PAGES.items():
        (pages / name).write_text(text, encoding="utf-8")
    kept = fusion.Kept(FakeEmbedder(), tmp_path / "kept.npz")
    page, rankings, search_ms = fusion.rank(tmp_path / "workspace", pages, ["pump tank", "winter"], kept)
    assert search_ms > 0
    for name, ranking in rankings.items():
        assert page[ranking["pump tank"][0]] == "pump.md", name
        assert page[ranking["winter"][0]] == "tree.md", name


def test_ranks_alone_put_first_what_both_put_high(fusion: ModuleType) -> None:
    assert fusion.reciprocal_ranks([1, 2, 3], [2, 4]) == [2, 1, 4, 3]
