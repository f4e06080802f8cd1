"""What the documents say is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from quietmind.base.settings import load_settings
from quietmind.cli.main import _COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_its_section_with_an_example(name: str) -> None:
    assert f"\n### `quietmind {name}" in README
    assert f"    $ quietmind {name}" in README


def test_every_option_that_the_readme_names_exists() -> None:
    context = click.Context(cli)
    commands = [command for name in _COMMANDS if (command := cli.get_command(context, name))]
    commands += [inner for group in commands if isinstance(group, click.Group) for inner in group.commands.values()]
    known = {option for command in [cli, *commands] for param in command.params for option in param.opts}
    others = ("llama-server", "systemctl", "journalctl")  # their flags are their own
    ours = "\n".join(line for line in README.splitlines() if not any(other in line for other in others))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours))
    assert named <= known, named - known


def test_the_settings_of_the_readme_are_accepted(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "settings.toml"
    file.write_text(block, encoding="utf-8")
    settings = load_settings(file)
    assert all(hasattr(settings, key) for key in tomllib.loads(block))


def test_every_benchmark_that_the_documents_name_exists() -> None:
    for document in ROOT.glob("*.md"):
        for name in re.findall(r"benchmarks/(\w+\.py)", document.read_text(encoding="utf-8")):
            assert (ROOT / "benchmarks" / name).is_file(), (document.name, name)
