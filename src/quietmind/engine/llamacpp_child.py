"""The process that llama.cpp runs in: ``python -m quietmind.engine.llamacpp_child REPORT_FD``.

It reads one JSON line on standard input (the options and the API key), loads the model, writes one JSON line to the
file descriptor REPORT_FD (``{"address": ...}``, or ``{"missing": ...}``, or ``{"failed": ...}``), and then serves until
its parent is gone. Standard input stays open in the parent alone, and its end is this process's end.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import sys
from typing import Any

_LIFELINE = 0  # standard input


def live_no_longer_than(lifeline: int) -> None:
    """Have the kernel end this process as soon as the last write end of the pipe ``lifeline`` is closed.

    A thread could not watch over the loading of a model, which holds the interpreter's lock throughout, and
    PR_SET_PDEATHSIG fires when the parent's *thread* ends. A signal-driven pipe has neither flaw: closing the write
    end raises the signal set by F_SETSIG (fcntl(2)), and SIGKILL also ends a stopped process. macOS has no F_SETSIG
    and sends SIGIO, which ends a process that does not catch it.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    at_end = select.poll()
    at_end.register(lifeline, select.POLLIN)
    if at_end.poll(0):  # the parent ended before the signal was armed
        os._exit(1)


def read_line(descriptor: int) -> bytes:
    """Read up to and without the next newline, and not a byte more; what there is, if the input ends before."""
    line = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def serve(options: dict[str, Any]) -> Any:  # the extension's classes have no stubs
    """Load the model and return the listening server. Raises ImportError, RuntimeError, or ends the process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options["model_path"]
    params.model_alias = {options["model_name"]}
    params.n_ctx = options["context"]
    params.n_batch = options["batch"]
    params.n_ubatch = options["micro_batch"]
    kv_type = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + options["kv_type"].upper())
    params.cache_type_k = params.cache_type_v = kv_type
    flash = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[options["flash_attention"]]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_" + flash)
    if options["threads"] is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]

    params.hostnames = ["127.0.0.1"]
    params.port = 0  # a free one
    params.api_keys = [options["key"]]
    params.offline = True
    params.ui = False
    params.endpoint_slots = False  # GET /slots would show prompts
    params.n_parallel = 1
    params.fit_params = False  # the plan has decided; the engine must not shrink the context behind its back
    params.cache_ram_mib = 0  # its own default keeps 8 GiB of old prompts in host memory
    params.n_ctx_checkpoints = 0  # nor does the plan know of its copies of windows and states, 32 a slot
    params.sse_ping_interval = -1  # silence must mean silence: see EngineHung
    return xllamacpp.Server(params)


def main(report: int) -> None:
    """Serve until the parent is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would leave the notes' text on disk
    line = read_line(_LIFELINE)
    live_no_longer_than(_LIFELINE)
    options = json.loads(line)
    try:
        server = serve(options)
        answer = {"address": server.listening_address}
    except ModuleNotFoundError as error:
        answer = {"missing": str(error)}
    except Exception as error:  # whatever the extension raises goes to the parent, who words it
        answer = {"failed": f"{type(error).__name__}: {error}"}
    os.write(report, json.dumps(answer).encode() + b"\n")
    os.close(report)
    if "address" in answer:
        os.read(_LIFELINE, 1)  # returns at the end of the parent, where no signal came first
    os._exit(0)  # the server's own destructor may wait for a generation to finish


if __name__ == "__main__":
    main(int(sys.argv[1]))
