"""What a service manager is to keep running, where its file goes, and with which commands it is used."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quietmind.base.paths import expanded

Form = Literal["systemd", "launchd"]

UNIT = "quietmind.service"
LABEL = "quietmind.up"

# What says where models, settings and programs are; whatever else is set, keys among it, stays out of the file.
KEPT = (
    "PATH",
    "QUIETMIND_LLAMA_SERVER",
    "QUIETMIND_MODELS",
    "QUIETMIND_SETTINGS",
    "QUIETMIND_MEASURED",
    "HF_HOME",
    "HF_HUB_CACHE",
    "OLLAMA_MODELS",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
)


@dataclass(frozen=True)
class Service:
    """`quietmind up` as a service. ``command`` is whole, program first.

    ``writable`` are the folders that it writes to, of which some may not be there yet; ``shared`` says that others than
    this machine ask there. ``written`` is the command that wrote the file.
    """

    models: tuple[str, ...]
    command: tuple[str, ...]
    workspace: Path
    environment: Mapping[str, str]
    writable: tuple[Path, ...]
    shared: bool
    written: str


def up_command(models: tuple[str, ...], options: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that runs ``models``, whatever folder and PATH it is started with."""
    return (sys.executable, "-P", "-m", "quietmind", "up", *options, "--", *models)


def usual_form() -> Form:
    """Return the form for the service manager of this system."""
    return "launchd" if sys.platform == "darwin" else "systemd"


def place_of(form: Form) -> Path:
    """Return where the person's own service manager looks for the file. Raises UsageError without a home folder."""
    if form == "launchd":
        return expanded("~/Library/LaunchAgents") / f"{LABEL}.plist"
    # systemd takes the variable for what it is in its own environment, which is the person's as a rule.
    return expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "systemd" / "user" / UNIT


def commands(form: Form) -> Mapping[str, str]:
    """Return the commands that a person uses it with: to enable, start, stop, show it, and to read what it says."""
    if form == "launchd":
        place, target = shlex.quote(str(place_of(form))), f"gui/$(id -u)/{LABEL}"
        return {
            "enable": f"launchctl bootstrap gui/$(id -u) {place}",
            "start": f"launchctl kickstart {target}",
            "stop": f"launchctl bootout {target}",
            "show": f"launchctl print {target}",
            "read": f"tail -f {shlex.quote(str(log_of_launchd()))}",
        }
    name = UNIT.removesuffix(".service")
    return {
        "enable": f"systemctl --user daemon-reload && systemctl --user enable {name}",
        "start": f"systemctl --user start {name}",
        "stop": f"systemctl --user stop {name}",
        "show": f"systemctl --user status {name}",
        "read": f"journalctl --user -u {name}",
        "without login": "loginctl enable-linger",
    }


def log_of_launchd() -> Path:
    """Return the file that launchd writes the service's output to."""
    return expanded("~/Library/Logs") / "quietmind.log"


def comment_lines(service: Service, form: Form) -> list[str]:
    """Return what stands at the head of the file, in lines without a mark of comments."""
    return [
        "Keeps `quietmind up` running. Written by quietmind: write it again rather than edit it.",
        "",
        f"models:   {', '.join(service.models)}",
        f"notes:    {service.workspace}",
        f"place:    {place_of(form)}",
        *(f"{name + ':':<9} {command}" for name, command in commands(form).items()),
        f"written:  {service.written}",
    ]
