"""Files that start a planned engine without quietmind: a script, a program, a unit, a compose file, a preset.

Every form is a pure function from one :class:`Launch` to the file's text.
"""

from collections.abc import Callable, Mapping

from quietmind.engine.launch_files.compose import render_compose
from quietmind.engine.launch_files.launch import Launch
from quietmind.engine.launch_files.python import render_python
from quietmind.engine.launch_files.shell import render_shell
from quietmind.engine.launch_files.systemd import render_systemd
from quietmind.engine.launch_files.webui import render_webui

# What each form is called, and what writes it.
FORMS: Mapping[str, Callable[[Launch], str]] = {
    "shell": render_shell,
    "python": render_python,
    "systemd": render_systemd,
    "compose": render_compose,
    "webui": render_webui,
}

__all__ = ["FORMS", "Launch", "render_compose", "render_python", "render_shell", "render_systemd", "render_webui"]
