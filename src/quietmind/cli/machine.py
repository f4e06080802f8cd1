"""``quietmind machine``: this computer, one of the catalogue, or one that a file describes."""

from __future__ import annotations

import click

from quietmind.base.errors import UsageError
from quietmind.base.progress import terminal_progress
from quietmind.cli.options import debug_option, json_option
from quietmind.cli.output import print_json


@click.command()
@click.argument("machine", metavar="[NAME|FILE]", required=False)
@click.option("--measure", is_flag=True, help="Measure memory, disk and PCIe of this computer, and remember it.")
@click.option("--list", "as_list", is_flag=True, help="List the machines of the catalogue.")
@json_option
@debug_option
def machine(machine: str | None, measure: bool, as_list: bool, as_json: bool) -> None:
    """Say what this computer is made of, or the machine NAME of the catalogue, or the one that FILE describes.

    A file is TOML; docs/machines.md shows one.
    """
    if (machine is not None) + measure + as_list > 1:
        raise UsageError("a name, --measure and --list exclude each other; give one of them")
    from quietmind.machine.render import render, to_json

    if as_list:
        _print_catalogue(as_json)
        return
    if measure:
        _measure()
    if machine is None:
        from quietmind.machine.probe import probe

        found = probe()
    else:
        from quietmind.machine.load import load_machine

        found = load_machine(machine)
    if as_json:
        print_json(to_json(found))
    else:
        click.echo(render(found))


def _measure() -> None:
    from quietmind.machine.measure import measure
    from quietmind.machine.probe import hardware
    from quietmind.machine.remember import UNDISTURBED, remember

    here = hardware()
    with terminal_progress() as progress:
        measured = measure(here, progress)
    remember(here, measured)
    if measured.cpu_share is not None and measured.cpu_share < UNDISTURBED:
        click.echo(
            f"quietmind: other programs took {1 - measured.cpu_share:.0%} of the processor meanwhile, so memory and "
            "disk are faster than they seem; measure again when they are done",
            err=True,
        )


def _print_catalogue(as_json: bool) -> None:
    from quietmind.machine.load import catalogue_names, load_machine
    from quietmind.machine.render import to_json

    machines = {name: load_machine(name) for name in catalogue_names()}
    if as_json:
        print_json({name: to_json(machine) for name, machine in machines.items()})
        return
    width = max(map(len, machines))
    for name, described in machines.items():
        click.echo(f"{name:<{width}}  {described.name}")
