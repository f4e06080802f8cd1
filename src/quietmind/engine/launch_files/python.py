"""``--as python``: a program that starts the engine, waits until it answers, and ends it with itself."""

from __future__ import annotations

import inspect
import pprint

from quietmind.engine.launch_files import launched
from quietmind.engine.launch_files.head import head
from quietmind.engine.launch_files.launch import Launch, Serving, Slot, Word, serving

_BEGIN, _END = "# --- What is started ---\n", "# --- How it is started ---\n"


def render_python(launch: Launch) -> str:
    """Return the program: the source of ``launched.py`` with this run's settings in the place of its own.

    It takes nothing but Python 3.9 and the engine itself.
    """
    source = inspect.getsource(launched)
    before, rest = source.split(_BEGIN)
    after = rest.split(_END)[1]
    imports = before.partition("from __future__")[2]
    return (
        "#!/usr/bin/env python3\n"
        + head(launch, "Ctrl-C, or SIGTERM: the engine is ended with it")
        + "\nfrom __future__"
        + imports
        + _BEGIN
        + _settings(launch, serving(launch))
        + _END
        + after
    )


def _settings(launch: Launch, started: Serving) -> str:
    key_config = Slot.KEY_CONFIG in started.words
    return (
        f"MODEL = {launch.model!r}\n"
        + f"PORT = {launch.port}\n"
        + f"PROGRAM = {_pretty(list(started.program))}\n"
        + "# {model}, {host}, {port}, {key_file} and {key_config} are filled in; braces of other words are doubled.\n"
        + f"WORDS = {_pretty([_word(word) for word in started.words])}\n"
        + f"ENVIRONMENT = {_pretty(dict(started.environment))}\n"
        + f"KEY_VARIABLE = {started.key_variable!r}  # how the engine is told the key, where no file can\n"
        + f"KEY_CONFIG = {key_config}  # whether it reads the key as a setting of a YAML file\n\n"
    )


def _word(word: Word) -> str:
    return f"{{{word.name.lower()}}}" if isinstance(word, Slot) else word.replace("{", "{{").replace("}", "}}")


def _pretty(value: object) -> str:
    return pprint.pformat(value, width=110, compact=True, sort_dicts=False)
