"""Options that several commands share, and the state behind them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from quietmind.base.errors import UsageError
from quietmind.base.paths import settings_file
from quietmind.base.settings import Settings, load_settings
from quietmind.base.units import parse_tokens


@dataclass
class State:
    """What one run of the command line carries around."""

    debug: bool = False

    @functools.cached_property
    def settings(self) -> Settings:
        """The person's settings, read when first needed."""
        return load_settings(settings_file())


pass_state = click.make_pass_decorator(State, ensure=True)


class Tokens(click.ParamType[int]):
    """A number of tokens: 4096, 32k, 1M."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read ``value``, or fail as click does."""
        if isinstance(value, int):
            return value
        try:
            return parse_tokens(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


TOKENS = Tokens()


class AnyPath(click.Path):
    """A path, there or not. Whether it may be read is for the command to say, in our words."""

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, file_okay=file_okay, dir_okay=dir_okay, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return ``value`` as a Path, or fail as click does; an empty one would quietly be the current folder."""
        if not str(value).strip():
            self.fail("an empty name is no path; write . for the current folder", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except ValueError as error:  # a NUL in the name
            self.fail(f"{value!r} is no path ({error})", param, ctx)


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(State).debug = True


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--debug``, which lets tracebacks through."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks of failures."
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json`` (as ``as_json``)."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(command)


def workspace_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--workspace``; the command gets ``workspace: Path``, from the settings when not given."""

    def settled(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
        return value or ctx.ensure_object(State).settings.workspace

    return click.option(
        "--workspace",
        type=AnyPath(file_okay=False),
        callback=settled,
        help="Folder that holds the index and logs (default: the user's data folder).",
    )(command)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--context``, ``--kv`` and ``--threads``; None where neither the command line nor the settings say."""

    def or_setting(ctx: click.Context, param: click.Parameter, value: object) -> object:
        return getattr(ctx.ensure_object(State).settings, str(param.name)) if value is None else value

    for option in (
        click.option(
            "--threads", type=click.IntRange(min=1), callback=or_setting, help="Processor threads (default: cores)."
        ),
        click.option("--kv", callback=or_setting, help="Type of the KV cache: f16, q8_0, q4_0, ... (default: f16)."),
        click.option(
            "--context", type=TOKENS, callback=or_setting, help="Context in tokens: 4096, 32k (default: planned)."
        ),
    ):
        command = option(command)
    return command
