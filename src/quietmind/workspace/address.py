"""A model that somebody else serves, in the place of one that is started here: ``http://127.0.0.1:11434#qwen3:30b``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quietmind.engine.endpoint import EndpointOptions, connect, key_from_environment, key_from_file
from quietmind.engine.port import Engine

KEY_VARIABLE = "QUIETMIND_ENDPOINT_KEY"


def is_address(model: str) -> bool:
    """Say whether what was given as a model is an address."""
    return model.casefold().startswith(("http://", "https://"))


def connect_to(
    address: str,
    *,
    context: int | None = None,
    allow_remote: Sequence[str] = (),
    key: Path | str | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Return the engine at ``address``; what stands behind ``#`` is the model's name there.

    ``key`` is the file that holds it, or the name of a variable; ``allow_remote`` names the hosts that notes may be
    sent to. ``warn`` is told, in a line each and first of all, that notes will leave this machine. Raises UsageError,
    EngineUnreachable, EngineRefused, EngineHung.
    """
    url, _, model = address.partition("#")
    given = "" if key is None else key_from_file(key) if isinstance(key, Path) else key_from_environment(key)
    options = EndpointOptions(url, model or None, context, given, tuple(allow_remote))
    return connect(options, warn)
