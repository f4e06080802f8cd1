"""Which engines are installed here, in which version, and which flags that version knows.

Nothing heavy is imported: a program is asked for its ``--help``, and of Python packages the source of the argument
definitions is parsed, since importing one of them takes tens of seconds.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quietmind.base.errors import EngineMissing, EngineTooOld, UsageError
from quietmind.base.paths import expanded, settings_file, shown_path
from quietmind.base.settings import load_settings
from quietmind.plan.engines import engine_kind

LLAMA_SERVER_VARIABLE = "QUIETMIND_LLAMA_SERVER"

_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9_-]*")
# A line of llama-server's help that names flags starts at its left edge; what it says about them is indented.
_HELP_LINE = re.compile(r"^(?:-[^\s]|--)")
_VERSION = re.compile(r"version:\s*(.+)")
_ASK_SECONDS = 60.0  # a program on a cold disk with gigabytes of GPU libraries

_INSTALL = {
    "llama.cpp": "pip install 'quietmind[llamacpp]'",
    "llama-server": "install llama.cpp (`brew install llama.cpp`, or a release for your GPU) and put llama-server on "
    f"PATH, or name it with ${LLAMA_SERVER_VARIABLE}",
    "vllm": "pip install vllm",
    "sglang": 'pip install "sglang[all]"',
    "transformers": "pip install 'quietmind[transformers]'",
}
_UPDATE = {
    "llama.cpp": "pip install -U xllamacpp, or use your own with --engine llama-server",
    "llama-server": "install a newer llama.cpp",
    "vllm": "pip install -U vllm",
    "sglang": 'pip install -U "sglang[all]"',
    "transformers": "pip install -U transformers",
}
# The distribution and the files of it that define arguments.
_PACKAGES = {
    "vllm": ("vllm", ("engine/arg_utils.py", "entrypoints/**/cli_args.py")),
    "sglang": ("sglang", ("srt/server_args.py", "srt/arg_groups/**/*.py")),
    "transformers": ("transformers", ()),
    "llama.cpp": ("xllamacpp", ()),
}


@dataclass(frozen=True)
class Installed:
    """An engine that is here. ``program`` are the words to run it with, ahead of the plan's.

    ``flags`` are those that its command line knows; empty for an engine that is not started by one.
    """

    key: str
    program: tuple[str, ...]
    version: str
    flags: frozenset[str]


def find(key: str, given: Path | None = None) -> Installed:
    """Find the engine ``key``; ``given`` is its program, or the Python that it is installed in.

    Raises EngineMissing with what installs it, UsageError for an engine that is never installed here.
    """
    kind = engine_kind(key)
    if key == "endpoint":
        raise UsageError(
            f"{kind.title} is started by nobody here; ask it with `quietmind ask --model http://HOST:PORT`"
        )
    if key == "llama-server":
        return _llama_server(_program(key, "llama-server", given))
    package, files = _PACKAGES[key]
    program = _python_program(key, package, given)
    found = _package(program[0] if key != "vllm" else _python_of(Path(program[0])), package)
    if found is None:
        raise EngineMissing(f"{kind.title} is not installed ({package} is nowhere): {_INSTALL[key]}")
    folder, version = found
    return Installed(key, program, version, _flags_of(folder, files))


def require_flags(installed: Installed, words: Iterable[str]) -> None:
    """Check that the installed version knows each flag among ``words``. Raises EngineTooOld naming the first."""
    for word in words:
        flag = word.partition("=")[0]
        if _FLAG.fullmatch(flag) and not knows(installed, flag):
            raise too_old(installed.key, installed.version, flag)


def knows(installed: Installed, flag: str) -> bool:
    """Say whether the installed version has ``flag``. Python's parsers take ``_`` for ``-``."""
    return not installed.flags or flag in installed.flags or flag.replace("_", "-") in installed.flags


def wheel_sees_accelerators() -> bool | None:
    """Say whether the ``xllamacpp`` that is installed computes on accelerators here; None where it does not say.

    It is asked in a process of its own, which takes some 0.2 s: drivers of accelerators may crash.
    """
    script = (
        "import xllamacpp as x; print('devices', *(d['type'].name.rpartition('_')[2] for d in x.get_device_info()))"
    )
    for line in _said(sys.executable, "-P", "-c", script).splitlines():
        if line.startswith("devices"):
            return not {*line.split()[1:]} <= {"CPU", "ACCEL"}  # ACCEL: BLAS on the processor
    return None


def too_old(key: str, version: str, flag: str) -> EngineTooOld:
    """Return the error for an engine whose ``version`` has no ``flag``."""
    kind = engine_kind(key)
    return EngineTooOld(f"{kind.title}, version {version}, has no {flag}, which this plan needs: {_UPDATE[key]}")


