"""Words become pieces; what they do not touch stays bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.model.published import TINY
from tests.test_folder import WORDS, randomized

from bertsmith.config import BertConfig, CasingConfig, ModernBertConfig
from bertsmith.errors import DataError
from bertsmith.folder import Loaded, load_model, save_model
from bertsmith.interop.sentence_transformers import vector_defaults, write_sentence_folder
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.task_heads import BertForClassification, BertForTagging
from bertsmith.recipes.extend import extend
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

SPECIAL = ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
PIECES = (
    *SPECIAL,
    *WORDS[:-2],
    *LETTERS[1:],
    *(f"##{letter}" for letter in LETTERS if letter != "s"),
)
CONFIG = BertConfig.from_mapping(TINY.to_mapping() | {"vocab_size": len(PIECES)}, where="here")
MODERN = ModernBertConfig(
    vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=48, max_position_embeddings=64, local_attention=16,
)  # fmt: skip
ASKED = ["catsat", "Dogged", "the", "catsat", "runfar", "matted"]
NEW = ["catsat", "dogged", "runfar", "matted"]  # uncased, once, and not a piece before


def extended(
    model: Any, tmp_path: Path, words: list[str], **facts: Any
) -> tuple[Loaded, Loaded, dict[str, Any]]:
    save_model(tmp_path / "old", model, Tokenizer(Vocabulary(PIECES), CasingConfig()), facts)
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    result = extend(tmp_path / "old", tmp_path / "words.txt", tmp_path / "new")
    return load_model(tmp_path / "old"), load_model(tmp_path / "new"), result


@pytest.mark.parametrize(
    "model, facts",
    [
        (BertForPreTraining(CONFIG), {}),
        (BertForPreTraining(CONFIG, next_sentence=False), {}),
        (Bert(CONFIG), {}),
        (BertForClassification(CONFIG, 3), {"task": "classify", "labels": ["a", "b", "c"]}),
        (BertForTagging(CONFIG, 2), {"task": "tag", "labels": ["O", "B-X"]}),
        (ModernBertForPreTraining(MODERN), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_new_rows_are_means_and_all_else_is_as_it_was(
    model: Any, facts: dict[str, Any], tmp_path: Path
) -> None:
    old, new, _ = extended(randomized(model), tmp_path, ASKED, **facts)
    before, after = old.model.state_dict(), new.model.state_dict()
    assert before.keys() == after.keys() and type(new.model) is type(old.model)
    by_piece = 0
    for name, tensor in before.items():
        if not name.endswith(("pieces.weight", "masked.bias")):
            assert torch.equal(tensor, after[name]), name
            continue
        by_piece += 1
        touched = {new.tokenizer.vocabulary.ids[word] for word in NEW}
        for number in range(len(tensor)):
            if number not in touched:
                assert torch.equal(tensor[number], after[name][number])
        for word in NEW:
            parts = old.tokenizer.encode(word)
            expected = tensor[parts].double().mean(0).float()
            found = after[name][new.tokenizer.vocabulary.ids[word]]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert by_piece >= 1
    assert {name: new.facts[name] for name in facts} == facts


def test_unused_slots_are_taken_first_and_rows_are_appended_then(tmp_path: Path) -> None:
    _, new, result = extended(BertForPreTraining(CONFIG), tmp_path, ASKED)
    pieces = new.tokenizer.vocabulary.pieces
    assert pieces[1:3] == ("catsat", "dogged") and pieces[len(PIECES) :] == ("runfar", "matted")
    assert new.config.vocab_size == len(PIECES) + 2 == result["vocab_size"]
    assert (result["added"], result["unused_slots"], result["known"]) == (4, 2, 1)
    assert result["pieces_per_word_before"] > result["pieces_per_word_after"] == 1.0


def test_spare_rows_of_a_model_are_used_before_it_grows(tmp_path: Path) -> None:
    config = BertConfig.from_mapping(CONFIG.to_mapping() | {"vocab_size": 128}, where="here")
    _, new, result = extended(BertForPreTraining(config), tmp_path, ASKED)
    assert result["vocab_size"] == new.config.vocab_size == 128


def test_the_written_tokenizer_is_the_one_of_transformers(tmp_path: Path) -> None:
    old, new, _ = extended(BertForPreTraining(CONFIG), tmp_path, ASKED)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    for text in ("The catsat dogged runfar", "CATSAT, matted!", "dogs ran far", "catsats undogged"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == new.tokenizer.encode(text)
    for text in ("the dogs ran", "a cat on mat"):
        assert new.tokenizer.encode(text) == old.tokenizer.encode(text)
    model, report = transformers.BertForPreTraining.from_pretrained(
        tmp_path / "new", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.config.vocab_size == new.config.vocab_size


def test_words_of_unknown_characters_are_counted(tmp_path: Path) -> None:
    _, new, result = extended(BertForPreTraining(CONFIG), tmp_path, ["кот"])
    assert result["unknown_before"] == 1
    ids, weight = new.tokenizer.vocabulary.ids, new.model.state_dict()
    table = weight["encoder.embeddings.pieces.weight"]
    assert torch.equal(table[ids["кот"]], table[ids["[UNK]"]])


@pytest.mark.parametrize(
    "line, said",
    [
        ("two words", "is read as 2 words"),
        ("e-mail", r"is read as 3 words \(e - mail\)"),
        ("\u200d", "is read as 0 words"),
        ("x" * 101, "has 101 characters"),
    ],
)
def test_a_line_that_is_not_one_word_is_named(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"words\.txt:2: .*{said}"):
        extended(BertForPreTraining(CONFIG), tmp_path, ["fine", line])


def test_an_extended_sentence_encoder_is_pooled_as_before(tmp_path: Path) -> None:
    save_model(tmp_path / "m", Bert(CONFIG), Tokenizer(Vocabulary(PIECES), CasingConfig()), {})
    write_sentence_folder(load_model(tmp_path / "m"), tmp_path / "s", pooling="cls", normalize=True)
    (tmp_path / "s" / "bertsmith.json").unlink()
    (tmp_path / "words.txt").write_text("catsat")
    extend(tmp_path / "s", tmp_path / "words.txt", tmp_path / "new")
    assert vector_defaults(load_model(tmp_path / "new").facts) == ("cls", True)


def test_a_file_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no word"):
        extended(BertForPreTraining(CONFIG), tmp_path, ["", "  "])
