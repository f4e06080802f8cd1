"""SGLang behind the engine port: ``sglang.launch_server`` in a child of ours, on a port of its own loopback."""

from __future__ import annotations

from quietmind.engine.openai_engine import OpenAIEngine
from quietmind.engine.openai_server import MEETING_ON_LOOPBACK, Serving, Way, start_server

LOG_NAME = "sglang.log"

# Without these it could not be reached, or its key would be on the command line.
NEEDED = ("--host", "--port", "--config", "--served-model-name")

# Left out where the installed version does not know it: counts of cached tokens in each answer.
_WELCOME = ("--enable-cache-report",)


def start(serving: Serving, flags: frozenset[str] = frozenset()) -> OpenAIEngine:
    """Start SGLang with the words of ``serving.command``; ``flags`` are those that the version knows.

    It takes its key from a file (``--config``), since the command line is for all to read. Raises as ``start_server``
    does.
    """
    welcome = tuple(flag for flag in _WELCOME if flag in flags)
    way = Way(
        title="SGLang",
        words=lambda _socket, port, secret: (
            *("--host", "127.0.0.1", "--port", str(port), "--config", str(secret)),
            *("--served-model-name", serving.name, *welcome),
        ),
        # Else it looks for an address of another interface, and ends when there is none (srt/utils/network.py).
        environment=lambda _: {**MEETING_ON_LOOPBACK, "SGLANG_HOST_IP": "127.0.0.1"},
        secrets=lambda key: f'api-key: "{key}"\n',
        listens=False,
        health_seconds=5.0,  # an idle one generates a token to see that it can, and looks once a second
    )
    return start_server(way, serving)
