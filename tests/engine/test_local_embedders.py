"""Embedders by libraries: a model made here is read from its folder and told from others, nothing is fetched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quietmind.base.errors import EngineError, EngineMissing, EngineStartFailed, ModelNotFound, UsageError
from quietmind.engine.embedders import fastembed, sentence_transformers
from quietmind.engine.embedders.fastembed import FastEmbed
from quietmind.engine.embedders.local import digest_of, folder_of, offline, plain
from quietmind.engine.embedders.prefixes import Prefixes, prefixes_said
from quietmind.engine.embedders.sentence_transformers import SentenceTransformers

# The libraries' own: torch warns of what it does itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":", "насос", "pump", "ёлка", "a", "b"]
MADE = [
    pytest.param("sentence-transformers", marks=pytest.mark.skipif(
        not sentence_transformers.installed(), reason="the extra `sentence-transformers` is not installed")),
    pytest.param("fastembed", marks=pytest.mark.skipif(
        not fastembed.installed(), reason="the extra `fastembed` is not installed")),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIETMIND_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path / "cache"))


def _tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    around = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.post_processor = around
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def _modules(folder: Path, prompts: dict[str, str] | None) -> None:
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))


def _bert(folder: Path, seed: int) -> None:
    """Write random weights of two layers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **small)
    transformers.BertModel(config).save_pretrained(folder)


def _onnx(folder: Path, seed: int) -> None:
    """Write a model that gives each token a random vector of its own."""
    onnx = pytest.importorskip("onnx")
    table = np.random.default_rng(seed).standard_normal((len(WORDS), 16)).astype(np.float32)
    ids = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, ["b", "t"]) for n in ("input_ids",)]
    out = onnx.helper.make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, ["b", "t", 16])
    node = onnx.helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = onnx.helper.make_graph([node], "g", ids, [out], [onnx.numpy_helper.from_array(table, "table")])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(folder / "model.onnx"))
    (folder / "config.json").write_text(json.dumps({"hidden_size": 16}))


def made(kind: str, folder: Path, seed: int = 0, prompts: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True)
    _tokenizer(folder)
    _modules(folder, prompts)
    (_bert if kind == "sentence-transformers" else _onnx)(folder, seed)
    return folder


def opened(kind: str, model: Path | str) -> Any:
    return (SentenceTransformers if kind == "sentence-transformers" else FastEmbed)(str(model))


@pytest.mark.parametrize("kind", MADE)
class TestLibraries:
    def test_texts_have_vectors_of_length_1_whatever_stands_beside_them(self, kind: str, tmp_path: Path) -> None:
        embedder = opened(kind, made(kind, tmp_path / "m"))
        texts = ["насос pump " * n for n in (9, 1, 4)] + ["ёлка", "", "\0", "a\0b", "\ud800", "🤖" * 90, "a " * 3000]
        vectors = embedder.passages(texts)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(texts), embedder.dimensions) == (len(texts), 16)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)
        alone = np.vstack([embedder.passages([text]) for text in texts])
        assert vectors == pytest.approx(alone, abs=1e-4)
        assert embedder.passages([]).shape == (0, 16)

    def test_a_model_is_told_a_query_from_a_passage_as_it_asks_itself(self, kind: str, tmp_path: Path) -> None:
        prompts = {"query": "a : ", "document": "b : "}
        asking = opened(kind, made(kind, tmp_path / "m", prompts=prompts))
        bare = opened(kind, made(kind, tmp_path / "n"))
        assert asking.query("pump") == pytest.approx(bare.query("a : pump"), abs=1e-5)
        assert asking.passages(["pump"])[0] == pytest.approx(bare.passages(["b : pump"])[0], abs=1e-5)
        assert asking.digest != bare.digest
        e5 = opened(kind, made(kind, tmp_path / "some-e5-small"))
        assert e5.query("pump") == pytest.approx(bare.query("query : pump"), abs=1e-5)
        assert e5.passages(["pump"])[0] == pytest.approx(bare.passages(["passage : pump"])[0], abs=1e-5)

    def test_other_weights_are_another_identity_and_another_place_is_not(self, kind: str, tmp_path: Path) -> None:
        one, same, other = (made(kind, tmp_path / name, seed) for name, seed in (("1", 1), ("same", 1), ("2", 2)))
        assert opened(kind, one).digest == opened(kind, same).digest
        assert opened(kind, one).digest != opened(kind, other).digest

    def test_its_name_opens_it_from_any_folder(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made(kind, tmp_path / "m")
        monkeypatch.chdir(tmp_path)
        name = opened(kind, "m").name
        assert name == f"{kind}:{tmp_path / 'm'}"
        monkeypatch.chdir("/")
        assert opened(kind, name.partition(":")[2]).name == name

    def test_what_is_below_our_models_folder_goes_by_its_name(self, kind: str, tmp_path: Path) -> None:
        name = "owner/name" if kind == "sentence-transformers" else "BAAI/bge-small-en-v1.5"
        folder = made(kind, tmp_path / "models" / name)
        if kind == "fastembed":  # it knows where the weights of its models lie
            (folder / "model.onnx").rename(folder / "model_optimized.onnx")
        assert opened(kind, name).name == f"{kind}:{name}"

    def test_a_model_that_is_not_here_is_not_fetched(self, kind: str) -> None:
        with pytest.raises(ModelNotFound, match="name their folder") as raised:
            opened(kind, "intfloat/multilingual-e5-large")
        assert "models/intfloat/multilingual-e5-large" in str(raised.value)

    @pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "1_Pooling/config.json", "weights"])
    @pytest.mark.parametrize("content", [b"", b"\0\1 no JSON", b"[]"])
    def test_a_damaged_model_is_one_of_our_errors(self, kind: str, tmp_path: Path, file: str, content: bytes) -> None:
        folder = made(kind, tmp_path / "m")
        weights = "model.safetensors" if kind == "sentence-transformers" else "model.onnx"
        (folder / file.replace("weights", weights)).write_bytes(content)
        with pytest.raises(EngineError) as raised:
            opened(kind, folder)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("kind", MADE[:1])
