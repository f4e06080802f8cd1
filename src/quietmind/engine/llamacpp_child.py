"""The process that llama.cpp runs in: ``python -m quietmind.engine.llamacpp_child``, kept by ``engine.keeper``.

It reads one JSON line on standard input: ``values`` and ``environment`` (see ``llamacpp_params``), the ``name`` of the
model, the ``key`` that requests must carry and the ``socket`` to listen on. What fails goes to its log, in the form of
llama.cpp's own errors; its exit status is then 1, or MISSING where the library is not installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

MISSING = 69  # EX_UNAVAILABLE of <sysexits.h>

_QUIET_S, _MOST_LOOKS = 0.25, 20  # at its log, before the process ends for what was raised


def serve(wanted: dict[str, Any]) -> Any:  # the extension's classes have no stubs
    """Load the model and return the listening server. Raises ImportError, RuntimeError, or ends the process."""
    os.environ.update(wanted["environment"])
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.n_ctx_checkpoints = 0  # no plan knows of its copies of windows and states, 32 a slot
    fill(xllamacpp, params, wanted["values"])
    params.model_alias = {wanted["name"]}
    params.hostnames = [wanted["socket"]]
    params.port = wanted.get("port", 0)
    params.api_keys = [wanted["key"]]
    params.offline = True
    params.ui = False
    params.endpoint_slots = False  # GET /slots would show prompts
    params.sse_ping_interval = -1  # silence must mean silence: see EngineHung
    return xllamacpp.Server(params)


def fill(library: Any, params: Any, values: dict[str, Any]) -> None:
    """Set ``values`` (of ``llamacpp_params.Params``, through JSON) in the extension's ``params``.

    Raises AttributeError for what this version does not have, TypeError or ValueError for what it does not take.
    """
    for name, value in values.items():
        owner = params
        *path, last = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        if isinstance(value, list) and value and isinstance(value[0], str):  # a member of an enumeration
            value = getattr(getattr(library, value[0]), value[1])  # noqa: PLW2901
        getattr(owner, last)  # an attribute that this version does not have must not be set in vain
        setattr(owner, last, value)


def main() -> None:
    """Serve until somebody ends us."""
    line = sys.stdin.readline()
    try:
        server = serve(json.loads(line))
    except ModuleNotFoundError as error:
        _fail(error, MISSING)
    except Exception as error:  # whatever the extension raises
        _let_the_log_be_written()
        _fail(error, 1)
    else:
        import signal

        while server:
            signal.pause()
    os._exit(0)


def _let_the_log_be_written() -> None:
    """Wait until nothing more comes: llama.cpp logs in a thread of its own, which is cut short where a process ends.

    What it says there is the cause; what it raises, that there is one.
    """
    before = -1
    for _ in range(_MOST_LOOKS):
        size = os.fstat(sys.stderr.fileno()).st_size
        if size == before:
            return
        before = size
        time.sleep(_QUIET_S)


def _fail(error: Exception, status: int) -> None:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    sys.stderr.write(f"0 E {said}\n")
    sys.stderr.flush()
    os._exit(status)  # the server's own destructor may wait for ever


if __name__ == "__main__":
    main()
