"""The llama.cpp of the ``xllamacpp`` wheel as a server: ``python -m quietmind.engine.xllamacpp_server WORDS``.

It takes the words of ``llama-server`` that plans and launch files use, so that a launch file needs no other form where
there is no llama-server. It ends at the first signal: nothing else is started, and nothing is to be put away.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from quietmind.base.errors import QuietmindError, UsageError
from quietmind.engine.llamacpp_child import serve
from quietmind.engine.llamacpp_params import params_of

_OURS = ("--host", "--port", "--api-key-file", "--alias")


def main(words: Sequence[str]) -> int:
    """Serve until a signal ends this process. Return the exit code where it does not come so far."""
    rest, ours = without_address(words)
    try:
        params = params_of(rest)
        host, port, key_file, name = ours.values()
        if not (host and port.isdecimal() and key_file and name):
            raise UsageError(f"{', '.join(_OURS)}: each is needed, with its value")
        wanted = {
            "values": params.values,
            "environment": params.environment,
            "name": name,
            "key": Path(key_file).read_text(encoding="ascii").strip(),
            "socket": host,
            "port": int(port),
        }
        server = serve(json.loads(json.dumps(wanted)))  # as our own child gets them
    except (QuietmindError, ImportError, RuntimeError, OSError, KeyError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    while server:
        signal.pause()
    return 0


def without_address(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words without what our own process does, and these by their options, "" where not given."""
    rest, ours = list(words), dict.fromkeys(_OURS, "")
    for option in _OURS:
        if option in rest[:-1]:
            at = rest.index(option)
            _, ours[option] = rest.pop(at), rest.pop(at)
    return rest, ours


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # Python's own handlers would wait for the model to be loaded
    sys.exit(main(sys.argv[1:]))
