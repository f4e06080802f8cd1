"""What Ollama's API takes and gives here, for the OpenAPI description: the bodies are read by us, not by FastAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_MODEL: Schema = {"type": "string", "minLength": 1}
_NAME: Schema = {"type": "string", "minLength": 1}
_TEXT: Schema = {"type": ["string", "null"]}
_FLAG: Schema = {"type": ["boolean", "null"]}
_OBJECT: Schema = {"type": "object"}
_LARGEST = 2**31 - 1


def _number(kind: str = "number", least: int = -_LARGEST) -> Schema:
    return {"type": [kind, "null"], "minimum": least, "maximum": _LARGEST}


def _list(each: Schema) -> Schema:
    return {"type": ["array", "null"], "items": each}


_OPTIONS: Schema = {
    "type": ["object", "null"],
    "description": "How to continue; options of a model's start, such as num_gpu, are passed over.",
    "properties": {
        **dict.fromkeys(("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"), _number()),
        **dict.fromkeys(("seed", "top_k"), _number("integer")),
        "num_predict": {**_number("integer"), "not": {"const": 0}, "description": "-1: as many as there is room for"},
        "num_ctx": {**_number("integer", 1), "description": "refused where the model runs with a smaller context"},
        "stop": {"oneOf": [_TEXT, {"type": "array", "items": {"type": "string"}}]},
    },
}
_CALL: Schema = {
    "type": "object",
    "properties": {
        "function": {
            "type": "object",
            "properties": {"name": _NAME, "arguments": {"type": ["object", "null"]}},
            "required": ["name"],
        }
    },
    "required": ["function"],
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "user", "assistant", "tool"]},
        **dict.fromkeys(("content", "thinking", "tool_name", "tool_call_id"), _TEXT),
        "tool_calls": _list(_CALL),
    },
    "required": ["role"],
}
_TOOL: Schema = {
    "type": "object",
    "properties": {"function": {"type": "object", "properties": {"name": _NAME}, "required": ["name"]}},
    "required": ["function"],
}
_ASKED: Schema = {
    "model": _MODEL,
    "options": _OPTIONS,
    "format": {"oneOf": [{"type": "null"}, {"enum": ["", "json"]}, _OBJECT], "description": "a JSON schema, or json"},
    "think": {"oneOf": [_FLAG, {"enum": ["low", "medium", "high", "max"]}]},
    "stream": {**_FLAG, "default": True},
    "logprobs": _FLAG,
    "top_logprobs": _number("integer", 0),
    "keep_alive": {"description": "passed over: models stay"},
}


def _taking(fields: Mapping[str, Schema], required: tuple[str, ...], gives: Schema, *, lines: bool = False) -> Schema:
    """Return the description of a path that takes ``fields`` as JSON; ``lines``: it may answer line by line."""
    schema = {"type": "object", "properties": fields, "required": list(required)}
    kinds = ("application/json", *(("application/x-ndjson",) if lines else ()))
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        **_giving(gives, kinds),
    }


def _giving(gives: Schema, kinds: tuple[str, ...] = ("application/json",)) -> Schema:
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    refused = {"description": "an error", "content": {"application/json": {"schema": error}}}
    return {
        "responses": {
            "200": {"description": "the answer", "content": {kind: {"schema": gives} for kind in kinds}},
            # By their ranges: under "default" this shape would be mixed with that of all other paths.
            **dict.fromkeys(("4XX", "5XX"), refused),
        }
    }


def _having(*fields: str) -> Schema:
    return {"type": "object", "required": list(fields)}


DESCRIBED: Mapping[str, Schema] = {
    "/api/chat": _taking(
        {**_ASKED, "messages": _list(_MESSAGE), "tools": _list(_TOOL)}, ("model",), _having("model", "done"), lines=True
    ),
    "/api/generate": _taking(
        {**_ASKED, "prompt": _TEXT, "system": _TEXT, "raw": _FLAG}, ("model",), _having("model", "done"), lines=True
    ),
    "/api/embed": _taking(
        {
            "model": _MODEL,
            "input": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "dimensions": _number("integer", 1),
        },
        ("model", "input"),
        _having("model", "embeddings"),
    ),
    "/api/embeddings": _taking({"model": _MODEL, "prompt": _TEXT}, ("model",), _having("embedding")),
    "/api/show": _taking({"model": _MODEL}, ("model",), _having("details", "model_info", "capabilities")),
    "/api/tags": _giving(_having("models")),
    "/api/ps": _giving(_having("models")),
    "/api/version": _giving(_having("version")),
}
