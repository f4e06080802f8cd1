"""Asks the engine for its own account of a model, in bytes: weights, cache and compute buffer of a dry load.

llama.cpp (in xllamacpp) plans every buffer of a model without taking the memory (``no_alloc``) and keeps the sizes
for its fitting step. They are read through its C functions in a child process, because the engine aborts on what it
cannot load. Nothing is parsed out of a log and nothing is rounded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120  # a dry load takes one or two; a child that takes longer is ended

# The layouts are those of include/llama.h and src/llama-ext.h, autumn 2026 (xllamacpp 2026.10). The child compares a
# few defaults with what they must be, so that an engine with another layout is refused instead of misread.
CHILD = r"""
import ctypes as c, json, os, platform, sys, xllamacpp
from xllamacpp import xllamacpp as module

if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    raise SystemExit("its account is laid out as on Linux and x86-64, and is not read elsewhere")
path, context, batch, micro_batch, kind, flash, sequences = sys.argv[1], *map(int, sys.argv[2:8])
lib = c.CDLL(module.__file__)

class ModelParams(c.Structure):
    _fields_ = [("devices", c.c_void_p), ("overrides", c.c_void_p), ("gpu_layers", c.c_int32), ("split", c.c_int),
                ("load_mode", c.c_int), ("lazy_mode", c.c_int), ("main_gpu", c.c_int32), ("tensor_split", c.c_void_p),
                ("progress", c.c_void_p), ("progress_data", c.c_void_p), ("kv_overrides", c.c_void_p),
                ("vocab_only", c.c_bool), ("check_tensors", c.c_bool), ("use_extra_bufts", c.c_bool),
                ("no_host", c.c_bool), ("no_alloc", c.c_bool), ("load_mtp", c.c_bool), ("rest", c.c_char * 64)]

class ContextParams(c.Structure):
    _fields_ = [("n_ctx", c.c_uint32), ("n_batch", c.c_uint32), ("n_ubatch", c.c_uint32), ("n_seq_max", c.c_uint32),
                ("n_rs_seq", c.c_uint32), ("n_outputs_max", c.c_uint32), ("n_outputs_max_per_seq", c.c_uint32),
                ("threads", c.c_int32 * 2), ("kinds", c.c_int * 4), ("flash_attn", c.c_int), ("rope", c.c_float * 6),
                ("yarn_orig_ctx", c.c_uint32), ("defrag", c.c_float), ("callback", c.c_void_p * 2),
                ("type_k", c.c_int), ("type_v", c.c_int), ("abort", c.c_void_p * 3), ("embeddings", c.c_bool),
                ("offload_kqv", c.c_bool), ("no_perf", c.c_bool), ("op_offload", c.c_bool), ("swa_full", c.c_bool),
                ("kv_unified", c.c_bool), ("rest", c.c_char * 128)]

lib.llama_model_default_params.restype = ModelParams
lib.llama_context_default_params.restype = ContextParams
lib.llama_model_load_from_file.argtypes = [c.c_char_p, ModelParams]
lib.llama_model_load_from_file.restype = lib.llama_init_from_model.restype = c.c_void_p
lib.llama_init_from_model.argtypes = [c.c_void_p, ContextParams]
model_params, params = lib.llama_model_default_params(), lib.llama_context_default_params()
known = (params.n_ctx, params.n_batch, params.n_ubatch, params.flash_attn, params.type_k, params.type_v,
         params.embeddings, params.offload_kqv, params.swa_full, params.kv_unified)
defaults = (512, 2048, 512, -1, 1, 1, False, True, True, False)
if known != defaults or not model_params.use_extra_bufts or model_params.no_alloc:
    raise SystemExit(f"its parameters are laid out otherwise: {known}")
model_params.no_alloc = True
model_params.load_mode = 0  # no mapping: a dry load
model = lib.llama_model_load_from_file(path.encode(), model_params)
if not model:
    raise SystemExit("it does not load the model")
params.n_ctx, params.n_batch, params.n_ubatch = context * sequences, batch, micro_batch
params.n_seq_max = params.n_outputs_max = sequences
params.type_k = params.type_v = kind
params.flash_attn, params.swa_full = flash, False
handle = lib.llama_init_from_model(model, params)
if not handle:
    raise SystemExit("it does not make a context with these settings")

# std::map<buffer type, {model, context, compute}>: a red-black tree (libstdc++). A node is colour, parent, left,
# right, and the value; the head of the map holds the root at its parent.
breakdown = getattr(lib, "_Z26llama_get_memory_breakdownPK13llama_context")
breakdown.argtypes, breakdown.restype = [c.c_void_p, c.c_void_p], c.c_void_p
head = (c.c_uint64 * 8)()
breakdown(c.byref(head), handle)
totals, nodes = [0, 0, 0], [head[2]]
while nodes:
    node = nodes.pop()
    if node:
        words = (c.c_uint64 * 8).from_address(node)
        nodes += [words[2], words[3]]
        totals = [total + word for total, word in zip(totals, words[5:8])]
print(json.dumps({"weights": totals[0], "kv": totals[1], "compute": totals[2]}), flush=True)
os._exit(0)  # without its destructors: there is nothing to free
"""


@dataclass(frozen=True)
class Account:
    """Bytes by the engine. ``weights`` are what it places in memory, without blocks that it does not load.

    ``kv`` holds recurrent state too. ``refused``: why there are none.
    """

    weights: int = 0
    kv: int = 0
    compute: int = 0
    refused: str | None = None


def account(
    path: Path,
    context: int,
    micro_batch: int,
    kind: int,
    *,
    batch: int = 2048,
    flash_attention: bool = True,
    sequences: int = 1,
) -> Account:
    """Return what the engine would take for a context of ``context`` tokens with K and V of ggml type ``kind``.

    Each of ``sequences`` has a context of its own.
    """
    numbers = (context, max(batch, micro_batch), micro_batch, kind, int(flash_attention), sequences)
    command = [sys.executable, "-c", CHILD, str(path), *map(str, numbers)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=SECONDS,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Account(refused=f"no answer within {SECONDS} s")
    if done.returncode == 0 and done.stdout:
        found = json.loads(done.stdout.decode().splitlines()[-1])
        return Account(found["weights"], found["kv"], found["compute"])
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit {done.returncode}"]
    wanted = [line for line in lines if "error" in line.lower() or " E " in line]
    return Account(refused=" ".join((wanted or lines)[-1].split())[:160])
