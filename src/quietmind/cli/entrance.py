"""Options that say where an address is, and who is let in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from quietmind.cli.options import AnyPath

_FILE = AnyPath(dir_okay=False)

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]

_PORT = click.option("--port", type=click.IntRange(0, 65535), help="Port to serve on (default: 4874; 0: any free one).")
_OPTIONS: tuple[_Option, ...] = (
    click.option("--host", default="127.0.0.1", help="Address to serve on (default: 127.0.0.1); others demand a key."),
    click.option("--key-file", type=_FILE, help="Demand the key in this file; made if it is not there."),
    click.option("--allow-host", "hosts", multiple=True, help="Another name of this address, a tunnel's say."),
    click.option("--allow-origin", "origins", multiple=True, help="Web page that may ask, as https://NAME."),
    click.option("--tls-cert", "certificate", type=_FILE, help="Certificate for --host, PEM."),
    click.option("--tls-key", "certificate_key", type=_FILE, help="Its private key, PEM (default: in the same file)."),
)
_NAMES = ("port", "host", "key_file", "hosts", "origins", "certificate", "certificate_key")


def entrance_options(port: _Option = _PORT) -> _Option:
    """Return what adds ``--host``, ``port`` and their like; the command gets all of it as ``entrance``."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_entrance(*args: Any, **given: Any) -> Any:
            from quietmind.serve.entrance import Entrance

            return command(*args, entrance=Entrance(**{name: given.pop(name) for name in _NAMES}), **given)

        added: Callable[..., Any] = with_entrance
        for option in reversed((port, *_OPTIONS)):
            added = option(added)
        return added

    return add
