"""Files that start an engine: what a shell, a service manager and a YAML parser read back is what was planned."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quietmind.base.errors import EngineMissing, EngineTooOld, ModelNotFound, UsageError
from quietmind.engine import xllamacpp_server
from quietmind.engine.installed import find
from quietmind.engine.launch_files import FORMS, Launch
from quietmind.engine.launch_files.launch import OUR_SERVER, Slot, arguments, refuse_unwritable, serving, usual_program
from quietmind.engine.launch_files.posix import command
from quietmind.engine.launch_files.posix import settings as settings_of
from quietmind.engine.launch_files.systemd import UNIT
from quietmind.machine.load import load_machine
from quietmind.machine.probe import probe
from quietmind.model.card import ModelCard
from quietmind.model.locate import locate
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
    return plan(load_machine(machine), card, Ask(context=4096, engine="llama-server", **asked)), card  # type: ignore[arg-type]


def launch_of(path: str | Path = "/models/m.gguf", machine: str = "rtx-pro-6000-128", **asked: object) -> Launch:
    made, card = planned(machine, **asked)
    flags = tuple(str(Path(path)) if word == "/PATH" else word for word in made.flags)
    return Launch(replace(made, flags=flags), replace(card, path=Path(path)), ("/opt/llama-server",), "11434")


def hard_launch(path: str) -> Launch:
    """A launch of a model at ``path`` that is told the same path as a word of another option too."""
    launch = launch_of(path)
    return replace(launch, plan=replace(launch.plan, flags=(*launch.plan.flags, "--slot-save-path", path)))


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
    launch = hard_launch(path)
    script = f'{settings_of(launch)}key=KEY; set -- {command(serving(launch))}; printf "%s\\0" "$@"'
    ran = subprocess.run(["sh", "-euc", script], capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[:-1] == words_of(launch)


@pytest.mark.skipif(SYSTEMD is None, reason="systemd's own parser is not here")
@given(paths)
@example(HARD)
@settings(max_examples=30, deadline=None)
def test_the_service_manager_reads_exactly_the_words(path: str) -> None:
    launch = hard_launch(f"/{path}")
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
    launch = hard_launch(f"/models/{path}/m.gguf")
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
    launch = hard_launch(path)
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


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The small real model."""
    try:
        return locate("tiny")
    except ModelNotFound:
        pytest.skip("the small model is not here: run `quietmind pull tiny`")


@pytest.fixture(params=["llama.cpp", "llama-server"])
def real(request: pytest.FixtureRequest, tiny: Path, tmp_path: Path) -> Launch:
    """A launch of the small model, under a hard name, by an engine that is here."""
    try:
        installed = find(request.param)
    except EngineMissing as error:
        pytest.skip(str(error))
    model = tmp_path / "мой \"архив\" $HOME 'x'" / "малая модель.gguf"
    model.parent.mkdir()
    model.symlink_to(tiny)
    card = replace(open_card(str(tiny)), path=model)
    made = plan(probe(), card, Ask(context=512, threads=1, engine=request.param))
    program = (installed.program[0], *usual_program(request.param)[1:])
    return Launch(made, card, program, installed.version, installed.flags)


