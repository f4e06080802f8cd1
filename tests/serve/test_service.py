"""Files for service managers: what systemd and launchd read back is what was asked for, and it is confined."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quietmind.serve.service import RENDER, Service, commands, place_of, render_launchd, render_systemd

HARD = "/модели/a b'c\"d$HOME`id`%h\\{x};#&|*~(é)--/m 1\\"
SERVICE = Service(
    models=("tiny",),
    command=("/opt/python", "-P", "-m", "quietmind", "up", "--workspace", "/home/me/notes", "--", "tiny"),
    workspace=Path("/home/me/notes"),
    environment={"PATH": "/usr/bin:/bin"},
    writable=(Path("/home/me/notes"),),
    shared=False,
    written="quietmind launch tiny --as service",
)
paths = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"), min_size=1
)


def setting(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


@pytest.mark.parametrize("form", RENDER)
def test_the_head_says_how_it_is_enabled_started_stopped_and_shown(
    form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    known = {each: render for each, render in RENDER.items() if each == form}
    for each, render in known.items():
        text = render(SERVICE)
        assert str(place_of(each)) in text
        for name in ("enable", "start", "stop", "show", "read"):
            assert commands(each)[name] in text


def test_a_unit_is_told_when_it_is_ready_and_comes_back_after_a_failure_alone() -> None:
    unit = render_systemd(SERVICE)
    assert setting(unit, "Type") == ["notify"]
    assert setting(unit, "TimeoutStartSec") == ["infinity"]
    assert setting(unit, "Restart") == ["on-failure"]
    assert setting(unit, "KillMode") == ["mixed"]
    assert setting(unit, "OOMPolicy") == ["continue"]


def test_a_unit_may_write_to_its_own_folders_alone() -> None:
    unit = render_systemd(SERVICE)
    assert setting(unit, "ProtectSystem") == ["strict"]
    assert setting(unit, "ReadWritePaths") == ['"-/home/me/notes" -%h/.cache -%h/.nv -%h/.triton -%t']
    for name in ("NoNewPrivileges", "PrivateTmp", "RestrictSUIDSGID", "LockPersonality", "RestrictRealtime"):
        assert setting(unit, name) == ["yes"]
    assert setting(unit, "UMask") == ["0077"]
    assert setting(unit, "RestrictAddressFamilies") == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]


def test_only_what_others_may_reach_is_let_off_the_loopback() -> None:
    assert setting(render_systemd(SERVICE), "IPAddressDeny") == ["any"]
    assert setting(render_systemd(replace(SERVICE, shared=True)), "IPAddressDeny") == []


@given(paths)
@example(HARD)
@settings(max_examples=30, deadline=None)
def test_launchd_reads_exactly_the_words_whatever_stands_in_a_comment(path: str) -> None:
    service = replace(SERVICE, models=(path,), command=(*SERVICE.command[:-1], path), written=path)
    agent = plistlib.loads(render_launchd(service).encode())
    assert agent["ProgramArguments"] == list(service.command)
    assert agent["EnvironmentVariables"] == {"PATH": "/usr/bin:/bin"}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["Umask"] == 0o077


@given(st.text())
@example("a\nExecStart=/bin/false\n")
@example("a\\")
@settings(max_examples=30, deadline=None)
def test_no_name_ends_the_comment_of_a_unit(name: str) -> None:
    def code(service: Service) -> list[str]:
        return [line for line in render_systemd(service).split("\n") if not line.startswith("#")]

    assert code(replace(SERVICE, models=(name,), written=name)) == code(SERVICE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("folder", ["notes", "my %h $HOME notes"])
def test_systemd_understands_every_line(tmp_path: Path, folder: str) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    workspace = tmp_path / folder
    words = (str(program), *SERVICE.command[1:6], str(workspace), "--", "tiny")
    unit = tmp_path / "quietmind.service"
    unit.write_text(render_systemd(replace(SERVICE, command=words, workspace=workspace, writable=(workspace,))))
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_unit_lies_where_the_person_keeps_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert place_of("systemd") == tmp_path / "settings" / "systemd" / "user" / "quietmind.service"
