"""Finding models: in which places, in which order, and what is said when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quietmind.base.errors import ModelNotFound, UsageError
from quietmind.model.locate import HubFile, installed, locate, parse_hub_name

DIGEST = "ab" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty home and have every place point below it."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("QUIETMIND_MODELS", str(tmp_path / "ours"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: Path, content: bytes = b"GGUF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_ollama(home: Path, name: str = "qwen3", tag: str = "8b", digest: str = f"sha256:{DIGEST}") -> Path:
    manifest = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest}]}
    put(home / ".ollama/models/manifests/host/library" / name / tag, json.dumps(manifest).encode())
    return put(home / f".ollama/models/blobs/sha256-{DIGEST}")


def places(home: Path, name: str) -> list[Path]:
    return [
        home / "ours" / name,
        home / ".cache/huggingface/hub/models--a--b/snapshots/1" / name,
        home / ".lmstudio/models/a/b" / name,
        home / ".cache/lm-studio/models/a/b" / name,
        home / "extra" / name,
    ]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("name", ["Some-Model.Q4.gguf", "some-model.q4"])
def test_a_file_is_found_in_every_place_by_name_and_stem(home: Path, place: int, name: str) -> None:
    path = put(places(home, "Some-Model.Q4.gguf")[place])
    assert locate(name, extra=[home / "extra"]) == path


def test_places_are_searched_in_the_promised_order(home: Path) -> None:
    paths = [put(path) for path in places(home, "m.gguf")]
    for path in paths:
        assert locate("m", extra=[home / "extra"]) == path
        path.unlink()


def test_a_path_wins_over_every_place(home: Path) -> None:
    put(home / "ours/m.gguf")
    here = put(home / "m.gguf")
    assert locate("m.gguf") == Path("m.gguf")
    assert locate(str(here)) == here
    assert locate("~/m.gguf") == here


def test_any_existing_file_is_the_model(home: Path) -> None:
    blob = put(home / "blobs/sha256-0123")
    assert locate("blobs/sha256-0123") == Path("blobs/sha256-0123")
    assert locate(str(blob)) == blob
    put(home / "weights.bin")
    assert locate("weights.bin") == Path("weights.bin")


def test_a_short_name_is_no_file_of_that_name(home: Path) -> None:
    put(home / "tiny", b"my diary")
    path = put(home / "ours/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert locate("tiny") == path


def test_a_folder_is_called_one_unless_it_names_a_model(home: Path) -> None:
    (home / "qwen").mkdir()
    with pytest.raises(ModelNotFound, match="qwen: is a folder; name the model file in it"):
        locate("qwen")
    path = put(home / "ours/qwen.gguf")
    assert locate("qwen") == path


@pytest.mark.parametrize("name", ["x" * 5000, "a/" + "x" * 5000, "x" * 5000 + ".gguf"])
def test_a_name_longer_than_any_file_is_not_found(home: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        locate(name)


def test_an_unknown_home_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no home folder is known"):
        locate("~nobody-of-that-name/x.gguf")
    for name in ("HF_HOME", "OLLAMA_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "~nobody-of-that-name/x")
        with pytest.raises(UsageError, match="no home folder is known"):
            locate("m")
        monkeypatch.delenv(name)


def test_a_folder_that_may_not_be_entered_is_told_or_passed_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(home / "extra/m.gguf")  # looked for last
    real = Path.stat

    def refusing(path: Path, *, follow_symlinks: bool = True) -> object:
        if {"locked", ".lmstudio", ".ollama"} & set(path.parts):
            raise PermissionError(13, "Permission denied")
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refusing)
    with pytest.raises(ModelNotFound, match=r"locked/m\.gguf: cannot be looked at \(Permission denied\)"):
        locate("locked/m.gguf")
    assert locate("m", extra=[home / "extra"]) == path


def test_a_path_that_is_not_there_is_not_looked_for_elsewhere(home: Path) -> None:
    put(home / "ours/m.gguf")
    with pytest.raises(ModelNotFound):
        locate("folder/m.gguf")


def test_the_short_name_finds_the_catalogues_file(home: Path) -> None:
    with pytest.raises(ModelNotFound, match="quietmind pull tiny"):
        locate("tiny")
    path = put(home / "ours/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert locate("tiny") == path


def test_ollama_blobs_are_found_through_their_manifest(home: Path) -> None:
    blob = put_ollama(home)
    assert locate("qwen3:8b") == blob
    put_ollama(home, tag="latest")
    assert locate("qwen3") == blob
    assert [model.name for model in installed()] == ["qwen3:8b"]  # one file, listed once


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "md5:00", 7])
def test_a_hostile_manifest_leads_nowhere(home: Path, digest: str) -> None:
    put_ollama(home, digest=digest)
    put(home / ".ollama/models/manifests/host/library/broken/1", b"{")
    put(home / ".ollama/models/manifests/host/library/deep/1", b"[" * 100_000)
    assert installed() == []


def test_a_hub_file_is_found_in_our_folder_and_in_the_cache(home: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"quietmind pull hf:a/b/q/m\.gguf"):
        locate("hf:a/b/q/m.gguf")
    cached = put(home / ".cache/huggingface/hub/models--a--b/snapshots/1/q/m.gguf")
    assert locate("hf:a/b/q/m.gguf") == cached
    ours = put(home / "ours/a/b/q/m.gguf")
    assert locate("hf:a/b/q/m.gguf") == ours


@pytest.mark.parametrize("name", ["hf:", "hf:a/m.gguf", "hf:a/../m.gguf", "hf:/a/b/m.gguf", "hf:a/b/m.bin", "", "\0"])
def test_names_that_make_no_sense_are_usage_errors(home: Path, name: str) -> None:
    with pytest.raises(UsageError):
        locate(name)


def test_a_hub_name_is_taken_apart() -> None:
    assert parse_hub_name("hf:Qwen/Qwen3-8B-GGUF/x/m.gguf") == HubFile("Qwen/Qwen3-8B-GGUF", "x/m.gguf")


def test_installed_lists_each_model_once_and_split_ones_whole(home: Path) -> None:
    put(home / "ours/big-00001-of-00002.gguf", b"12")
    put(home / "ours/big-00002-of-00002.gguf", b"345")
    put(home / "ours/mmproj-big.gguf")
    put(home / "ours/big.gguf.123.partial")
    (home / "ours/broken.gguf").symlink_to(home / "nowhere")
    assert [(model.name, model.source, model.bytes) for model in installed()] == [("big", "quietmind", 5)]
    assert locate("big").name == "big-00001-of-00002.gguf"


def test_the_message_says_where_was_looked_in_one_line(home: Path) -> None:
    with pytest.raises(ModelNotFound) as missing:
        locate("no\nsuch", extra=[home / "more"])
    message = str(missing.value)
    assert message.isprintable()
    for place in ("ours", "huggingface", "lmstudio", "ollama", "more", "quietmind pull"):
        assert place in message


def test_locating_imports_nothing_heavy() -> None:
    heavy = "torch,xllamacpp,huggingface_hub,psutil,httpx2,rich,numpy"
    script = f"import sys, quietmind.model.locate; sys.exit(any(m in sys.modules for m in {heavy!r}.split(',')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
