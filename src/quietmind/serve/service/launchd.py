"""``--as launchd``'s agent for `quietmind up`, for a person's own session on macOS (launchd.plist(5))."""

from __future__ import annotations

import plistlib

from quietmind.serve.service.service import LABEL, Service, comment_lines, log_of_launchd


def render_launchd(service: Service) -> str:
    """Return the agent: started at login, and again after a failure; what it starts ends with it."""
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(service.command),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 30,
        # Anything else is given less of the processor and of the disk than what a person waits for.
        "ProcessType": "Interactive",
        "Umask": 0o077,
        "HardResourceLimits": {"Core": 0},
        "StandardOutPath": str(log_of_launchd()),
        "StandardErrorPath": str(log_of_launchd()),
    }
    written = plistlib.dumps(agent, sort_keys=False).decode()
    said = "".join(f"    {_in_comment(line)}".rstrip() + "\n" for line in comment_lines(service, "launchd"))
    head, mark, rest = written.partition("<plist ")
    return f"{head}<!--\n{said}-->\n{mark}{rest}"


def _in_comment(line: str) -> str:
    """Return ``line`` as it may stand in a comment of XML, where two hyphens in a row may not (2.5)."""
    shown = "".join(c if c.isprintable() else "?" for c in line)
    while "--" in shown:
        shown = shown.replace("--", "- -")
    return shown
