"""What docs/clients/ says is so: settings parse, addresses and options exist, every page is found from the index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import pytest

from quietmind.cli.main import cli
from quietmind.serve.entrance import PORT

if TYPE_CHECKING:
    from tests.serve.conftest import Here

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "clients"
PAGES = sorted(FOLDER.glob("*.md"))
# Where programs ask below the base that they are given.
BELOW = {"/v1": ("/v1/models", "/v1/chat/completions"), "": ("/api/tags", "/api/chat"), "/mcp": ("/mcp",)}

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+[\w/.-]*")
_CALL = re.compile(r"`(GET|POST|DELETE) (/[\w/]*)`")
_OPTION = re.compile(r"`(?:[^`\n]* )?(--[a-z][a-z-]+)")


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param.read_text(encoding="utf-8"))


def test_every_page_stands_in_the_index() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert named == {each.name for each in PAGES} - {"README.md"}


def test_settings_can_be_read(page: str) -> None:
    for kind, text in _BLOCK.findall(page):
        content = _read(kind, text)
        assert content
        for place in (each for each in _strings(content) if each.startswith("http")):
            assert _ADDRESS.fullmatch(place), place


def test_addresses_are_those_that_are_served(page: str, served: Here) -> None:
    for address in _ADDRESS.findall(page):
        parts = urlsplit(address)
        assert parts.port == PORT, address
        assert parts.path in BELOW, address
    bases = {urlsplit(address).path for address in _ADDRESS.findall(page)}
    calls = {path for base in bases for path in BELOW[base]} | {path for _, path in _CALL.findall(page)}
    for path in calls:
        assert _exists(served, path), path


def test_options_exist(page: str) -> None:
    up = cli.get_command(click.Context(cli), "up")
    assert up is not None
    known = {option for param in up.params for option in param.opts} | {"--network", "--help"}  # Docker's, everybody's
    assert set(_OPTION.findall(page)) <= known


def _read(kind: str, text: str) -> Any:
    if kind == "json":
        return json.loads(text)
    if kind == "yaml":
        yaml = pytest.importorskip("yaml", reason="no package for YAML (it comes with the extra `dev`)")
        return yaml.safe_load(text)
    assert kind == "env", f"a block of {kind!r}"
    return dict(line.split("=", 1) for line in text.splitlines())


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from _strings(each)


def _exists(here: Here, path: str) -> bool:
    from starlette.routing import Match

    scopes: list[Any] = [
        {"type": "http", "path": path, "method": method, "headers": []} for method in ("GET", "POST", "DELETE")
    ]
    routes = here.gateway._app.routes
    return any(route.matches(scope)[0] is Match.FULL for route in routes for scope in scopes)
