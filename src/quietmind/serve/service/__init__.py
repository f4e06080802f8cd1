"""Files with which a service manager keeps `quietmind up` running: a unit of systemd, an agent of launchd.

Each form is a pure function from one :class:`Service` to the file's text; none holds a key or a note.
"""

from collections.abc import Callable, Mapping

from quietmind.serve.service.launchd import render_launchd
from quietmind.serve.service.service import Form, Service, commands, place_of, usual_form
from quietmind.serve.service.systemd import render_systemd

RENDER: Mapping[Form, Callable[[Service], str]] = {"systemd": render_systemd, "launchd": render_launchd}

__all__ = ["RENDER", "Form", "Service", "commands", "place_of", "render_launchd", "render_systemd", "usual_form"]
