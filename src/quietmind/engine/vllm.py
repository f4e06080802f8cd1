"""vLLM behind the engine port: ``vllm serve`` in a child of ours, on a Unix socket."""

from __future__ import annotations

from quietmind.engine.openai_engine import OpenAIEngine
from quietmind.engine.openai_server import MEETING_ON_LOOPBACK, Serving, Way, start_server

LOG_NAME = "vllm.log"

# Without these it could not be reached, or not under its name.
NEEDED = ("--uds", "--served-model-name")

# Left out where the installed version does not know them; nothing that was planned hangs on them.
_WELCOME = ("--enable-prompt-tokens-details", "--disable-uvicorn-access-log")


def start(serving: Serving, flags: frozenset[str] = frozenset()) -> OpenAIEngine:
    """Start ``vllm serve`` with the words of ``serving.command``; ``flags`` are those that the version knows.

    Raises as ``start_server`` does.
    """
    welcome = tuple(flag for flag in _WELCOME if flag in flags)
    way = Way(
        title="vLLM",
        words=lambda socket, _port, _secret: ("--uds", str(socket), "--served-model-name", serving.name, *welcome),
        environment=lambda key: {**MEETING_ON_LOOPBACK, "VLLM_API_KEY": key},
    )
    return start_server(way, serving)