@contextmanager
def started(form: str, launch: Launch, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """Run the file that ``form`` makes until it says where it answers; yield it, its address and its key's file."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = folder / f"launch {form}"
    file.write_text(FORMS[form](replace(launch, port=port)), encoding="utf-8")
    words = ["sh"] if form == "shell" else [sys.executable, "-P"]
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*words, file], env=environment, stdout=output, stderr=output, cwd=folder)
    try:
        for _ in range(600):
            said = re.search(r"^(http://\S+)/v1, key in (.+)$", log.read_text("utf-8", "replace"), re.MULTILINE)
            if said and answers(f"{said[1]}/health") is not None:
                break
            assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
            time.sleep(0.1)
        assert said, log.read_text("utf-8", "replace")[-2000:]
        yield process, said[1], Path(said[2])
    finally:
        process.kill()
        process.wait()


def answers(url: str, key: str = "", body: object = None) -> dict[str, Any] | None:
    """Return what a server answers, None where it refuses or there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {key}"})
    with suppress(OSError), urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
    return None


@pytest.mark.parametrize("form", ["shell", "python"])
def test_the_scripts_start_the_model_ask_for_the_key_and_leave_nothing(form: str, real: Launch, tmp_path: Path) -> None:
    with started(form, real, tmp_path) as (process, address, key_file):
        assert key_file == tmp_path / "state" / "quietmind" / "launch.key"
        assert (key_file.stat().st_mode & 0o777, key_file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        key = key_file.read_text()
        assert re.fullmatch("[0-9a-f]{64}", key)
        assert key not in Path(f"/proc/{process.pid}/cmdline").read_text("utf-8", "replace")
        asked = {"prompt": "The sea is", "max_tokens": 3}
        assert answers(f"{address}/v1/completions", "another key", asked) is None
        answer = answers(f"{address}/v1/completions", key, asked)
        assert answer is not None
        assert (answer["usage"]["completion_tokens"], answer["model"]) == (3, "малая модель")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert answers(f"{address}/health") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_engine_ends_with_its_program_however_that_ends(real: Launch, tmp_path: Path) -> None:
    with started("python", real, tmp_path) as (process, address, _):
        process.kill()
        process.wait()
        for _ in range(100):
            if answers(f"{address}/health") is None:
                return
            time.sleep(0.1)
        pytest.fail("the engine lives on")


@pytest.mark.parametrize("form", ["shell", "python"])
def test_a_key_that_others_may_read_and_a_model_that_vanished_are_one_line(form: str, tmp_path: Path) -> None:
    launch = launch_of(tmp_path / "gone.gguf")
    file = tmp_path / "launch"
    file.write_text(FORMS[form](replace(launch, program=("true",))), encoding="utf-8")
    words = ["sh"] if form == "shell" else [sys.executable, "-P"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}

    def said() -> str:
        ran = subprocess.run([*words, file], env=environment, capture_output=True, check=False, encoding="utf-8")
        assert (ran.returncode, ran.stdout) == (1, "")
        return ran.stderr

    assert re.fullmatch(r".*gone\.gguf: there is no such model here; set MODEL to its path\n", said())
    (tmp_path / "gone.gguf").touch()
    (tmp_path / "quietmind").mkdir(exist_ok=True)
    (tmp_path / "quietmind" / "launch.key").write_text("k" * 64)
    (tmp_path / "quietmind" / "launch.key").chmod(0o644)
    assert re.fullmatch(r".*launch\.key: others may read this key; make it yours alone with chmod 600\n", said())


def test_a_port_that_is_none_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "launch.py"
    file.write_text(FORMS["python"](launch_of()), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, file], env=os.environ | {"PORT": "http"}, capture_output=True, check=False, text=True
    )
    assert ran.stderr == "launch.py: PORT=http: is no port; give a number from 1024 to 65535\n"


def test_a_port_in_use_is_one_line(real: Launch, tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = tmp_path / "launch.py"
        file.write_text(FORMS["python"](replace(real, port=taken.getsockname()[1])), encoding="utf-8")
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
        ran = subprocess.run(
            [sys.executable, file], env=environment, capture_output=True, check=False, encoding="utf-8"
        )
    assert re.fullmatch(r"launch\.py: port \d+ is in use; .+\n", ran.stderr)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("engine", ["llama-server", "vllm", "sglang"])
def test_the_service_manager_finds_nothing_wrong_with_the_unit(engine: str, tmp_path: Path) -> None:
    launch = launch_of(HARD) if engine == "llama-server" else sharded(engine)
    file = tmp_path / UNIT
    file.write_text(FORMS["systemd"](replace(launch, program=("/bin/true",))), encoding="utf-8")
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    verify = ["systemd-analyze", "--user", "--man=no", "verify", str(file)]
    ran = subprocess.run(verify, env=environment, capture_output=True, check=False, encoding="utf-8")
    assert (ran.returncode, ran.stderr + ran.stdout) == (0, "")


def test_a_unit_which_prints_nothing_says_where_it_answers_and_where_its_key_is() -> None:
    launch = launch_of(HARD)
    lines = FORMS["systemd"](launch).splitlines()
    assert f"# address:  http://127.0.0.1:{launch.port}/v1" in lines
    (key,) = (line.split()[2].rstrip(",") for line in lines if line.startswith("# key:"))
    assert key.replace("~", "%h") in "".join(line for line in lines if line.startswith("ExecStart="))


def sharded(engine: str, nodes: int = 1) -> Launch:
    card = replace(open_card("qwen3-235b-a22b-2507", "FP8"), path=Path("/models/hub/snapshots/abc"))
    ask = Ask(context=307_200, kv_type="auto", engine=engine, nodes=nodes)
    made = plan(load_machine("8x-rtx-pro-6000"), card, ask)
    return Launch(made, card, usual_program(engine), "0.33.0" if engine == "vllm" else "0.5.23")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_engines_that_shard_are_composed_with_their_gpus_and_the_whole_cache_of_the_hub(engine: str) -> None:
    yaml = pytest.importorskip("yaml", reason="no YAML parser is installed")
    launch = sharded(engine)
    services = yaml.safe_load(FORMS["compose"](launch))["services"]
    found = services["engine"]
    (gpus,) = found["deploy"]["resources"]["reservations"]["devices"]
    assert launch.plan.split is not None
    assert gpus["device_ids"] == [str(number) for number in range(launch.plan.split.gpus)]
    assert found["image"].rpartition(":")[2] == f"v{launch.version}"
    assert found["volumes"][0]["source"] == "/models/hub"
    assert "/models/snapshots/abc" in found["command"]
    assert found["networks"] == ["sealed"]
    assert "ports" not in found
    assert services["door"]["ports"] == ["127.0.0.1:8087:8080"]
    assert services["key"]["network_mode"] == "none"


def test_containers_get_the_image_of_their_accelerator_and_none_for_apple() -> None:
    assert "with the tag server-cuda," in FORMS["compose"](launch_of())
    assert "with the tag server," in FORMS["compose"](launch_of(machine="2x-epyc-9575f-1.5tb"))
    with pytest.raises(UsageError, match="--as shell"):
        FORMS["compose"](launch_of(machine="mac-studio-m3-ultra-512"))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_several_machines_get_a_script_that_asks_for_consent(engine: str, tmp_path: Path) -> None:
    launch = sharded(engine, nodes=2)
    script = FORMS["shell"](launch)
    assert "not encrypted" in script.partition("set -eu")[0]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}

    def said(*words: str, **given: str) -> str:
        ran = subprocess.run(
            ["sh", "-s", *words], input=script, env=environment | given, capture_output=True, check=False, text=True
        )
        assert ran.returncode == 1
        return ran.stderr

    assert "say so with CONSENT=yes" in said("head")
    assert "set HEAD as the top" in said("head", CONSENT="yes")
    assert "set SELF as the top" in said("head", CONSENT="yes", HEAD="10.0.0.1")
    assert "no such model" in said("head", CONSENT="yes", HEAD="10.0.0.1", SELF="10.0.0.1")
    for form in FORMS:
        if form != "shell":
            with pytest.raises(UsageError, match="--as shell"):
                FORMS[form](launch)


def test_the_head_waits_for_every_gpu_and_ends_what_it_started(tmp_path: Path) -> None:
    launch = replace(sharded("vllm", nodes=2), program=("vllm", "serve"))
    launch = replace(launch, card=replace(launch.card, path=tmp_path))
    ray = '#!/bin/sh\necho "ray $*" >>"$LOG"\ncase $1 in status) echo " 0.0/8.0 GPU" ;; *) exec sleep 60 ;; esac\n'
    vllm = '#!/bin/sh\necho "vllm $VLLM_HOST_IP $NCCL_SOCKET_IFNAME ${#VLLM_API_KEY} $*" >>"$LOG"\n'
    address = '#!/bin/sh\necho "2: eth7    inet 10.0.0.1/24 scope global eth7"\n'
    for name, text in (("ray", ray), ("vllm", vllm), ("ip", address)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "HEAD": "10.0.0.1"}
    environment |= {"SELF": "10.0.0.1", "CONSENT": "yes", "XDG_STATE_HOME": str(tmp_path), "MODEL": str(tmp_path)}
    subprocess.run(
        ["sh", "-s", "head"], input=FORMS["shell"](launch), env=environment, check=True, timeout=30, text=True
    )
    ran = log.read_text().splitlines()
    assert any(line.startswith("ray start --head --port=6379") and "--block" in line for line in ran)
    assert "ray status --address=10.0.0.1:6379" in ran
    (served,) = [line for line in ran if line.startswith("vllm")]
    assert served.startswith(f"vllm 10.0.0.1 eth7 64 serve {tmp_path} --max-model-len 307200")
    assert "--distributed-executor-backend ray" in served


def test_a_server_without_a_web_page_is_not_told_to_hide_it() -> None:
    older = replace(launch_of(), known=frozenset({"--offline"}))
    assert "--offline" in FORMS["shell"](older)
    assert "--no-webui" not in FORMS["shell"](older)


def test_what_the_wheel_cannot_do_is_refused_before_a_file_is_written() -> None:
    ours = launch_of(experts_used=16)
    with pytest.raises(EngineTooOld, match="--engine llama-server"):
        FORMS["shell"](replace(ours, program=("python3", *OUR_SERVER)))


@pytest.mark.parametrize("form", ["systemd", "compose"])
def test_forms_that_cannot_be_told_the_path_later_ask_for_it(form: str) -> None:
    with pytest.raises(UsageError, match="--weights"):
        FORMS[form](launch_of("Qwen3-30B-A3B-Q4_K_M"))


SERVER = """#!{python}
import http.server, json, os, sys
from pathlib import Path
words = sys.argv[1:]
told = Path(words[words.index("--config") + 1]).read_text() if "--config" in words else os.environ["VLLM_API_KEY"]
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(words=words, key=told, hub=os.environ["HF_HUB_OFFLINE"])).encode())
address = words[words.index("--host") + 1], int(words[words.index("--port") + 1])
http.server.HTTPServer(address, Answers).serve_forever()
"""


@pytest.mark.parametrize("form", ["shell", "python"])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_engines_that_take_no_key_file_get_the_key_out_of_sight(engine: str, form: str, tmp_path: Path) -> None:
    program = tmp_path / "engine"
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    launch = sharded(engine)
    flags = tuple(str(tmp_path) if word == launch.model else word for word in launch.plan.flags)
    launch = replace(launch, plan=replace(launch.plan, flags=flags), program=(str(program), "serve"))
    with started(form, launch, tmp_path) as (_, address, key_file):
        answer = answers(address)
        key = key_file.read_text()
        assert answer is not None
        assert answer["key"] == (key if engine == "vllm" else f'api-key: "{key}"\n')
        assert answer["hub"] == "1"
        assert not any(key in word for word in answer["words"])
        assert answer["words"][0] == "serve"
        assert [word for word in answer["words"] if word in flags] == list(flags)
    if engine == "sglang":
        assert (tmp_path / "state" / "quietmind" / "launch.yaml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("words", [["-m", "x.gguf"], ["--mirostat", "2"], ["-c", "many"]])
def test_the_server_of_the_wheel_says_in_one_line_what_is_wrong(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert xllamacpp_server.main(words) == 1
    said = capfd.readouterr().err
    assert said.startswith("UsageError: ")
    assert said.count("\n") == 1
