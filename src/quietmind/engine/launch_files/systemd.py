"""``--as systemd``: a unit for the person's own service manager (``systemctl --user``)."""

from __future__ import annotations

import re

from quietmind.engine.launch_files.head import head
from quietmind.engine.launch_files.launch import (
    Launch,
    Serving,
    Slot,
    Word,
    memory_limit,
    refuse_unwritable,
    require_whole_path,
    serving,
)
from quietmind.engine.launch_files.posix import MAKE_KEY

UNIT = "quietmind-engine.service"

# Filled in by the service manager: %h is the person's home folder (systemd.unit(5), "Specifiers").
_FOLDER = "%h/.local/state/quietmind"
_KEY = f'"{_FOLDER}/launch.key"'
_KEY_SHOWN = "~/.local/state/quietmind/launch.key"
_CONFIG = f'"{_FOLDER}/launch.yaml"'

_MAKE_CONFIG = """printf 'api-key: "%s"\\n' "$(cat "$key")" >"${key%/*}/launch.yaml\""""


def render_systemd(launch: Launch) -> str:
    """Return the unit: it starts again after a crash, three times in ten minutes at the most."""
    require_whole_path(launch)
    started = serving(launch)
    stop = f"systemctl --user stop {UNIT.removesuffix('.service')}"
    limit = memory_limit(launch)
    return (
        head(launch, stop)
        + f"# install:  save it as ~/.config/systemd/user/{UNIT}, then\n"
        + f"#           systemctl --user daemon-reload && systemctl --user start {UNIT.removesuffix('.service')}\n"
        + f"# key:      {_KEY_SHOWN}, whatever $XDG_STATE_HOME says; made at the first start\n"
        + f"# address:  http://127.0.0.1:{launch.port}/v1\n"
        + "\n[Unit]\n"
        + f"Description={_unit_text(launch.plan.model)}, served on 127.0.0.1:{launch.port}\n"
        + "StartLimitIntervalSec=600\n"
        + "StartLimitBurst=3\n"
        + "\n[Service]\n"
        + "Type=exec\n"
        + "UMask=0077\n"
        + "".join(f"Environment={systemd_word(f'{name}={value}')}\n" for name, value in started.environment.items())
        + f"ExecStartPre=/bin/sh -euc {systemd_command(_prepare(started))} sh {_KEY}\n"
        + f"ExecStart={_command(launch, started)}\n"
        + "Restart=on-failure\n"
        + "RestartSec=5\n"
        + "TimeoutStopSec=20\n"
        + "# A core file would keep on the disk what the model has read.\n"
        + "LimitCORE=0\n"
        + ("" if limit is None else f"# The host's part of the plan, and what it does not count.\nMemoryMax={limit}\n")
        + "NoNewPrivileges=yes\n"
        + "# Nothing but the loopback, where the system lets a person's own units say so (it takes BPF).\n"
        + "IPAddressDeny=any\n"
        + "IPAddressAllow=localhost\n"
        + "\n[Install]\n"
        + "WantedBy=default.target\n"
    )


def _prepare(started: Serving) -> str:
    config = f"; {_MAKE_CONFIG}" if Slot.KEY_CONFIG in started.words else ""
    return f'umask 077; key=$1; mkdir -p "${{key%/*}}"; {MAKE_KEY}{config}'


def _command(launch: Launch, started: Serving) -> str:
    slots = {
        Slot.MODEL: systemd_command(launch.model),
        Slot.HOST: "127.0.0.1",
        Slot.PORT: str(launch.port),
        Slot.KEY_FILE: _KEY,
        Slot.KEY_CONFIG: _CONFIG,
    }
    words: tuple[Word, ...] = (*started.program, *started.words)
    written = " ".join(slots[word] if isinstance(word, Slot) else _plain_or_quoted(word) for word in words)
    if started.key_variable is None:
        return written
    shell = f'{started.key_variable}=$(cat "$0"); export {started.key_variable}; exec "$@"'
    return f"/bin/sh -euc {systemd_command(shell)} {_KEY} {written}"


def _plain_or_quoted(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9/._,=:|-]+", word) and word[0] not in "-:" else systemd_command(word)


def systemd_word(word: str) -> str:
    """Return ``word`` as one quoted word of a unit file (systemd.syntax(7), "Quoting"), with no specifier in it.

    Of ``Environment=``; a command also needs its dollar signs doubled, see systemd_command.
    """
    refuse_unwritable(word)
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def systemd_command(word: str) -> str:
    """Return ``word`` as one quoted word of a command, in which nothing is expanded (systemd.service(5))."""
    return systemd_word(word).replace("$", "$$")


def _unit_text(text: str) -> str:
    """Return ``text`` as a value of one line without specifiers."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("%", "%%").rstrip("\\")
