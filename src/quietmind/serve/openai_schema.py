"""What OpenAI's API takes here, for the OpenAPI description: the bodies are read by us, and passed on untouched."""

from __future__ import annotations

from typing import Any

from quietmind.serve.relay import CHAT, COMPLETIONS, COUNTING, EMBEDDINGS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_MODEL: Schema = {"type": "string", "description": "A model that runs, archive, archive:deep or archive:NOTEBOOK."}
_PART: Schema = {
    "type": "object",
    "properties": {"type": {"enum": ["text"]}, "text": _TEXT},
    "required": ["type", "text"],
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"oneOf": [_TEXT, {"type": "array", "items": _PART}]},
    },
    "required": ["role", "content"],
}
_ASKED: Schema = {
    "model": _MODEL,
    "stream": {"type": "boolean", "default": False},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "max_tokens": _TOKENS,
}
_PROPERTIES: dict[str, Schema] = {
    CHAT: {
        **_ASKED,
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "max_completion_tokens": _TOKENS,
        "tools": {"type": "array", "items": {"type": "object"}, "description": "For models that run, not the archive."},
        "response_format": {"type": "object", "description": "For models that run, not the archive."},
    },
    COMPLETIONS: {**_ASKED, "prompt": _TEXT},
    EMBEDDINGS: {
        "model": {"type": "string", "description": "A model that runs and embeds, or the embedder of the archive."},
        "input": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]},
        "encoding_format": {"enum": ["float", "base64"]},
        "input_type": {"enum": ["passage", "query"], "description": "For the embedder of the archive."},
    },
    **{path: {"model": _MODEL} for path in COUNTING},
}
_REQUIRED = {CHAT: ["model", "messages"], COMPLETIONS: ["model", "prompt"], EMBEDDINGS: ["model", "input"]}
_SAYS = {
    CHAT: "The next turn of a conversation: by a model that runs, or by the archive with its sources.",
    COMPLETIONS: "What goes on from a text; of the archive, the answer to a question.",
    EMBEDDINGS: "The vectors of texts.",
    **dict.fromkeys(COUNTING, "As the engine of the model has it."),
}

# How every error looks, whatever its status.
ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": "null"},
                "code": {"type": ["string", "null"]},
                "needed": {"type": "integer", "description": "Of a question that does not fit: its tokens."},
                "context": {"type": "integer", "description": "Of a question that does not fit: those that would."},
            },
            "required": ["message", "type", "code"],
        }
    },
    "required": ["error"],
}


def described(path: str) -> dict[str, Any]:
    """Return what the description says of the route at ``path``."""
    streams = path in (CHAT, COMPLETIONS)
    events = {"text/event-stream": {"schema": _TEXT}} if streams else {}
    body = {"type": "object", "properties": _PROPERTIES[path], "required": _REQUIRED.get(path, [])}
    return {
        "summary": _SAYS[path],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "The answer, whole or as events.",
                "content": {"application/json": {"schema": {"type": "object"}}, **events},
            }
        },
    }