def _program(key: str, name: str, given: Path | None) -> str:
    """Return the path of a program: the one given, the one that the person has named for it, else from PATH."""
    named = given or (_named_llama_server() if key == "llama-server" else None)
    beside = Path(sys.executable).with_name(name)  # of a virtual environment that is not activated
    found = shutil.which(str(named)) if named else shutil.which(name) or shutil.which(str(beside))
    if found is None and named is not None:
        raise EngineMissing(f"{shown_path(named)}: is no program that can be run; {_INSTALL[key]}")
    if found is None:
        raise EngineMissing(f"{engine_kind(key).title} is not installed (no {name} on PATH): {_INSTALL[key]}")
    return os.path.abspath(found)  # noqa: PTH100  what is launched later is launched from elsewhere; links stay links


def _named_llama_server() -> Path | None:
    """Return the llama-server that the environment, or else the settings, name. Raises UsageError."""
    named = os.environ.get(LLAMA_SERVER_VARIABLE) or load_settings(settings_file()).llama_server
    return expanded(named) if named else None


def _llama_server(program: str) -> Installed:
    said = _said(program, "--version")
    version = _VERSION.search(said)
    flags = [flag for line in _said(program, "--help").splitlines() if _HELP_LINE.match(line) for flag in _names(line)]
    if not {"--model", "--host"} <= set(flags):
        last = said.strip().rpartition("\n")[2] or "it says nothing"
        raise EngineMissing(
            f"{shown_path(program)}: is no llama-server that runs here ({last}); {_INSTALL['llama-server']}"
        )
    return Installed("llama-server", (program,), version[1].strip() if version else "unknown", frozenset(flags))


def _names(line: str) -> Iterator[str]:
    """Yield the flags at the start of a line of help: ``-c,    --ctx-size N    size of the prompt context``."""
    for word in line.replace(",", " ").split():
        if not _FLAG.fullmatch(word):
            return
        yield word


def _said(*words: str) -> str:
    try:
        ran = subprocess.run(
            words, capture_output=True, timeout=_ASK_SECONDS, check=False, stdin=subprocess.DEVNULL, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"{ran.stdout}\n{ran.stderr}"


def _python_program(key: str, package: str, given: Path | None) -> tuple[str, ...]:
    """Return the words that run a Python engine."""
    if key == "vllm":
        return (_program(key, "vllm", given),)
    if key == "sglang":
        script = shutil.which("sglang") if given is None and importlib.util.find_spec(package) is None else None
        python = str(given) if given else _python_of(Path(script)) if script else sys.executable
        return (python, "-P", "-m", "sglang.launch_server")
    return (str(given) if given else sys.executable,)


def _python_of(script: Path) -> str:
    """Return the Python that ``script`` runs with, from its first line; ours where it does not say."""
    with suppress(OSError), script.open("rb") as file:
        first = file.readline(512).decode("utf-8", "replace")
        words = first.removeprefix("#!").split() if first.startswith("#!") else []
        if words and Path(words[0]).name.startswith("python"):
            return words[0]
    beside = script.with_name("python")  # where the path is too long for the first line, it is a shell script
    return str(beside) if beside.exists() else sys.executable


def _package(python: str, package: str) -> tuple[Path, str] | None:
    """Return where ``package`` is in ``python``'s environment, and its version; None where it is not."""
    if python == sys.executable:
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
            spec = importlib.util.find_spec(package)
            if spec is not None and spec.submodule_search_locations:
                return Path(next(iter(spec.submodule_search_locations))), version
        return None
    script = (
        "import importlib.metadata as m, importlib.util as u, sys; "
        "print(u.find_spec(sys.argv[1]).submodule_search_locations[0]); print(m.version(sys.argv[1]))"
    )
    said = _said(python, "-P", "-c", script, package).strip().splitlines()
    return (Path(said[0]), said[1].strip()) if len(said) >= 2 and Path(said[0]).is_dir() else None


def _flags_of(folder: Path, files: Sequence[str]) -> frozenset[str]:
    """Return the flags that the files define: names that are spelled out, and those made of a class's fields."""
    flags: set[str] = set()
    for file in (found for pattern in files for found in folder.glob(pattern)):
        with suppress(OSError, SyntaxError, ValueError):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _FLAG.fullmatch(node.value):
                    flags.add(node.value)
                elif isinstance(node, ast.ClassDef):
                    flags.update(_fields(node))
    return frozenset(flags | {f"--no-{flag[2:]}" for flag in flags if flag.startswith("--")})


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and not each.target.id.startswith("_"):
            yield "--" + each.target.id.replace("_", "-")
