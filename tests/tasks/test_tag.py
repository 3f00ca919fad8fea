"""A tagger learns tags in one scheme, answers in the user's, and tags every word once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.config import CasingConfig, ColumnsConfig, TaskConfig
from bertsmith.data.tagged import TaggedSentence
from bertsmith.errors import CheckpointError, ConfigError, DataError
from bertsmith.model.crf import Chain
from bertsmith.tasks.schemes import spans_of
from bertsmith.tasks.tag import Tag, TagTarget
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

LETTERS = "abcdefghijklmnop"
TOKENIZER = Tokenizer(
    Vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, "##a", "##b"]),
    CasingConfig(),
)
PLAIN = TaskConfig()


def sentences(*rows: str, **parts: Any) -> list[TaggedSentence]:
    """Returns sentences whose words are letters, with these tags."""
    found = []
    for number, row in enumerate(rows):
        tags = tuple(row.split())
        words = tuple(LETTERS[place] for place in range(len(tags)))
        found.append(
            TaggedSentence("a.txt", 9 * number + 1, words, tags, word_a_line=True, **parts)
        )
    return found


def outputs_of(task: Tag, sequences: Sequence[Any], choices: Sequence[int]) -> list[torch.Tensor]:
    """Returns logits that choose the same labels, in turn, for the tokens of each sequence."""
    width = len(task.labels) + len(task.intents)
    found = []
    for sequence in sequences:
        numbers = torch.tensor([choices[n % len(choices)] for n in range(len(sequence))])
        found.append(torch.nn.functional.one_hot(numbers, width).float())
    return found


def test_iob1_is_learnt_as_iob2_and_answered_as_iob1() -> None:
    rows = sentences("I-PER I-PER O I-LOC B-LOC", "O I-PER")
    task = Tag.learn(rows, PLAIN)
    assert (task.scheme, task.learnt, task.chosen_by) == ("iob1", "iob2", "f1")
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    features = task.features(rows[0], TOKENIZER, 16)
    target = task.target(rows[0], features)
    assert target == TagTarget((3, 4, 0, 1, 1), None)
    logits = torch.zeros(7, 5)
    logits[torch.arange(1, 6), torch.tensor(target.labels)] = 9.0
    found = task.decode(rows[0], features, [logits])
    assert found.answer == rows[0].tags
    assert task.said(rows) == (
        "2 sentences of 7 words; tags in the scheme iob1, learnt as iob2: 4 entities of 2 types, "
        "PER (2), LOC (2)"
    )


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes", "bmes", "bilou"])
def test_a_chosen_scheme_is_learnt_and_written(scheme: str) -> None:
    rows = sentences("B-X I-X I-X O B-Y", "B-X O")
    task = Tag.learn(rows, TaskConfig(tag_scheme=scheme))  # type: ignore[arg-type]
    assert task.scheme == task.learnt == scheme
    features = task.features(rows[0], TOKENIZER, 16)
    logits = torch.zeros(7, len(task.labels))
    labels = task.target(rows[0], features).labels
    logits[torch.arange(1, 6), torch.tensor(labels)] = 9.0
    found = task.decode(rows[0], features, [logits])
    assert spans_of(found.answer) == spans_of(rows[0].tags or ())
    if scheme == "bmes":
        assert found.answer == ("B-X", "M-X", "E-X", "O", "S-Y")


def test_tags_without_a_scheme_are_kept_and_scored_by_accuracy() -> None:
    rows = sentences("DT NN VB", "DT PRP$")
    task = Tag.learn(rows, PLAIN)
    assert (task.scheme, task.learnt, task.chosen_by) == (None, None, "accuracy")
    assert task.labels == ("DT", "NN", "PRP$", "VB")
    kept = Tag.learn(sentences("B-X I-X", "O I-X"), TaskConfig(tag_scheme="plain"))
    assert kept.labels == ("B-X", "I-X", "O") and kept.scheme is None
    assert task.said(rows) == (
        "2 sentences of 5 words; 4 tags that name no entities, DT (2), NN (1), VB (1), PRP$ (1)"
    )


def test_irregular_tags_and_empty_words_are_said() -> None:
    rows = sentences("B-X O", "B-X I-X", "I-X O")
    rows.append(TaggedSentence("a.txt", 30, ("a", "", "\u3000"), ("O", "O", "O")))
    said = Tag.learn(rows, PLAIN).said(rows)
    assert "2 words are empty" in said
    assert "1 sentences have tags that iob2 would not allow there, read as conlleval does" in said


any_word = st.one_of(
    st.text(LETTERS, min_size=1, max_size=4), st.sampled_from(["", "\u200b", "\ufe0f", " ", "ы"])
)


@given(
    st.lists(any_word, min_size=1, max_size=40),
    st.lists(st.integers(0, 4), min_size=1, max_size=20),
    st.integers(4, 20),
    st.sampled_from([None, "iob1", "bmes", "plain"]),
)
def test_as_many_tags_come_out_as_words_went_in(
    words: list[str], choices: list[int], max_length: int, scheme: Any
) -> None:
    task = Tag.learn(sentences("B-X I-X B-X O", "B-Y I-Y O O"), TaskConfig(tag_scheme=scheme))
    sentence = TaggedSentence("a", 1, tuple(words))
    features = task.features(sentence, TOKENIZER, max_length)
    found = task.decode(sentence, features, outputs_of(task, features.sequences, choices))
    bare = [not TOKENIZER.encode(word) for word in words]
    assert len(found.answer) == len(found.more["probabilities"]) == len(words)
    assert found.more["words_without_pieces"] == sum(bare)
    for tag, share, is_bare in zip(found.answer, found.more["probabilities"], bare, strict=True):
        assert (share is None) == is_bare
        assert tag == "O" or not is_bare


def test_probabilities_are_those_of_the_tags_that_the_model_gave() -> None:
    task = Tag.learn(sentences("B-X I-X O"), PLAIN)
    (sentence,) = sentences("O O O")
    features = task.features(sentence, TOKENIZER, 16)
    logits = torch.randn(5, 3)
    found = task.decode(sentence, features, [logits])
    expected = logits[1:4].double().softmax(1).max(1).values.tolist()
    assert found.more["probabilities"] == pytest.approx(expected)


JOINT = [
    TaggedSentence("a/seq.in", 1, ("a", "b"), ("O", "B-X"), "go"),
    TaggedSentence("a/seq.in", 2, ("c",), ("O",), "stop"),
    TaggedSentence("a/seq.in", 3, ("d", "e"), ("B-X", "I-X"), "stop"),
]


def test_tags_and_intents_are_learnt_together() -> None:
    task = Tag.learn(JOINT, PLAIN)
    assert task.intents == ("go", "stop") and task.chosen_by == "sentence_accuracy"
    assert [task.stratum(row) for row in JOINT] == ["go", "stop", "stop"]
    assert task.said(JOINT).endswith("; 2 intents, stop (2), go (1)")
    features = [task.features(row, TOKENIZER, 16) for row in JOINT]
    targets = [task.target(row, part) for row, part in zip(JOINT, features, strict=True)]
    assert [target.intent for target in targets] == [0, 1, 1]
    logits = torch.zeros(4, len(task.labels) + 2)
    logits[:, -1] = 3.0
    found = task.decode(JOINT[0], features[0], [logits])
    assert found.more["intent"] == "stop"
    assert found.more["intent_probability"] == pytest.approx(1 / (1 + np.exp(-3)))


def test_an_intent_is_told_by_the_mean_over_windows() -> None:
    task = Tag.learn(JOINT, PLAIN)
    long = TaggedSentence("a", 1, tuple("abcdefgh"), ("O",) * 8, "go")
    features = task.features(long, TOKENIZER, 8)
    assert len(features.sequences) == 2
    outputs = [torch.zeros(8, len(task.labels) + 2) for _ in range(2)]
    outputs[0][:, -2], outputs[1][:, -1] = 5.0, 4.0
    assert task.decode(long, features, outputs).more["intent"] == "go"


def test_a_batch_has_tags_at_first_pieces_and_an_intent_for_each_window() -> None:
    task = Tag.learn(JOINT, PLAIN)
    words = ("a", "bab", "\u200b", "c", "d", "e", "f")
    long = TaggedSentence("a", 1, words, ("O", "B-X", "I-X", "O", "O", "I-X", "O"), "stop")
    rows = [JOINT[0], long]
    features = [task.features(row, TOKENIZER, 8) for row in rows]
    assert [len(part.sequences) for part in features] == [1, 2]
    targets = [task.target(row, part) for row, part in zip(rows, features, strict=True)]
    batch = task.collate(features, targets)
    pieces = [TOKENIZER.vocabulary.pieces[number] for number in batch["piece_ids"]]
    tagged = zip(batch["label_positions"].tolist(), batch["labels"].tolist(), strict=True)
    found = [(pieces[place], task.labels[number]) for place, number in tagged]
    # The zero-width word has no piece.
    assert found == [
        ("a", "O"),
        ("b", "B-X"),
        ("a", "O"),
        ("b", "B-X"),
        ("c", "O"),
        ("d", "O"),
        ("e", "B-X"),
        ("f", "O"),
    ]
    assert batch["intent_labels"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("training", "row", "message"),
    [
        (
            "I-PER O I-LOC",
            "O I-LOK",
            r"a\.txt:2: the type of the tag 'I-LOK' of 'b' .*'LOC', 'PER'",
        ),
        ("B-X E-X O", "S-X S-Y", r"a\.txt:2: the type of the tag 'S-Y' of 'b' does not .*: 'X': "),
        (
            "DT NN",
            "DT VB DT",
            r"a\.txt:2: the tag 'VB' of 'b' does not .* known: 'DT', 'NN': spell",
        ),
        ("B I O", "B-X", r"a\.txt:1: the type of the tag 'B-X' of 'a' .* known: 'B', 'I', 'O'"),
    ],
)
def test_a_tag_that_training_has_not_is_refused_as_a_target(
    training: str, row: str, message: str
) -> None:
    task = Tag.learn(sentences(training), PLAIN)
    (example,) = sentences(row)
    with pytest.raises(DataError, match=message):
        task.target(example, task.features(example, TOKENIZER, 16))


def test_a_tag_of_a_known_type_is_no_unseen_one() -> None:
    task = Tag.learn(sentences("B-X O"), PLAIN)
    (example,) = sentences("O B-X I-X")
    target = task.target(example, task.features(example, TOKENIZER, 16))
    assert [task.labels[number] for number in target.labels] == ["O", "B-X", "I-X"]


def test_what_does_not_occur_in_training_is_missed_when_scored() -> None:
    task = Tag.learn(JOINT, PLAIN)
    row = TaggedSentence("dev", 1, ("a", "b"), ("B-Y", "O"), "other")
    features = task.features(row, TOKENIZER, 16)
    known = replace(row, tags=("B-X", "O"))
    assert task.target(known, features).intent is None  # the dev rows of ATIS have such
    scorer = task.scorer()
    choices = outputs_of(task, features.sequences, [0])
    scorer.add(row, task.decode(row, features, choices))
    scores = scorer.scores()
    assert (scores["accuracy"], scores["intent_accuracy"], scores["f1"]) == (0.5, 0.0, 0.0)
    assert (scores["words_of_unseen_tags"], scores["unseen_intents"]) == (1, 1)
    assert scorer.by_type()["Y"]["wanted"] == 1
    plain = Tag.learn(sentences("DT NN"), PLAIN)
    (row,) = sentences("DT VB")
    features = plain.features(row, TOKENIZER, 16)
    scorer = plain.scorer()
    scorer.add(row, plain.decode(row, features, outputs_of(plain, features.sequences, [0])))
    assert scorer.scores() == {"accuracy": 0.5, "words_of_unseen_tags": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no sentences"),
        (sentences("O O", "O"), "all words of 2 training sentences have the tag 'O'"),
        (sentences("NN NN"), "have the tag 'NN'; expected two tags or more"),
        (sentences("B-X O", "O B_X"), "a.txt:11: the tag 'B_X' of 'b' names no entity as others"),
        (
            [TaggedSentence("a.txt", n, ("a",), (f"w{n}",)) for n in range(600)],
            "600 different tags, as 'w1'; expected at most 512: name the right column",
        ),
        ([*JOINT, TaggedSentence("b", 7, ("a",), ("O",))], "b:7: has no intent; expected one"),
        (JOINT[1:], "all 2 training sentences have the intent 'stop'; expected two"),
    ],
)
def test_sentences_that_cannot_be_learnt_are_refused(
    rows: list[TaggedSentence], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Tag.learn(rows, PLAIN)


def test_a_later_tag_of_no_scheme_is_named_with_its_word() -> None:
    task = Tag.learn(sentences("B-X O"), PLAIN)
    (row,) = sentences("O O LOC")
    with pytest.raises(DataError, match=r"a\.txt:3: the tag 'LOC' of 'c' names no entity"):
        task.target(row, task.features(row, TOKENIZER, 16))
    with pytest.raises(DataError, match=r"a\.txt:1: the tag 'LOC'"):
        Tag.learn(sentences("LOC O"), TaskConfig(tag_scheme="iob2"))


@pytest.mark.parametrize(
    "options",
    [
        TaskConfig(class_weights="balanced"),
        TaskConfig(multi_label=True),
        TaskConfig(label_smoothing=0.1),
    ],
)
def test_options_of_other_tasks_are_refused(options: TaskConfig) -> None:
    with pytest.raises(ConfigError, match="is for the task classify"):
        Tag.learn(sentences("B-X O"), options)


def test_document_context_wants_documents() -> None:
    options = TaskConfig(document_context=True)
    for unmarked in (sentences("B-X O", "O"), sentences("B-X O", "O", document=0)):
        with pytest.raises(ConfigError, match="document_context is given, .* -DOCSTART- lines"):
            Tag.learn(unmarked, options)
    marked = sentences("B-X O", document=1) + sentences("O O", document=2)
    task = Tag.learn(marked, options)
    assert "2 documents" in task.said(marked)
    amid = TaggedSentence("a", 1, ("c",), ("O",), document=1, before=(("a", "b"),))
    assert len(task.features(amid, TOKENIZER, 16).sequences[0]) == 5


@pytest.mark.parametrize("rows", [JOINT, sentences("I-X B-X", "O"), sentences("DT NN")])
def test_what_a_folder_remembers_makes_the_same_task(rows: list[TaggedSentence]) -> None:
    task = Tag.learn(rows, TaskConfig(tag_scheme="bmes") if rows is JOINT else PLAIN)
    assert Tag.from_facts(json.loads(json.dumps(task.facts()))) == task


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O", "B-PER", "I-PER"], "iob2"),
        (["B-PER", "E-PER", "S-PER", "O"], "bioes"),
        (["NOUN", "VERB"], None),
        (["O", "B-PER", "LABEL_2"], None),
    ],
)
def test_a_foreign_folder_tells_its_scheme_by_its_labels(
    labels: list[str], scheme: str | None
) -> None:
    task = Tag.from_facts({"task": "tag", "labels": labels})
    assert (task.labels, task.scheme, task.learnt) == (tuple(labels), scheme, scheme)


def test_facts_that_are_none_are_named() -> None:
    with pytest.raises(CheckpointError, match="tags are None"):
        Tag.from_facts({})
    with pytest.raises(CheckpointError, match="scheme of tags is 'iob9'"):
        Tag.from_facts({"labels": ["O"], "scheme": "iob9", "learnt_scheme": "iob2"})


def test_a_file_is_read_with_the_columns_of_training(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("EU NNP B-ORG\nis VBZ O\n")
    source = Tag.read(tmp_path / "a.txt", ColumnsConfig(label_column="1"), None, labelled=True)
    assert source.said == "words from column '0', tags from column '1', of 3 parted by white space"
    again = Tag.read(tmp_path / "a.txt", ColumnsConfig(), source.facts, labelled=True)
    assert [row.tags for row in again.examples] == [("NNP", "VBZ")]


def test_windows_of_a_sentence_are_one_chain() -> None:
    """Training and decoding see its words in their order, whatever the windows they stand in."""
    rows = sentences("B-X I-X O B-Y", "O B-X")
    task = Tag.learn(rows, TaskConfig(crf=True))
    words = tuple(LETTERS[number % 16] for number in range(30)) + ("\u200b", "a")
    long = TaggedSentence("a.txt", 1, words, ("O", "B-X", "I-X", "O") * 8)
    features = [task.features(row, TOKENIZER, 12) for row in (long, rows[0])]
    assert len(features[0].sequences) > 2
    targets = [task.target(*pair) for pair in zip((long, rows[0]), features, strict=True)]
    batch = task.collate(features, targets)
    assert batch["sentence_lengths"].tolist() == [31, 4] and len(batch["labels"]) == 35
    assert "sentence_lengths" not in Tag.learn(rows, PLAIN).collate(features, targets)
    rng = np.random.default_rng(0)
    chain = Chain(rng.normal(size=(5, 5)), rng.normal(size=5), rng.normal(size=5))
    outputs = [torch.randn(len(part), 5) for part in features[0].sequences]
    places = zip(outputs, features[0].positions, strict=True)
    emissions = torch.cat([part[torch.from_numpy(firsts)] for part, firsts in places])
    scores = emissions.double().numpy()
    path = chain.best_path(scores)
    found = replace(task, chain=chain, scheme=None).decode(long, features[0], outputs)
    expected = [task.labels[number] for number in path]
    assert list(found.answer) == [*expected[:30], "O", expected[30]]
    shares = chain.marginals(scores)[np.arange(31), path].tolist()
    assert found.more["probabilities"] == [*shares[:30], None, shares[30]]
