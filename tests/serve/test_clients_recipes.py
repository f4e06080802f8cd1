"""The requests of the programs in docs/clients/, as those programs send them: bodies, headers, and their order.

Bodies and headers of those that are built on a published library were recorded from that library as its program sets
it up; of the others they are what their source says. Where each is from stands at its test.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

if TYPE_CHECKING:
    from tests.serve.conftest import Here

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
ENGINE = "fake-model"
QUESTION = {"role": "user", "content": "How does the hub pair with a sensor?"}
TOOL = {
    "type": "function",
    "function": {"name": "read_file", "description": "Reads.", "parameters": {"type": "object", "properties": {}}},
}
OBSIDIAN = {"Origin": "app://obsidian.md"}
# What the openai library for JavaScript adds to each request (6.49, in a page as in node).
STAINLESS = {
    "accept": "application/json",
    "x-stainless-retry-count": "0",
    "x-stainless-lang": "js",
    "x-stainless-package-version": "6.49.0",
    "x-stainless-os": "MacOS",
    "x-stainless-arch": "arm64",
    "x-stainless-runtime": "browser:chrome",
    "x-stainless-runtime-version": "134.0.0",
}


def get(here: Here, path: str, headers: dict[str, str] | None = None) -> Any:
    answer = httpx2.get(here.url + path, headers=headers, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(here: Here, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx2.Response:
    answer = httpx2.post(here.url + path, json=body, headers=headers, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer


def may_ask(here: Here, path: str, origin: str, headers: list[str]) -> dict[str, str]:
    """Ask as a browser does before it lets a page ask; return what it is told."""
    asking = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join(sorted(headers)),
    }
    answer = httpx2.request("OPTIONS", here.url + path, headers=asking, timeout=20, trust_env=False)
    assert answer.is_success, answer.text
    told = dict(answer.headers)
    assert told["access-control-allow-origin"] == origin
    assert "POST" in told["access-control-allow-methods"]
    assert set(headers) <= set(told["access-control-allow-headers"].replace(" ", "").split(","))
    return told


def chunks(answer: httpx2.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


def said(answer: httpx2.Response) -> str:
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks(answer) if each["choices"])


def until_finished(answer: httpx2.Response) -> str:
    """Return the text up to the first chunk that says why it ended, where some programs stop to read."""
    text = ""
    for chunk in chunks(answer):
        text += chunk["choices"][0]["delta"].get("content") or ""
        if chunk["choices"][0]["finish_reason"]:
            return text
    raise AssertionError("no chunk says why the answer ended")


def cites(text: str) -> bool:
    """Say whether an answer stands there with its sources as text."""
    return re.fullmatch(r".+\[1\]\s+Sources:\s+\[1\] \S+\.md:\d+-\d+  “.+", text, re.DOTALL) is not None


# Copilot 4.0.2. Testing and listing: src/modelManagement/providers/adapters/listOpenAICompatibleModels.ts, through
# Obsidian's requestUrl (no Origin). Chat: src/LLMProviders/chatModelManager.ts makes a ChatOpenAI of @langchain/openai
# (recorded from 1.5.8 with these options), whose fetch is the page's; without a key there is no Authorization.
def test_copilot_in_obsidian(served: Here) -> None:
    listed = get(served, MODELS, {"Content-Type": "application/json"})["data"]
    assert {"archive", "archive:deep", ENGINE} <= {model["id"] for model in listed}
    may_ask(served, CHAT, OBSIDIAN["Origin"], ["content-type", *(name for name in STAINLESS if name.startswith("x-"))])
    body = {"model": "archive", "temperature": 0.1, "stream": True, "messages": [QUESTION]}
    answer = post(served, CHAT, body, {**OBSIDIAN, **STAINLESS})
    assert answer.headers["access-control-allow-origin"] == OBSIDIAN["Origin"]
    assert cites(said(answer))


# The same with "Enable CORS": safeFetch of src/utils.ts, which is requestUrl again and waits for all of it.
def test_copilot_through_obsidians_own_requests(served: Here) -> None:
    body = {"model": "archive", "temperature": 0.1, "stream": True, "messages": [QUESTION]}
    assert cites(said(post(served, CHAT, body, {"Content-Type": "application/json"})))


# Smart Connections Pro's Ollama adapters: smart-chat-model/adapters/ollama.js and smart-embed-model/adapters/ollama.js
# of brianpetro/jsbrains at ba80525. The end of a stream is the line that holds "done_reason".
def test_smart_connections_pro_in_obsidian(served: Here) -> None:
    names = [model["name"] for model in get(served, "/api/tags")["models"]]
    assert "archive" in names
    for name in names:
        shown = post(served, "/api/show", {"model": name}).json()
        contexts = [value for key, value in shown["model_info"].items() if ".context_length" in key]
        assert all(isinstance(context, int) for context in contexts), "read as its largest input"
    may_ask(served, "/api/chat", OBSIDIAN["Origin"], ["content-type"])
    body = {"model": "archive", "messages": [QUESTION], "options": {"temperature": 0.3}, "stream": True}
    lines = post(served, "/api/chat", body, OBSIDIAN).text.splitlines()
    assert [number for number, line in enumerate(lines) if '"done_reason"' in line] == [len(lines) - 1]
    assert cites("".join(json.loads(line)["message"]["content"] for line in lines))


# Continue 1.3.40. Recorded from @continuedev/openai-adapters 1.37.0 (constructLlmApi with provider "openai"); the body
# of a chat is core/llm/openaiTypeConverters.ts::toChatBody, the request for a title core/util/chatDescriber.ts.
def test_continue_in_vs_code(served: Here) -> None:
    headers = {"authorization": "Bearer unused", "user-agent": "OpenAI/JS 5.23.2", **STAINLESS}
    assert ENGINE in [model["id"] for model in get(served, MODELS, headers)["data"]]
    body = {"messages": [QUESTION], "model": "archive", "max_tokens": 1024, "stream": True}
    assert cites(said(post(served, CHAT, {**body, "stream_options": {"include_usage": True}}, headers)))
    title = {**body, "max_tokens": 16, "messages": [{"role": "user", "content": f"A title for: {QUESTION['content']}"}]}
    assert chunks(post(served, CHAT, title, headers))
    agent = {**body, "model": ENGINE, "tools": [TOOL], "parallel_tool_calls": False}
    calls = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks(post(served, CHAT, agent, headers))]
    assert [call[0]["function"]["name"] for call in calls if call] == ["read_file"]


def test_tools_for_the_archive_are_refused_by_name(served: Here) -> None:
    body = {"model": "archive", "messages": [QUESTION], "tools": [TOOL], "stream": True}
    refused = httpx2.post(served.url + CHAT, json=body, timeout=20, trust_env=False)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("tools: ")


# AnythingLLM 1.16: server/utils/AiProviders/genericOpenAi/index.js, which reads up to the first finish_reason and takes
# llama.cpp's timings from that chunk; models: server/utils/helpers/customModels.js::getGenericOpenAiModels.
def test_anythingllm(served: Here) -> None:
    headers = {"authorization": "Bearer unused", "User-Agent": "AnythingLLM/1.16.0", **STAINLESS}
    listed = get(served, MODELS, headers)["data"]
    assert all(isinstance(model["owned_by"], str) for model in listed)
    system = {"role": "system", "content": "Given the following conversation, answer the question of the user."}
    body = {"model": "archive", "stream": True, "messages": [system, QUESTION], "temperature": 0.7, "max_tokens": 1024}
    answer = post(served, CHAT, body, headers)
    assert cites(until_finished(answer))
    (last,) = [chunk for chunk in chunks(answer) if chunk["choices"][0]["finish_reason"]]
    assert last["timings"].keys() >= {"predicted_n", "predicted_ms"}
    whole = {key: value for key, value in body.items() if key != "stream"}
    assert cites(post(served, CHAT, whole, headers).json()["choices"][0]["message"]["content"])


# Reor 0.2.31: src/lib/llm/client.ts makes a model of @ai-sdk/openai 0.0.53 (recorded, without a key) in a page that
# electron/main/common/windowManager.ts loads from a file.
def test_reor_asks_once_its_pages_are_let_in(served: Here, serve: Any, tmp_path: Any) -> None:
    from quietmind.serve.guard import APPS, Guard, origin_name

    body = {"model": "archive", "temperature": 0, "messages": [QUESTION], "stream": True}
    headers = {"Origin": "file://", "Authorization": "Bearer", "accept": "*/*"}
    assert httpx2.post(served.url + CHAT, json=body, headers=headers, trust_env=False).status_code == 403
    with serve(tmp_path, guard=Guard(origins=APPS | {origin_name("file://")}), index=False) as here:
        may_ask(here, CHAT, "file://", ["authorization", "content-type"])
        told = post(here, CHAT, {**body, "model": ENGINE}, headers)
        assert told.headers["access-control-allow-origin"] == "file://"
        assert said(told).startswith("You said: ")
    assert cites(said(post(served, CHAT, body, {"Authorization": "Bearer"})))


# Open WebUI 0.12.4: routers/openai.py (models within 10 s, chats as the page made them), utils/middleware.py for what
# it reads of a stream, retrieval/utils.py::agenerate_openai_batch_embeddings.
def test_open_webui(served: Here) -> None:
    headers = {"Authorization": "Bearer unused", "Content-Type": "application/json"}
    assert {"archive", ENGINE} <= {model["id"] for model in get(served, MODELS, headers)["data"]}
    body = {
        "stream": True,
        "model": "archive",
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION["content"]}]}],
        "stream_options": {"include_usage": True},
    }
    answer = post(served, CHAT, body, headers)
    assert cites(said(answer))
    assert chunks(answer)[-1]["usage"]["completion_tokens"] > 0
    vectors = post(served, "/v1/embeddings", {"input": ["a", "b"], "model": ENGINE}, headers).json()
    assert [len(each["embedding"]) for each in vectors["data"]] == [2, 2]


# Zed: crates/open_ai/src/open_ai.rs and completion.rs (014676e). Its key may be any; a chunk must have "choices", and
# its "usage", where there is one, all three numbers; an error is {"error": {"message": ...}}.
def test_zed(served: Here) -> None:
    headers = {"Authorization": "Bearer unused", "Content-Type": "application/json"}
    body = {
        "model": "archive",
        "messages": [{"role": "system", "content": "Be brief."}, QUESTION],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 1024,
        "temperature": 1.0,
    }
    answer = post(served, CHAT, body, headers)
    assert cites(said(answer))
    for chunk in chunks(answer):
        assert isinstance(chunk["choices"], list)
        usage = chunk.get("usage")
        assert usage is None or {"prompt_tokens", "completion_tokens", "total_tokens"} <= usage.keys()
    empty = httpx2.post(served.url + CHAT, json={**body, "messages": []}, headers=headers, trust_env=False)
    assert empty.status_code == 400
    assert isinstance(empty.json()["error"]["message"], str)


@pytest.mark.parametrize("origin", ["null", "https://example.com", "app://another"])
def test_pages_of_no_program_named_here_stay_out(served: Here, origin: str) -> None:
    answer = httpx2.post(served.url + CHAT, json={"model": ENGINE}, headers={"Origin": origin}, trust_env=False)
    assert answer.status_code == 403
