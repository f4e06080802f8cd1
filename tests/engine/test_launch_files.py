"""Files that start an engine: what a shell, a service manager and a YAML parser read back is what was planned."""

from __future__ import annotations

import ctypes
import functools
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quietmind.base.errors import UsageError
from quietmind.engine.launch_files import FORMS, Launch
from quietmind.engine.launch_files.launch import Slot, arguments, refuse_unwritable, serving
from quietmind.machine.load import load_machine
from quietmind.model.card import ModelCard
from quietmind.model.open import open_card
from quietmind.plan import Ask, Plan, plan

HARD = "/модели/a b'c\"d$HOME`id`%h\\n{x};#&|*~(é)/m 1.gguf"
SYSTEMD = next(Path("/").glob("usr/lib/*/systemd/libsystemd-shared-*.so"), None)

# Whatever a path may hold, less what is refused: control characters and bytes that are no text.
paths = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"), min_size=1
)


@functools.cache
def planned(machine: str, **asked: object) -> tuple[Plan, ModelCard]:
    card = replace(open_card("qwen3-30b-a3b"), path=Path("/PATH"))
    return plan(load_machine(machine), card, Ask(context=4096, **asked)), card  # type: ignore[arg-type]


def launch_of(path: str | Path = "/models/m.gguf", machine: str = "rtx-pro-6000-128", **asked: object) -> Launch:
    made, card = planned(machine, **asked)
    flags = tuple(str(Path(path)) if word == "/PATH" else word for word in made.flags)
    return Launch(replace(made, flags=flags), replace(card, path=Path(path)), ("/opt/llama-server",), "11434")


def words_of(launch: Launch, port: str = "8087", key: str = "KEY") -> list[str]:
    slots = {Slot.MODEL: str(launch.card.path), Slot.HOST: "127.0.0.1", Slot.PORT: port, Slot.KEY_FILE: key}
    started = serving(launch)
    return [*started.program, *(slots[word] if isinstance(word, Slot) else word for word in started.words)]


@pytest.mark.parametrize("form", FORMS)
def test_the_head_says_what_is_started_and_what_to_expect(form: str) -> None:
    launch = launch_of()
    said = FORMS[form](replace(launch, command="quietmind launch qwen3-30b-a3b"))
    assert launch.plan.speed is not None
    for expected in (
        launch.plan.model,
        launch.plan.machine,
        "version 11434",
        "4,096 tokens",
        *(f"{use.device}: " for use in launch.plan.devices),
        f"decode {launch.plan.speed.decode} tokens/s",
        "stop:",
        "written:  quietmind launch qwen3-30b-a3b",
        *launch.plan.warnings,
    ):
        assert expected in said


def test_an_unknown_speed_is_said() -> None:
    launch = launch_of()
    assert "speed:    unknown" in FORMS["shell"](replace(launch, plan=replace(launch.plan, speed=None)))


@given(st.text())
@example("a\nrm -rf ~\n")
@example("a\rb\x0bc\x85d\u2028e\ud800")
@pytest.mark.parametrize("form", FORMS)
def test_no_name_in_a_model_ends_the_comment_that_it_stands_in(form: str, name: str) -> None:
    plain, hostile = launch_of(), launch_of()
    hostile = replace(hostile, plan=replace(hostile.plan, model=name, warnings=(name,)))
    plain = replace(plain, plan=replace(plain.plan, model="", warnings=("",)))

    def code(launch: Launch) -> list[str]:
        lines = FORMS[form](launch).splitlines()
        return [line for line in lines if not line.startswith(("#", "Description="))]

    assert code(hostile) == code(plain)


