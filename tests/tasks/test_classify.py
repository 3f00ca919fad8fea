"""Labels are learnt in one order, and what does not fit is named before training."""

from __future__ import annotations

import pytest
import torch

from bertsmith.errors import CheckpointError, DataError
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.labelled import Example


def rows(*labels: str) -> list[Example]:
    return [Example(f"train.csv:{n}", "text", None, label) for n, label in enumerate(labels, 2)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("spam", "ham", "spam"), ("ham", "spam")),
        (("10", "9", "-1", "10"), ("-1", "9", "10")),
        (("0.5", "0.25", "1.5"), ("0.25", "0.5", "1.5")),
        (("1.0", "0.0", "1"), ("0", "1")),
        (("1.0", "1.1", "2.0"), ("1.0", "1.1", "2.0")),  # versions, not whole numbers
        (("007", "7"), ("007", "7")),
        (("NA", "nan", "None"), ("NA", "None", "nan")),
    ],
)
def test_labels_have_one_order_whatever_that_of_the_rows(
    labels: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert Classify.learn(rows(*labels)).labels == expected
    assert Classify.learn(rows(*reversed(labels))).labels == expected


def test_one_and_one_point_zero_are_the_same_label_and_that_is_said() -> None:
    examples = rows("1.0", "0.0", "1.0")
    task = Classify.learn(examples)
    assert [task.encode(example) for example in rows("1", "1.0", "0", "0.0")] == [1, 1, 0, 0]
    assert task.said(examples) == "2 labels: 0 (1 rows), 1 (2 rows); 0.0, 1.0 read as whole numbers"


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "holds no rows"),
        (rows("a", "a"), "all 2 training rows have the label 'a'; expected two"),
        (rows(*[str(n / 10) for n in range(30)] * 9), "numbers such as 0.0; .* task regress"),
        (rows(*(f"id{n}" for n in range(50))), "50 different labels; .*--label-column"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(examples: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Classify.learn(examples)


def test_a_label_unseen_in_training_is_named_with_its_row() -> None:
    task = Classify(("negative", "positive"))
    with pytest.raises(
        DataError, match="train.csv:2: the label 'positiv' .*did you mean 'positive'"
    ):
        task.encode(rows("positiv")[0])


def test_what_a_folder_remembers_makes_the_same_task() -> None:
    task = Classify(("a", "b"))
    assert Classify.from_facts(task.facts()) == task
    with pytest.raises(CheckpointError, match="labels are None"):
        Classify.from_facts({})


def test_logits_become_the_likeliest_label_and_probabilities_that_sum_to_one() -> None:
    logits = torch.randn(5, 3)
    task = Classify(("a", "b", "c"))
    for row, found in zip(logits, task.decode(logits), strict=True):
        assert found.answer == "abc"[int(row.argmax())]
        assert list(found.probabilities) == ["a", "b", "c"]
        assert sum(found.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
        torch.testing.assert_close(torch.tensor(list(found.probabilities.values())), row.softmax(0))


def test_predictions_are_scored_by_label() -> None:
    task = Classify(("no", "yes"))
    predictions = task.decode(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    scores = task.score(rows("no", "no", "yes"), predictions)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx(2 / 3)
