"""The ``quietmind`` command."""

from __future__ import annotations

import click

import quietmind


@click.group()
@click.version_option(quietmind.__version__, prog_name="quietmind")
def cli() -> None:
    """Read a private archive with a local model and answer with checked citations."""


def run() -> None:
    """Run the command line."""
    cli()
