"""What a client of Ollama's API asks, in the words of OpenAI's: pure translation, which refuses what it cannot carry.

The shapes are those of Ollama's published description (docs.ollama.com/api, docs/openapi.yaml in its repository).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quietmind.base.errors import UsageError

Fields = Mapping[str, Any]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"

_ROLES = ("system", "user", "assistant", "tool")
_EFFORTS = ("low", "medium", "high", "max")

# Options that ask for one number, and what engines call them; OpenAI's own API has the first four.
_NUMBERS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "min_p": ("min_p",),
    "typical_p": ("typical_p",),
    "mirostat_tau": ("mirostat_tau",),
    "mirostat_eta": ("mirostat_eta",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp's name, and that of vLLM and SGLang
}
_LARGEST = 2**31 - 1  # engines keep most numbers in 32 bits
_LARGEST_SEED = 2**53  # and JSON carries whole numbers up to here


@dataclass(frozen=True)
class Translated:
    """A request to ``path`` of OpenAI's API. ``body`` None: nothing is asked, the model is only to be there.

    ``model`` is what the client called it. ``context`` is the context that it counts on, None for any.
    """

    path: str
    model: str
    body: dict[str, Any] | None
    streamed: bool = False
    context: int | None = None


def parsed(body: bytes) -> Fields:
    """Return the fields of a request. Raises UsageError for anything but a JSON object."""
    try:
        content = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise UsageError("the body is no JSON") from None
    if not isinstance(content, dict):
        raise UsageError("the body must be a JSON object")
    return content


def model_of(content: Fields) -> str:
    """Return the model that is named; old clients say ``name``. Raises UsageError where there is none."""
    model = _text(content, "model") or _text(content, "name")
    if not model:
        raise UsageError("name a model in `model`; GET /api/tags lists them")
    return model


def chat(content: Fields) -> Translated:
    """Translate a request to /api/chat. Raises UsageError."""
    model, options = model_of(content), _object(content, "options")
    messages = _messages(_list(content, "messages"))
    tools = _list(content, "tools")
    if not all(isinstance(tool, dict) and _text(_object(tool, "function"), "name") for tool in tools):
        raise UsageError("each of `tools` must be an object with a `function` that has a `name`")
    body = {
        "messages": messages,
        **({"tools": tools} if tools else {}),
        **_format(content.get("format")),
        **_think(content.get("think")),
        **_logprobs(content),
    }
    return _generation(CHAT, content, model, options, body if messages else None)


def generate(content: Fields) -> Translated:
    """Translate a request to /api/generate. Raises UsageError.

    A raw prompt goes to the model as it is, any other as what the person says, after ``system``.
    """
    model, options = model_of(content), _object(content, "options")
    prompt, raw = _text(content, "prompt"), _flag(content, "raw", default=False)
    _refuse_images(content)
    for key, instead in (
        ("suffix", "send the whole prompt of your model's format with `raw`"),
        ("template", "the model's own template is used; send `raw` for a prompt that needs none"),
        ("context", "send the earlier turns to /api/chat"),
    ):
        if content.get(key):
            raise UsageError(f"`{key}` is not understood here; {instead}")
    body: dict[str, Any]
    if raw:
        if any(content.get(key) for key in ("system", "format", "think", "logprobs")):
            raise UsageError("a `raw` prompt goes without `system`, `format`, `think` and `logprobs`")
        return _generation(COMPLETIONS, content, model, options, {"prompt": prompt} if prompt else None)
    system = _text(content, "system")
    messages = [{"role": "system", "content": system}] if system else []
    body = {
        "messages": [*messages, {"role": "user", "content": prompt}],
        **_format(content.get("format")),
        **_think(content.get("think")),
        **_logprobs(content),
    }
    return _generation(CHAT, content, model, options, body if prompt else None)


def embed(content: Fields) -> Translated:
    """Translate a request to /api/embed. Raises UsageError."""
    texts = content.get("input")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UsageError("`input` must be a text or a list of texts")
    dimensions = _whole(content, "dimensions", least=1)
    body = {"input": texts, **({} if dimensions is None else {"dimensions": dimensions})}
    return _embedding(content, body if texts else None)


def embeddings(content: Fields) -> Translated:
    """Translate a request to /api/embeddings, the older form, which takes one text. Raises UsageError."""
    prompt = _text(content, "prompt")
    return _embedding(content, {"input": [prompt]} if prompt else None)


def _embedding(content: Fields, body: dict[str, Any] | None) -> Translated:
    model, context = model_of(content), _context(_object(content, "options"))
    asked = None if body is None else {"model": model, **body, "encoding_format": "float"}
    return Translated(EMBEDDINGS, model, asked, context=context)


def _generation(path: str, content: Fields, model: str, options: Fields, body: dict[str, Any] | None) -> Translated:
    streamed = _flag(content, "stream", default=True)
    how = _sampling(options) | ({"stream": True, "stream_options": {"include_usage": True}} if streamed else {})
    asked = None if body is None else {"model": model, **body, **how}
    return Translated(path, model, asked, streamed, _context(options))


def _messages(given: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the turns of a conversation; calls of tools that go without an identity get one, as do their results."""
    messages: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # identity and name of each call that has no result yet
    for number, each in enumerate(given):
        if not isinstance(each, dict) or each.get("role") not in _ROLES:
            raise UsageError(f"messages[{number}] must be an object whose role is one of {', '.join(_ROLES)}")
        _refuse_images(each)
        message: dict[str, Any] = {"role": each["role"], "content": _text(each, "content")}
        if thinking := _text(each, "thinking"):
            message["reasoning_content"] = thinking
        if each["role"] == "tool":
            name = _text(each, "tool_name") or _text(each, "name")
            message |= {"tool_call_id": _answered(_text(each, "tool_call_id"), name, waiting) or f"call_of_{number}"}
            message |= {"name": name} if name else {}
        elif calls := _list(each, "tool_calls"):
            message["tool_calls"] = [_call(call, f"call_{number}_{index}") for index, call in enumerate(calls)]
            waiting += [(call["id"], call["function"]["name"]) for call in message["tool_calls"]]
        messages.append(message)
    return messages


