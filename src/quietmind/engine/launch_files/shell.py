"""``--as shell``: a script for any POSIX shell."""

from __future__ import annotations

from quietmind.engine.launch_files.head import head
from quietmind.engine.launch_files.launch import Launch, serving
from quietmind.engine.launch_files.nodes import render_nodes
from quietmind.engine.launch_files.posix import command, environment, opening, requirements, settings

_ADDRESS = """\
printf 'http://127.0.0.1:%s/v1, key in %s\\n' "$PORT" "$key"
"""


def render_shell(launch: Launch) -> str:
    """Return the script. It becomes the engine (``exec``), so that its end is the engine's end."""
    if launch.nodes > 1:
        return render_nodes(launch)
    started = serving(launch)
    return (
        "#!/bin/sh\n"
        + head(launch, "Ctrl-C, or end the process; PORT=... and MODEL=... before the script change these")
        + f"\n{opening()}{settings(launch)}{requirements(started)}{environment(started)}"
        + f"\n{_ADDRESS}exec {command(started)}\n"
    )
