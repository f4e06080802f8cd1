"""Pieces of shell scripts: how a script begins, makes its key, and names its command. POSIX, so that any shell does."""

from __future__ import annotations

import shlex
import textwrap

from quietmind.engine.launch_files.launch import Launch, Serving, Slot, Word, arguments

_SLOTS = {
    Slot.MODEL: '"$MODEL"',
    Slot.HOST: "127.0.0.1",
    Slot.PORT: '"$PORT"',
    Slot.KEY_FILE: '"$key"',
    Slot.KEY_CONFIG: '"$folder/launch.yaml"',
}

# Makes the file $key once, readable by its owner alone; the move lets it appear whole or not at all.
MAKE_KEY = """[ -s "$key" ] || { od -An -v -tx1 -N32 /dev/urandom | tr -d ' \\n' >"$key.$$" && mv "$key.$$" "$key"; }"""

_OPENING = f"""\
set -eu
umask 077
# shellcheck disable=SC3045 # POSIX or not, every sh has it
ulimit -c 0 # a core file would keep on the disk what the model has read

fail() {{
    printf '%s: %s\\n' "$0" "$1" >&2
    exit 1
}}

folder=${{XDG_STATE_HOME:-"$HOME/.local/state"}}/quietmind
key=$folder/launch.key
mkdir -p "$folder"
{MAKE_KEY}
case $(ls -ldL "$key") in
-r[w-]-------*) ;;
*) fail "$key: others may read this key; make it yours alone with chmod 600" ;;
esac
"""


def opening() -> str:
    """Return the lines that every script begins with: strictness, ``fail``, and the key."""
    return _OPENING


def settings(launch: Launch) -> str:
    """Return the lines that set what whoever runs the script may set otherwise."""
    return f"""PORT=${{PORT:-{launch.port}}}\n[ -n "${{MODEL:-}}" ] || MODEL={shlex.quote(launch.model)}\n"""


def requirements(started: Serving) -> str:
    """Return the lines that refuse to start without the model or the engine, in one line each."""
    program = started.program[0]
    missing = shlex.quote(f"{program}: there is no such program here; install the engine")
    return (
        '[ -e "$MODEL" ] || fail "$MODEL: there is no such model here; set MODEL to its path"\n'
        f"command -v {shlex.quote(program)} >/dev/null || fail {missing}\n"
    )


def environment(started: Serving) -> str:
    """Return the lines that switch hubs and telemetry off, and hand over the key where no file can."""
    switches = " ".join(f"{name}={shlex.quote(value)}" for name, value in started.environment.items())
    lines = [" \\\n    ".join(textwrap.wrap(f"export {switches}", 110, break_long_words=False)) + "\n"]
    if started.key_variable:
        lines += [f'{started.key_variable}=$(cat "$key")\n', f"export {started.key_variable}\n"]
    if Slot.KEY_CONFIG in started.words:
        lines.append('printf \'api-key: "%s"\\n\' "$(cat "$key")" >"$folder/launch.yaml"\n')
    return "".join(lines)


def command(started: Serving) -> str:
    """Return the command, an option a line."""
    groups = (started.program, *arguments(started.words))
    return " \\\n    ".join(" ".join(_word(word) for word in group) for group in groups)


def _word(word: Word) -> str:
    return _SLOTS[word] if isinstance(word, Slot) else shlex.quote(word)