def _call(call: Any, identity: str) -> dict[str, Any]:
    function = _object(call, "function") if isinstance(call, dict) else {}
    name = _text(function, "name")
    if not name:
        raise UsageError("each of `tool_calls` must be an object with a `function` that has a `name`")
    arguments = json.dumps(_object(function, "arguments"))
    return {
        "id": _text(call, "id") or identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _answered(identity: str, name: str, waiting: list[tuple[str, str]]) -> str:
    """Return whose result a tool's message is, and strike it off: by its identity, by its name, or in their order."""
    ways = (lambda call: call[0] == identity, lambda call: call[1] == name, lambda call: not name)
    for fits in ways:
        found = next((call for call in waiting if fits(call)), None)
        if found is not None:
            waiting.remove(found)
            return found[0]
    return identity


def _sampling(options: Fields) -> dict[str, Any]:
    """Return how to continue. Options of a model's start (``num_gpu``, ``num_thread``, ...) are the plan's business."""
    said: dict[str, Any] = {}
    for key, names in _NUMBERS.items():
        if (number := _number(options, key)) is not None:
            said |= dict.fromkeys(names, number)
    for key in ("seed", "top_k", "repeat_last_n", "mirostat"):
        largest = _LARGEST_SEED if key == "seed" else _LARGEST
        if (whole := _whole(options, key, least=-largest, largest=largest)) is not None:
            said[key] = whole
    most = _whole(options, "num_predict", least=-_LARGEST)
    if most == 0:
        raise UsageError("num_predict is 0; ask for at least one token, or for -1, which is as many as there is room")
    if most is not None and most > 0:
        said["max_tokens"] = most
    stop = options.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    if stop is not None:
        if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
            raise UsageError("`stop` must be a text or a list of texts")
        said |= {"stop": stop} if stop else {}
    return said


def _context(options: Fields) -> int | None:
    return _whole(options, "num_ctx", least=1)


def _format(wanted: Any) -> dict[str, Any]:
    if wanted is None or wanted == "":
        return {}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(wanted, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}}
    raise UsageError('`format` must be "json" or a JSON schema')


def _think(wanted: Any) -> dict[str, Any]:
    """Return how templates are told to think or not; one that cannot passes over it."""
    if wanted is None:
        return {}
    if isinstance(wanted, bool):
        return {"chat_template_kwargs": {"enable_thinking": wanted}}
    if wanted in _EFFORTS:
        return {
            "reasoning_effort": wanted,
            "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": wanted},
        }
    raise UsageError(f"`think` must be true, false or one of {', '.join(_EFFORTS)}")


def _logprobs(content: Fields) -> dict[str, Any]:
    top = _whole(content, "top_logprobs", least=0)
    if not _flag(content, "logprobs", default=False):
        return {}
    return {"logprobs": True, **({} if top is None else {"top_logprobs": top})}


def _refuse_images(content: Fields) -> None:
    if content.get("images"):
        raise UsageError("images are not understood here; send text")


def _text(content: Fields, key: str) -> str:
    value = content.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"`{key}` must be a text")
    return value


def _flag(content: Fields, key: str, *, default: bool) -> bool:
    value = content.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UsageError(f"`{key}` must be true or false")
    return value


def _list(content: Fields, key: str) -> list[Any]:
    value = content.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise UsageError(f"`{key}` must be a list")
    return value


def _object(content: Fields, key: str) -> Fields:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"`{key}` must be an object")
    return value


def _number(content: Fields, key: str, largest: int = _LARGEST) -> int | float | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        raise UsageError(f"`{key}` must be a number, {largest:,} at most")
    return value


def _whole(content: Fields, key: str, *, least: int, largest: int = _LARGEST) -> int | None:
    value = _number(content, key, largest)
    if value is None:
        return None
    if math.floor(value) != value or value < least:
        raise UsageError(f"`{key}` must be a whole number, {least:,} or more")
    return int(value)  # a client may write 40.0


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError("JSON knows no such number")
    return value
