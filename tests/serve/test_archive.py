"""The archive as a model: what it yields, in which order, and how it ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from quietmind.serve.archive import Question
from quietmind.think.answer import Answer, Found, Loading, Text

pytest.importorskip("fastapi", reason="serving takes FastAPI: pip install 'quietmind[serve]'")

ASKED = "How long does a single watering session last at most?"


async def collected(archive: Any, question: Question) -> list[Any]:
    async with aclosing(archive.ask(question)) as events:
        return [event async for event in events]


def test_a_question_is_answered_with_citations_that_hold(served: Any) -> None:
    events = asyncio.run(collected(served.archive, Question(ASKED)))
    assert isinstance(events[0], Loading)
    assert isinstance(events[1], Found)
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert answer.citations[0].verified
    assert answer.citations[0].supports
    assert "".join(event.text for event in events if isinstance(event, Text)) == answer.text
