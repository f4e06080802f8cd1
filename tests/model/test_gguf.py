"""The GGUF reader: what valid files say, and that every lie in a header is refused with one line."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietmind.base.errors import ModelError, ModelFileDamaged, ModelNotFound, ModelNotUnderstood
from quietmind.model.gguf import GgufArray, read_card, read_gguf

Writer = Callable[..., bytes]
Model = Callable[..., tuple[dict[str, Any], list[tuple[str, tuple[int, ...], str]]]]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


Save = Callable[[bytes], Path]


@pytest.mark.parametrize("version", [2, 3])
def test_a_valid_file_is_read_whole(save: Save, write_gguf: Writer, small_model: Model, version: int) -> None:
    metadata, tensors = small_model()
    path = save(write_gguf(metadata, tensors, version=version))
    header = read_gguf(path)
    assert header.version == version
    assert header.file_bytes == path.stat().st_size
    assert [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors] == tensors
    assert header.tensors[0].offset == header.data_offset
    assert header.tensors[0].bytes == 64 * 32 // 32 * 34
    assert header.tensors[-1].offset + header.tensors[-1].bytes == header.file_bytes
    assert header.metadata["general.name"] == "Tiny"


def test_arrays_stay_in_the_file_until_they_are_asked(save: Save, write_gguf: Writer, small_model: Model) -> None:
    metadata, tensors = small_model(numbers=[-1, -2], flags=[True, False], reals=[0.5])
    header = read_gguf(save(write_gguf(metadata, tensors)))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, GgufArray)
    assert tokens.count == 32
    assert tokens.values() == [f"token{number}" for number in range(32)]
    found = {key: item.values() for key, item in header.metadata.items() if isinstance(item, GgufArray)}
    assert (found["numbers"], found["flags"], found["reals"]) == ([-1, -2], [True, False], [0.5])


def test_a_vocabulary_of_150000_tokens_is_read_in_no_time(save: Save, write_gguf: Writer, small_model: Model) -> None:
    words = [f"token{number}" for number in range(150_000)]
    metadata, tensors = small_model(tokenizer__ggml__tokens=words, tokenizer__ggml__merges=words)
    path = save(write_gguf(metadata, tensors))
    began = time.process_time()
    read_card(path)
    assert time.process_time() - began < 1.0
    tracemalloc.start()
    read_card(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_header_over_a_hole_is_read_like_the_whole_file(save: Save, write_gguf: Writer, small_model: Model) -> None:
    content = write_gguf(*small_model())
    path = save(content)
    whole = read_card(path)
    with path.open("r+b") as file:
        file.truncate(read_gguf(path).data_offset)
        file.truncate(len(content))
    assert read_card(path) == whole


@given(at=st.floats(0, 1, exclude_max=True), in_header=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_cut_of_a_file_is_called_an_incomplete_download(
    save: Save, write_gguf: Writer, small_model: Model, at: float, in_header: bool
) -> None:
    content = write_gguf(*small_model())
    header = read_gguf(save(content)).data_offset
    length = int(at * (header if in_header else len(content)))
    with pytest.raises(ModelFileDamaged, match="the download is incomplete, fetch it again") as damage:
        read_card(save(content[:length]))
    assert "\n" not in str(damage.value)
    assert length == 0 or f"{length:,}" in str(damage.value)  # how much of it is there


def test_a_cut_part_of_a_split_model_is_called_incomplete(
    tmp_path: Path, write_gguf: Writer, small_model: Model
) -> None:
    paths = split(tmp_path, write_gguf, small_model)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.raises(ModelFileDamaged, match=r"00002-of-\d+\.gguf: .*the download is incomplete"):
        read_card(paths[0])


def test_a_truncated_download_names_the_tensor_and_both_numbers(
    save: Save, write_gguf: Writer, small_model: Model
) -> None:
    content = write_gguf(*small_model())
    path = save(content[:-40])
    with pytest.raises(ModelFileDamaged) as damage:
        read_card(path)
    end, size = f"{len(content):,}", f"{len(content) - 40:,}"
    assert str(damage.value).endswith(
        f"model.gguf: tensor blk.1.ffn_down.weight ends at {end}, past the file's {size} bytes; "
        "the download is incomplete, fetch it again"
    )


def big_endian(content: bytes) -> bytes:
    return content[:4] + struct.pack(">I", 3) + content[8:]


@pytest.mark.parametrize("where", ["tensors", "entries"])
@pytest.mark.parametrize("claimed", [2**60, 2**64 - 1, 10_000])
def test_absurd_counts_are_refused(
    save: Save, write_gguf: Writer, small_model: Model, where: str, claimed: int
) -> None:
    metadata, tensors = small_model()
    counts = (claimed, len(metadata)) if where == "tensors" else (len(tensors), claimed)
    with pytest.raises(ModelFileDamaged, match=f"{claimed:,}|needs|past|dimensions|long"):
        read_card(save(write_gguf(metadata, tensors, counts=counts)))


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": b"GGML"}, "is not a GGUF file"),
    "offset past the end": ({"offsets": {"output_norm.weight": 2**62}}, "past the file's"),
    "offset that overflows": ({"offsets": {"output_norm.weight": 2**64 - 32}}, "past the file's"),
    "overlap": ({"offsets": {"output_norm.weight": 0}}, "overlap"),
    "misaligned": ({"offsets": {"output_norm.weight": 33}}, "not aligned"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_file_is_refused(save: Save, write_gguf: Writer, small_model: Model, lie: str) -> None:
    changes, message = LIES[lie]
    with pytest.raises(ModelFileDamaged, match=message):
        read_card(save(write_gguf(*small_model(), **changes)))


METADATA_LIES: dict[str, tuple[Any, str]] = {
    "string past the end": (struct.pack("<IQ", 8, 2**63), "past the file's"),
    "array of numbers past the end": (struct.pack("<IIQ", 9, 10, 2**61), "past the file's"),
    "array of strings past the end": (struct.pack("<IIQ", 9, 8, 2**60), "strings of metadata zz takes at least"),
    "array of strings that runs out": (struct.pack("<IIQQ", 9, 8, 2, 2**60), "past the file's"),
    "unknown type": (struct.pack("<I", 77), "unknown value type 77"),
    "array of an unknown type": (struct.pack("<IIQ", 9, 77, 1), "unknown value type 77"),
    "boolean of value 2": (struct.pack("<IB", 7, 2), "boolean of value 2"),
}


@pytest.mark.parametrize("lie", METADATA_LIES)
def test_a_lie_in_the_metadata_is_refused(save: Save, write_gguf: Writer, small_model: Model, lie: str) -> None:
    raw, message = METADATA_LIES[lie]
    metadata, tensors = small_model(zz=raw)
    with pytest.raises(ModelFileDamaged, match=message):
        read_card(save(write_gguf(metadata, tensors)))


def test_nested_arrays_are_refused_without_following_them(save: Save, write_gguf: Writer, small_model: Model) -> None:
    deep = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000
    with pytest.raises(ModelNotUnderstood, match="array of arrays"):
        read_card(save(write_gguf(*small_model(zz=deep))))


@pytest.mark.parametrize("alignment", [0, 3, 2**31, "32", True])
def test_a_bad_alignment_is_refused(save: Save, write_gguf: Writer, small_model: Model, alignment: Any) -> None:
    metadata, tensors = small_model(general__alignment=alignment)
    with pytest.raises(ModelFileDamaged, match="power of two"):
        read_card(save(write_gguf(metadata, tensors)))


def test_another_alignment_is_followed(save: Save, write_gguf: Writer, small_model: Model) -> None:
    metadata, tensors = small_model(general__alignment=4096)
    assert read_gguf(save(write_gguf(metadata, tensors, alignment=4096))).data_offset == 4096


def test_duplicate_names_are_refused(save: Save, write_gguf: Writer, small_model: Model) -> None:
    metadata, tensors = small_model()
    with pytest.raises(ModelFileDamaged, match="two tensors are named"):
        read_card(save(write_gguf(metadata, [*tensors, tensors[0]])))
    doubled = write_gguf({"a": 1, "b": 2}, []).replace(b"\x01" + bytes(7) + b"b", b"\x01" + bytes(7) + b"a")
    with pytest.raises(ModelFileDamaged, match="there twice"):
        read_gguf(save(doubled))


@pytest.mark.parametrize("version", [0, 1, 4, 2**31])
def test_other_versions_are_not_understood(save: Save, write_gguf: Writer, small_model: Model, version: int) -> None:
    with pytest.raises(ModelNotUnderstood, match=f"version {version}"):
        read_card(save(write_gguf(*small_model(), version=version)))


def test_big_endian_files_are_refused_by_that_name(save: Save, write_gguf: Writer, small_model: Model) -> None:
    with pytest.raises(ModelNotUnderstood, match="big-endian"):
        read_card(save(big_endian(write_gguf(*small_model()))))


def test_unknown_tensor_types_and_impossible_shapes_are_refused(
    save: Save, write_gguf: Writer, small_model: Model
) -> None:
    metadata, tensors = small_model()
    content = write_gguf(metadata, tensors)
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight")
    with pytest.raises(ModelNotUnderstood, match="ggml type 5000"):
        read_card(save(content[: at + 20] + struct.pack("<I", 5000) + content[at + 24 :]))
    with pytest.raises(ModelFileDamaged, match="4,000,000,000 dimensions"):
        read_card(save(content[:at] + struct.pack("<I", 4_000_000_000) + content[at + 4 :]))
    for extent in (0, 33, 2**63):
        with pytest.raises(ModelFileDamaged, match=r"shape|past the file's"):
            read_card(save(content[: at + 4] + struct.pack("<Q", extent) + content[at + 12 :]))


@pytest.mark.parametrize("content", [b"", b"G", b"GGUF", b"\x7fELF" + bytes(100)])
def test_what_is_no_model_is_damaged(save: Save, content: bytes) -> None:
    with pytest.raises(ModelFileDamaged):
        read_card(save(content))


def test_a_missing_file_and_a_folder_are_our_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read_card(tmp_path / "none.gguf")
    with pytest.raises(ModelError):
        read_card(tmp_path)


def test_messages_are_one_line_even_for_hostile_names(save: Save, write_gguf: Writer, small_model: Model) -> None:
    metadata, tensors = small_model()
    hostile = [("evil\nname\x1b[31m", (64,), "f32"), *tensors]
    with pytest.raises(ModelFileDamaged) as damage:
        read_card(save(write_gguf(metadata, hostile, offsets={"evil\nname\x1b[31m": 2**60})))
    assert str(damage.value).isprintable()


# Split models --------------------------------------------------------------------------------------------


def split(folder: Path, write: Writer, model: Model, *, promised: int | None = None) -> list[Path]:
    metadata, tensors = model()
    halves = [tensors[:10], tensors[10:]]
    paths = []
    for number, half in enumerate(halves):
        facts = {"split.no": number, "split.count": 2, "split.tensors.count": promised or len(tensors)}
        path = folder / f"big-{number + 1:05d}-of-00002.gguf"
        path.write_bytes(write({**(metadata if number == 0 else {}), **facts}, half))
        paths.append(path)
    return paths


@pytest.mark.parametrize("given", [0, 1])
def test_a_split_model_is_read_from_any_part(
    tmp_path: Path, write_gguf: Writer, small_model: Model, given: int
) -> None:
    paths = split(tmp_path, write_gguf, small_model)
    card = read_card(paths[given])
    assert card.path == paths[0]
    assert card.files == tuple(paths)
    assert [tensor.name for tensor in card.tensors] == [name for name, _, _ in small_model()[1]]
    assert card.file_bytes == sum(path.stat().st_size for path in paths)


def test_a_missing_part_is_named(tmp_path: Path, write_gguf: Writer, small_model: Model) -> None:
    paths = split(tmp_path, write_gguf, small_model)
    paths[1].unlink()
    with pytest.raises(ModelNotFound, match=r"big-00002-of-00002\.gguf: part 2 of 2"):
        read_card(paths[0])


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, write_gguf: Writer, small_model: Model) -> None:
    paths = split(tmp_path, write_gguf, small_model, promised=99)
    with pytest.raises(ModelFileDamaged, match="promises 99 tensors"):
        read_card(paths[0])
    paths = split(tmp_path, write_gguf, small_model)
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(ModelFileDamaged, match="holds part 0"):
        read_card(paths[0])
    alone = tmp_path / "renamed.gguf"
    paths[0].rename(alone)
    with pytest.raises(ModelFileDamaged, match="one of 2 parts"):
        read_card(alone)


# Anything at all -----------------------------------------------------------------------------------------


def survives(path: Path, content: bytes) -> None:
    """Reading ``content`` gives a card or one of our errors in one line, and takes little memory either way."""
    path.write_bytes(content)
    tracemalloc.start()
    refusal = refusal_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in refusal
    assert peak < 64 * len(content) + (1 << 20)


def refusal_of(path: Path) -> str:
    """Return why ``path`` was refused, nothing if it was read; what is no error of ours passes through."""
    try:
        read_card(path)
    except ModelError as error:
        return str(error)
    return ""


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_cleanly(tmp_path: Path, content: bytes) -> None:
    survives(tmp_path / "model.gguf", content)
    survives(tmp_path / "model.gguf", b"GGUF\x03\0\0\0" + content)


@FUZZ
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)), max_size=4),
    st.floats(0, 1),
)
def test_mutated_files_are_read_or_refused(
    tmp_path: Path, write_gguf: Writer, small_model: Model, edits: list[tuple[float, bytes]], keep: float
) -> None:
    content = bytearray(write_gguf(*small_model()))
    header = content.index(bytes(64))
    for where, new in edits:
        at = int(where * header)
        content[at : at + len(new)] = new
    survives(tmp_path / "model.gguf", bytes(content))
    survives(tmp_path / "model.gguf", bytes(content[: int(keep * len(content))]))


def test_the_real_model_with_flipped_bytes_is_read_or_refused(tmp_path: Path, real_model: Path) -> None:
    size = real_model.stat().st_size
    with real_model.open("rb") as file:
        header = bytearray(file.read(read_gguf(real_model).data_offset))
    dice = random.Random(0)
    interesting = [*range(2048), *range(len(header) - 16_000, len(header))]  # the metadata and the tensor table
    path = tmp_path / "model.gguf"
    for _ in range(60):
        mutated = bytearray(header)
        for _ in range(dice.randint(1, 3)):
            mutated[dice.choice(interesting)] = dice.randrange(256)
        path.write_bytes(mutated)
        with path.open("r+b") as file:
            file.truncate(size)
        assert "\n" not in refusal_of(path)


def test_the_real_model_says_what_it_is(real_model: Path) -> None:
    card = read_card(real_model)
    assert (card.arch, card.layers, card.hidden, card.heads, set(card.kv_heads)) == ("llama", 30, 576, 9, {3})
    assert (card.key_length, card.value_length, card.feed_forward, card.vocabulary) == (64, 64, 1536, 49152)
    assert (card.native_context, card.quantization, card.tokenizer, card.tied_output) == (8192, "Q4_1", "gpt2", True)
    assert card.rope is not None
    assert card.rope.base == 100_000
    assert card.parameters == 134_515_008
    assert card.chat_template is not None