def test_code_that_comes_with_a_model_is_not_run(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path / "m")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "mine.Module"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EngineStartFailed, match=r"code of its own \(mine.Module\)"):
        opened(kind, folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", MADE[:1])
def test_how_tokens_become_a_vector_is_not_guessed(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path / "m")
    (folder / "modules.json").unlink()
    with pytest.raises(EngineStartFailed, match=r"holds no modules\.json"):
        opened(kind, folder)


@pytest.mark.parametrize("kind", MADE[1:])
def test_pooling_that_is_not_said_is_not_guessed(kind: str, tmp_path: Path) -> None:
    folder = made(kind, tmp_path / "m")
    for said in ({"pooling_mode": "max"}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, {}):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
        with pytest.raises(EngineStartFailed, match="which one of mean, cls and lasttoken"):
            opened(kind, folder)
    with pytest.raises(UsageError, match="no model of fastembed"):
        opened(kind, "nobody/knows-it")


@pytest.mark.skipif(sentence_transformers.installed(), reason="sentence-transformers is installed")
def test_without_the_library_sentence_transformers_says_how_to_install_it() -> None:
    with pytest.raises(EngineMissing, match=r"pip install 'quietmind\[sentence-transformers\]'"):
        SentenceTransformers("owner/name")


@pytest.mark.skipif(fastembed.installed(), reason="fastembed is installed")
def test_without_the_library_fastembed_says_how_to_install_it() -> None:
    with pytest.raises(EngineMissing, match=r"pip install 'quietmind\[fastembed\]'"):
        FastEmbed("owner/name")


def test_a_digest_is_of_weights_and_configurations_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(20 << 20))
    (tmp_path / "config.json").write_text("{}")
    digest = digest_of(tmp_path, "a")
    (tmp_path / "README.md").write_text("about it")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same for another library")
    assert digest_of(tmp_path, "a") == digest
    assert digest_of(tmp_path, "b") != digest
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(15 << 20)
        file.write(b"\1" * (1 << 20))
    assert digest_of(tmp_path, "a") != digest


def test_what_a_model_says_of_prompts_goes_before_what_its_name_tells() -> None:
    assert prefixes_said({"prompts": {"query": "q: ", "passage": "p: "}}, "e5-small") == Prefixes("q: ", "p: ")
    assert prefixes_said({"prompts": {"query": "", "document": ""}}, "e5-small") == Prefixes("query: ", "passage: ")
    nothings: list[object] = [None, [], {}, {"prompts": None}, {"prompts": []}]
    for nothing in nothings:
        assert prefixes_said(nothing, "e5-small") == Prefixes("query: ", "passage: ")


def test_a_folder_is_found_by_path_and_below_our_models(tmp_path: Path) -> None:
    assert folder_of("owner/name") is None
    (tmp_path / "models" / "owner" / "name").mkdir(parents=True)
    assert folder_of("owner/name") == (tmp_path / "models" / "owner" / "name").resolve()
    assert folder_of(str(tmp_path)) == tmp_path.resolve()


def test_being_offline_ends_with_the_block() -> None:
    before = dict(os.environ)
    with offline(3):
        assert (os.environ["HF_HUB_OFFLINE"], os.environ["OMP_NUM_THREADS"]) == ("1", "3")
    assert dict(os.environ) == before


def test_any_text_becomes_one_that_tokenizers_take() -> None:
    assert plain(["a\0b", "\ud800", "ё"]) == ["a b", "?", "ё"]
