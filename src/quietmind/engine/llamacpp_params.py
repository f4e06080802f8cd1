"""The words of llama.cpp's command line as the parameters of ``xllamacpp``: exact, and total over what plans say.

The wheel has no parser of command lines, and of the parameters that plans use it lacks two: overrides of the model's
metadata (its source lists ``kv_overrides`` as not wrapped) and the list of devices. Devices are chosen by the variables
of their drivers instead.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from quietmind.base.errors import EngineTooOld, UsageError

# common/common.h of llama.cpp: LLM_FFN_EXPS_REGEX.
_EXPERTS_OF = r"blk\.({})\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"

_NO_SPLIT = 128  # llama_max_devices(), which is how long the wheel wants the list

# What has to know of a choice of devices, by the prefix that llama.cpp gives their names.
_DRIVERS = {"CUDA": "CUDA_VISIBLE_DEVICES", "ROCm": "HIP_VISIBLE_DEVICES", "Vulkan": "GGML_VK_VISIBLE_DEVICES"}


@dataclass
class Params:
    """``values`` are attributes of CommonParams by dotted name; a pair of strings names a member of an enumeration.

    ``environment`` is set before the library is loaded.
    """

    values: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def params_of(words: Sequence[str]) -> Params:
    """Return what the words ask for.

    Raises UsageError for a word that is not understood, EngineTooOld for one that the wheel cannot do.
    """
    params = Params()
    rest = list(words)
    while rest:
        flag = rest.pop(0)
        if flag in _SWITCHES:
            name, value = _SWITCHES[flag]
            params.values[name] = value
        elif flag in _TAKING:
            if not rest:
                raise UsageError(f"{flag} needs a value")
            _taken(flag, rest.pop(0), params)
        elif flag == "--override-kv":
            version = "that is installed"
            with suppress(importlib.metadata.PackageNotFoundError):
                version = importlib.metadata.version("xllamacpp")
            raise EngineTooOld(
                f"llama.cpp in our child (xllamacpp {version}) has no --override-kv, which other experts and contexts "
                "past the native one need: install llama-server and use --engine llama-server"
            )
        else:
            raise UsageError(f"{flag} is no word that llama.cpp in our child understands; use --engine llama-server")
    return params


def _taken(flag: str, value: str, params: Params) -> None:
    try:
        _TAKING[flag](params, value)
    except (ValueError, KeyError) as error:
        raise UsageError(f"{flag} {value}: no such value ({error})") from error


def _number(*names: str) -> Callable[[Params, str], None]:
    return lambda params, value: params.values.update(dict.fromkeys(names, int(value)))


def _text(name: str) -> Callable[[Params, str], None]:
    return lambda params, value: params.values.update({name: value})


def _member(name: str, members: Mapping[str, tuple[str, str]]) -> Callable[[Params, str], None]:
    return lambda params, value: params.values.update({name: members[value]})


def _kv_type(name: str) -> Callable[[Params, str], None]:
    return lambda params, value: params.values.update({name: ("ggml_type", "GGML_TYPE_" + value.upper())})


def _layers(params: Params, value: str) -> None:
    params.values["n_gpu_layers"] = {"auto": -1, "all": -2}[value] if value in ("auto", "all") else int(value)


def _split(params: Params, value: str) -> None:
    shares = [float(share) for share in value.split(",")]
    if len(shares) > _NO_SPLIT:
        raise ValueError(f"more than {_NO_SPLIT} devices")
    params.values["tensor_split"] = shares + [0.0] * (_NO_SPLIT - len(shares))


def _devices(params: Params, value: str) -> None:
    if value == "none":
        # Without this, large batches of what lies on the host would still be multiplied on an accelerator.
        params.values |= {"n_gpu_layers": 0, "no_op_offload": True}
        params.environment |= dict.fromkeys(_DRIVERS.values(), "")
        return
    for prefix, variable in _DRIVERS.items():
        numbers = [name.removeprefix(prefix) for name in value.split(",") if name.startswith(prefix)]
        if numbers:
            params.environment[variable] = ",".join(numbers)
    if not params.environment:
        raise ValueError(f"known are {', '.join(_DRIVERS)} with a number")


def _tensors(params: Params, value: str) -> None:
    before = params.values.get("tensor_buft_overrides")
    params.values["tensor_buft_overrides"] = f"{before},{value}" if before else value


def _host_experts(params: Params, value: str) -> None:
    if count := int(value):
        _tensors(params, _EXPERTS_OF.format("|".join(map(str, range(count)))))


def _scale(params: Params, value: str) -> None:
    params.values["rope_freq_scale"] = 1 / float(value)


def _switch(name: str, **also: bool) -> Callable[[Params, str], None]:
    choices = {"on": True, "off": False} | also
    return lambda params, value: params.values.update({name: choices[value]})


_FLASH = {
    word: ("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{member}")
    for word, member in (("on", "ENABLED"), ("off", "DISABLED"), ("auto", "AUTO"))
}
_ROPE = {
    word: ("llama_rope_scaling_type", f"LLAMA_ROPE_SCALING_TYPE_{word.upper()}") for word in ("none", "linear", "yarn")
}
_SPLIT_MODE = {word: ("llama_split_mode", f"LLAMA_SPLIT_MODE_{word.upper()}") for word in ("none", "layer", "row")}

_SWITCHES: Mapping[str, tuple[str, Any]] = {
    "--no-kv-offload": ("no_kv_offload", True),
    "--offline": ("offline", True),
    "--no-webui": ("ui", False),
    "--no-slots": ("endpoint_slots", False),
}
_TAKING: Mapping[str, Callable[[Params, str], None]] = {
    "-m": _text("model.path"),
    "-c": _number("n_ctx"),
    "-b": _number("n_batch"),
    "-ub": _number("n_ubatch"),
    "-ctk": _kv_type("cache_type_k"),
    "-ctv": _kv_type("cache_type_v"),
    "-fa": _member("flash_attn_type", _FLASH),
    "-t": _number("cpuparams.n_threads", "cpuparams_batch.n_threads"),
    "-np": _number("n_parallel"),
    "-ngl": _layers,
    "-dev": _devices,
    "-sm": _member("split_mode", _SPLIT_MODE),
    "-ts": _split,
    "-ot": _tensors,
    "--n-cpu-moe": _host_experts,
    "--rope-scaling": _member("rope_scaling_type", _ROPE),
    "--rope-scale": _scale,
    "--yarn-orig-ctx": _number("yarn_orig_ctx"),
    "--cache-ram": _number("cache_ram_mib"),
    "--ctx-checkpoints": _number("n_ctx_checkpoints"),
    "-fit": _switch("fit_params"),
    "--slot-save-path": _text("slot_save_path"),
    "--sse-ping-interval": _number("sse_ping_interval"),
}
UNDERSTOOD = frozenset({*_SWITCHES, *_TAKING})