@given(paths)
@example(HARD)
@settings(max_examples=30, deadline=None)
def test_a_shell_reads_exactly_the_words(path: str) -> None:
    from quietmind.engine.launch_files.posix import command

    launch = launch_of(path)
    script = f'MODEL={shlex.quote(path)} PORT=8087 key=KEY; set -- {command(serving(launch))}; printf "%s\\0" "$@"'
    ran = subprocess.run(["sh", "-euc", script], capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[:-1] == words_of(launch)


@pytest.mark.skipif(SYSTEMD is None, reason="systemd's own parser is not here")
@given(paths)
@example(HARD)
@settings(max_examples=30, deadline=None)
def test_the_service_manager_reads_exactly_the_words(path: str) -> None:
    launch = launch_of(path)
    unit = FORMS["systemd"](launch)
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert systemd_words(command) == words_of(launch, key="/home/me/.local/state/quietmind/launch.key")


def systemd_words(line: str) -> list[str]:
    """Return the words of a command in a unit as systemd splits them, with ``%h``, ``%%`` and ``$$`` replaced."""
    library = ctypes.CDLL(str(SYSTEMD))
    library.extract_first_word.argtypes = [
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.c_char_p,
        ctypes.c_int,
    ]
    rest, word = ctypes.c_char_p(line.encode()), ctypes.c_char_p()
    unquote_and_unescape = 1 << 5 | 1 << 1  # EXTRACT_UNQUOTE | EXTRACT_CUNESCAPE, as for ExecStart=
    words = []
    while (found := library.extract_first_word(rest, word, None, unquote_and_unescape)) > 0:
        assert word.value is not None
        words.append(re.sub(r"%([h%])", lambda m: {"h": "/home/me", "%": "%"}[m[1]], word.value.decode()))
    assert found == 0, f"systemd cannot read {line!r}"
    assert not re.search(r"(?<!\$)(?:\$\$)*\$(?!\$)", "".join(words[1:])), "systemd would replace a variable"
    return [word.replace("$$", "$") for word in words]


@given(paths)
@example(HARD)
@settings(max_examples=30, deadline=None)
def test_compose_reads_exactly_the_words(path: str) -> None:
    yaml = pytest.importorskip("yaml", reason="no YAML parser is installed")
    launch = launch_of(f"/models/{path}/m.gguf")
    engine = yaml.safe_load(FORMS["compose"](launch))["services"]["engine"]
    words = [word.replace("$$", "$") for word in (*engine["entrypoint"], *engine["command"])]
    inside = ["/app/llama-server", *words_of(launch, port="8080", key="/key/launch.key")[1:]]
    inside[inside.index(str(launch.card.path))] = "/models/m.gguf"
    inside[inside.index("127.0.0.1")] = "0.0.0.0"
    assert words == inside
    assert engine["volumes"][0] == {
        "type": "bind",
        "source": str(launch.card.path.parent).replace("$", "$$"),
        "target": "/models",
        "read_only": True,
    }


@given(paths)
@example(HARD)
@settings(max_examples=30, deadline=None)
def test_python_reads_exactly_the_words(path: str) -> None:
    launch = launch_of(path)
    names: dict[str, object] = {"__name__": "launch"}
    exec(compile(FORMS["python"](launch), "launch.py", "exec"), names)
    places = {"model": names["MODEL"], "host": "127.0.0.1", "port": "8087", "key_file": "KEY", "key_config": ""}
    words = [*names["PROGRAM"], *(word.format(**places) for word in names["WORDS"])]  # type: ignore[misc, attr-defined]
    assert words == words_of(launch)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "iq4_nl"])
def test_the_web_ui_hands_llama_server_the_planned_words(kv_type: str) -> None:
    yaml = pytest.importorskip("yaml", reason="no YAML parser is installed")
    launch = launch_of("/models/Модель (1)+.gguf", kv_type=kv_type, experts_used=16)
    ((pattern, keys),) = yaml.safe_load(FORMS["webui"](launch)).items()
    assert re.match(pattern.lower(), launch.card.path.name.lower())
    # As modules/llama_cpp_server.py of its version 4.7.3 makes the command line.
    words = ["-m", str(launch.card.path), "-b", keys["batch_size"], "-ub", keys["ubatch_size"], "-fa", "on"]
    words += ["-c", keys["ctx_size"], "-ngl", keys["gpu_layers"], "-fit", "off", "-t", keys["threads"]]
    if keys["cache_type"] in ("q8_0", "q4_0"):
        words += ["-ctk", keys["cache_type"], "-ctv", keys["cache_type"]]
    words += ["-np", keys["parallel"], *shlex.split(keys["extra_flags"])]
    given = {group[0]: group[1:] for group in arguments(tuple(str(word) for word in words))}
    planned = {group[0]: group[1:] for group in arguments(launch.plan.flags)}
    unsaid = {("-ctk", ("f16",)), ("-ctv", ("f16",))}  # llama-server's own default
    assert set(planned.items()) - set(given.items()) <= unsaid
    assert set(given) - set(planned) == {"--offline"}


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\x85b", "a\u2028b", "a\udcffb", "a\ufeffb"])
@pytest.mark.parametrize("form", FORMS)
def test_what_no_file_can_hold_is_refused_in_one_line(form: str, bad: str) -> None:
    with pytest.raises(UsageError, match="rename"):
        FORMS[form](launch_of(f"/models/{bad}.gguf"))


@given(paths)
def test_nothing_else_is_refused(path: str) -> None:
    refuse_unwritable(path)
