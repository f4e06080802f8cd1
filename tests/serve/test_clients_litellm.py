"""LiteLLM, by which many programs reach many models: through OpenAI's API and through Ollama's.

It is no dependency of the tests: it brings 260 MB with it, and asks a server of its makers for prices when it is
imported, unless the environment says otherwise. `pip install litellm` runs them.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serve.conftest import Here

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="LiteLLM is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of its own code and of pydantic's for it
]

HELLO = [{"role": "user", "content": "hello there"}]
QUESTION = [{"role": "user", "content": "How does the hub pair with a sensor?"}]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return pytest.importorskip("litellm")


def where(here: Here, provider: str) -> dict[str, Any]:
    base = f"{here.url}/v1" if provider == "openai" else here.url
    return {"api_base": base, "api_key": "unused", "num_retries": 0}


@pytest.mark.parametrize("provider", ["openai", "ollama_chat"])
def test_a_chat_is_answered_whole_and_in_a_stream(litellm: Any, served: Here, provider: str) -> None:
    asked = {"model": f"{provider}/fake-model", "messages": HELLO, **where(served, provider)}
    assert litellm.completion(**asked).choices[0].message.content == "You said: hello there"
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(pieces) == "You said: hello there"
    assert sum(map(bool, pieces)) > 1


@pytest.mark.parametrize("provider", ["openai", "ollama_chat"])
def test_the_archive_answers_with_its_sources(litellm: Any, served: Here, provider: str) -> None:
    answer = litellm.completion(model=f"{provider}/archive", messages=QUESTION, **where(served, provider))
    assert "Sources:" in answer.choices[0].message.content


def test_tools_come_back_as_calls(litellm: Any, served: Here) -> None:
    answer = litellm.completion(model="openai/fake-model", messages=HELLO, tools=[TOOL], **where(served, "openai"))
    assert answer.choices[0].message.tool_calls[0].function.name == "now"


def test_texts_are_embedded(litellm: Any, served: Here) -> None:
    answer = litellm.embedding(model="openai/fake-model", input=["a", "b"], **where(served, "openai"))
    assert [each["embedding"] for each in answer.data] == [[1.0, 0.0]] * 2


def test_an_unknown_model_is_the_error_that_programs_catch(litellm: Any, served: Here) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/no-such-model", messages=HELLO, **where(served, "openai"))
