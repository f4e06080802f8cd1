"""``--as webui``: settings of one model for text-generation-webui, whose llama.cpp loader then runs it as planned.

Keys: modules/loaders.py, modules/models_settings.py and modules/llama_cpp_server.py of text-generation-webui 4.7.3. It
matches a key of the file, read as a regular expression, against the name of the model's file, both in lower case.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from quietmind.base.errors import UsageError
from quietmind.engine.launch_files.compose import yaml_word
from quietmind.engine.launch_files.head import head
from quietmind.engine.launch_files.launch import OFFLOADING, Launch, Slot, Word, arguments, serving

VERSION = "4.7.3"

# llama-server's option: the loader's key. It gives these to the engine itself, so they may not stand twice.
_NUMBERS = {
    "-c": "ctx_size",
    "-b": "batch_size",
    "-ub": "ubatch_size",
    "-t": "threads",
    "-np": "parallel",
    "-ngl": "gpu_layers",
}
_TEXTS = {"-ts": "tensor_split", "-sm": "split_mode"}
_CACHE_TYPES = {"f16": "fp16", "q8_0": "q8_0", "q4_0": "q4_0"}  # it quietly takes fp16 for every other name
# The loader decides these: where the engine listens, the model's path, no web page, no fitting with layers given.
_ITS_OWN = frozenset({"-m", "--alias", "--host", "--port", "--no-webui", "--api-key-file", "-fit", "--no-slots"})


def render_webui(launch: Launch) -> str:
    """Return ``user_data/models/config-user.yaml``. Raises UsageError for engines that it has no such loader for."""
    if launch.engine not in OFFLOADING:
        raise UsageError(
            f"text-generation-webui has no loader for {launch.engine}; use --as shell, and give it the address"
        )
    keys = dict(_keys(serving(launch).words))
    return (
        head(launch, "stop text-generation-webui")
        + f"# form:     user_data/models/config-user.yaml of text-generation-webui {VERSION}; if that file exists,\n"
        + "#           add the lines below to it. Put the model's file, or a link to it, into user_data/models, and\n"
        + "#           start with --api for an address like this one's, 127.0.0.1:5000; its key is --api-key's\n\n"
        + f"{yaml_key(re.escape(launch.card.path.name) + '$')}:\n"
        + "  loader: llama.cpp\n"
        + "".join(f"  {name}: {value}\n" for name, value in keys.items())
    )


def yaml_key(text: str) -> str:
    """Return ``text`` as a double-quoted YAML scalar."""
    return yaml_word(text).replace("$$", "$")


def _keys(words: tuple[Word, ...]) -> Iterator[tuple[str, str]]:
    """Yield the loader's keys with their values in YAML, what it has no key for last, in ``extra_flags``."""
    options = {group[0]: group[1:] for group in arguments(words)}
    kv_type = _CACHE_TYPES.get(str(options["-ctk"][0]))
    taken = _ITS_OWN | ({"-ctk", "-ctv"} if kv_type else set())
    extra: list[str] = []
    for option, values in options.items():
        if isinstance(option, Slot) or option in taken:
            continue
        if option in _NUMBERS:
            yield _NUMBERS[option], str(values[0])
        elif option in _TEXTS:
            yield _TEXTS[option], yaml_key(str(values[0]))
        elif option == "--no-kv-offload":
            yield "no_kv_offload", "true"
        else:
            extra += [option, *(str(value) for value in values)]
    yield "cache_type", kv_type or "fp16"
    yield "extra_flags", yaml_key(shlex.join(extra))
