"""Labels are learnt in one order, and what does not fit is named before training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight

from bertsmith.config import TaskConfig
from bertsmith.data.framing import Framed
from bertsmith.errors import CheckpointError, ConfigError, DataError
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Features, Prediction
from bertsmith.tasks.labelled import Example

NOTHING = Features(())


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
    assert Classify.learn(rows(*labels), TaskConfig()).labels == expected
    assert Classify.learn(rows(*reversed(labels)), TaskConfig()).labels == expected


def test_one_and_one_point_zero_are_the_same_label_and_that_is_said() -> None:
    examples = rows("1.0", "0.0", "1.0")
    task = Classify.learn(examples, TaskConfig())
    assert [task.target(example, NOTHING) for example in rows("1", "1.0", "0", "0.0")] == [
        (1,),
        (1,),
        (0,),
        (0,),
    ]
    assert task.said(examples) == "2 labels: 0 (1 rows), 1 (2 rows); 0.0, 1.0 read as whole numbers"


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "holds no rows"),
        (rows("a", ""), "train.csv:3: the label is empty"),
        (rows("a", "a"), "all 2 training rows have the label 'a'; expected two"),
        (rows(*[str(n / 10) for n in range(30)] * 9), "numbers such as 0.0; .* task regress"),
        (rows(*(f"id{n}" for n in range(50))), "50 different labels; .*--label-column"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(examples: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Classify.learn(examples, TaskConfig())


def test_a_label_unseen_in_training_is_named_with_its_row() -> None:
    task = Classify(("negative", "positive"))
    with pytest.raises(
        DataError, match="train.csv:2: the label 'positiv' .*did you mean 'positive'"
    ):
        task.target(rows("positiv")[0], NOTHING)


def test_what_a_folder_remembers_makes_the_same_task() -> None:
    task = Classify(("a", "b"))
    assert Classify.from_facts(task.facts()) == task
    with pytest.raises(CheckpointError, match="labels are None"):
        Classify.from_facts({})


def test_logits_become_the_likeliest_label_and_probabilities_that_sum_to_one() -> None:
    logits = torch.randn(5, 3)
    task = Classify(("a", "b", "c"))
    for row in logits:
        found = task.decode(rows("a")[0], NOTHING, [row])
        assert found.answer == "abc"[int(row.argmax())]
        assert list(found.probabilities) == ["a", "b", "c"]
        assert sum(found.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
        torch.testing.assert_close(torch.tensor(list(found.probabilities.values())), row.softmax(0))


def test_predictions_are_scored_by_label() -> None:
    task = Classify(("no", "yes"))
    scorer = task.scorer()
    said = [("no", 0.1), ("yes", 0.9), ("yes", 0.7)]
    for example, (answer, share) in zip(rows("no", "no", "yes"), said, strict=True):
        scorer.add(example, Prediction(answer, {"no": 1 - share, "yes": share}))
    scores = scorer.scores()
    # Of the two in the bin of 0.9 one is right; the third by itself is said with 0.7 and right.
    assert scores["ece"] == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.7 - 1)) / 3)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx(2 / 3)


SEVERAL = TaskConfig(multi_label=True, label_separator=" ")


def test_several_labels_of_a_row_are_learnt_and_told_apart() -> None:
    examples = rows("red blue", "", "blue", "green blue")
    task = Classify.learn(examples, SEVERAL)
    assert task.labels == ("blue", "green", "red")
    targets = [task.target(example, NOTHING) for example in examples]
    assert targets == [(2, 0), (), (0,), (1, 0)]
    found = task.decode(examples[0], NOTHING, [torch.tensor([2.0, -1.0, 0.5])])
    assert found.answer == ["blue", "red"]
    assert list(found.probabilities.values()) == pytest.approx(
        torch.tensor([2.0, -1.0, 0.5]).sigmoid().tolist()
    )
    assert (
        task.said(examples)
        == "3 labels: blue (3 rows), green (1 rows), red (1 rows); 1 rows have none"
    )
    assert Classify.from_facts(task.facts()).options == SEVERAL


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    wanted, predicted = generator.integers(0, 2, (2, 50, 3))
    labels = ("a", "b", "c")
    task = Classify(labels, SEVERAL)
    scorer = task.scorer()
    shares = generator.random((50, 3))
    for right, found, sure in zip(wanted, predicted, shares, strict=True):
        spelt = [
            [label for label, has in zip(labels, row, strict=True) if has] for row in (right, found)
        ]
        told = dict(zip(labels, sure, strict=True))
        scorer.add(Example("", "text", None, " ".join(spelt[0])), Prediction(spelt[1], told))
    expected = {
        f"f1_{average}": f1_score(wanted, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "samples")
    }
    scores = scorer.scores()
    assert scores.pop("ece") == pytest.approx(calibration_error(shares.ravel(), wanted.ravel()))
    assert scores == expected | {"accuracy": accuracy_score(wanted, predicted)}


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def calibration_error(shares: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Returns what Guo et al. 2017 have as equation 3, bin by bin."""
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (shares > low) & (shares <= low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(shares[inside].mean() - right[inside].mean())
    return total


def test_class_weights_are_those_of_scikit_learn_and_reach_the_loss() -> None:
    labels = ["a"] * 6 + ["b"] * 2 + ["c"]
    task = Classify.learn(rows(*labels), TaskConfig(class_weights="balanced"))
    expected = compute_class_weight("balanced", classes=np.array(task.labels), y=labels)
    assert task.weights == pytest.approx(expected.tolist())
    text = Features((Framed(np.array([1, 2], np.int32), np.zeros(2, np.int32), False),))
    batch = task.collate([text, text], [(2,), (0,)])
    assert batch["label_weights"].tolist() == pytest.approx([expected[2], expected[0]])


def test_windows_of_one_text_count_as_one_row_and_are_pooled() -> None:
    task = Classify(("a", "b"))
    part = Framed(np.array([1, 2], np.int32), np.zeros(2, np.int32), False)
    batch = task.collate([Features((part,)), Features((part, part))], [(0,), (1,)])
    assert batch["labels"].tolist() == [0, 1, 1]
    assert batch["label_weights"].tolist() == [1.0, 0.5, 0.5]
    outputs = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])]
    found = task.decode(rows("a")[0], Features((part, part)), outputs)
    assert found.answer == "b"
    assert found.probabilities["b"] == pytest.approx(torch.tensor([0.5, 1.5]).softmax(0)[1].item())


def dev_rows(
    labels: list[str], logits: torch.Tensor
) -> list[tuple[Example, Features, list[torch.Tensor]]]:
    outputs = [[row] for row in logits]
    return list(zip(rows(*labels), [NOTHING] * len(labels), outputs, strict=True))


def test_dev_rows_make_the_task_less_sure_without_changing_an_answer() -> None:
    torch.manual_seed(0)
    logits = torch.randn(400, 2)
    labels = [
        "b" if share > draw else "a"
        for share, draw in zip(logits.softmax(1)[:, 1], torch.rand(400), strict=True)
    ]
    task = Classify(("a", "b"))
    tuned = task.tuned(dev_rows(labels, logits * 4))
    assert 3 < tuned.temperature < 5
    assert tuned.calibration is not None
    kept = [numpy_of((logits * 4 / one).softmax(1)) for one in (1, tuned.temperature)]
    right = np.array([label == "b" for label in labels]).astype(int)
    assert tuned.calibration == pytest.approx(
        [calibration_error(one.max(1), one.argmax(1) == right) for one in kept]
    )
    assert tuned.calibration[0] > 0.1 > 0.05 > tuned.calibration[1]
    for row in logits * 4:
        before, after = (
            task.decode(rows("a")[0], NOTHING, [row]),
            tuned.decode(rows("a")[0], NOTHING, [row]),
        )
        assert before.answer == after.answer
        assert max(after.probabilities.values()) < max(before.probabilities.values())
    assert Classify.from_facts(tuned.facts()) == tuned


def test_thresholds_give_dev_rows_a_better_f1_and_are_remembered() -> None:
    torch.manual_seed(0)
    logits = torch.randn(400, 2) - torch.tensor([0.0, 2.0])  # label b is rare
    labels = [
        "b" if share > draw else "a"
        for share, draw in zip(logits.softmax(1)[:, 1], torch.rand(400), strict=True)
    ]
    task = Classify.learn(rows("a", "b"), TaskConfig(tune_thresholds=True))
    assert task.chosen_by == "f1"
    results = dev_rows(labels, logits)
    tuned = task.tuned(results)
    scores = []
    for judge in (task, tuned):
        scorer = judge.scorer()
        for example, features, outputs in results:
            scorer.add(example, judge.decode(example, features, outputs))
        scores.append(scorer.scores()["f1"])
    assert scores[1] > scores[0]
    assert tuned.thresholds[0] < 0.5
    again = Classify.from_facts(tuned.facts())
    assert (again.thresholds, again.temperature) == (tuned.thresholds, tuned.temperature)


def test_each_of_several_labels_has_a_threshold_of_its_own() -> None:
    task = Classify(("blue", "red"), TaskConfig(multi_label=True, tune_thresholds=True))
    logits = torch.tensor([[2.0, -1.0], [-2.0, -1.5], [2.0, -3.0], [-2.0, -3.5], [2.5, -0.9]])
    tuned = task.tuned(dev_rows(["blue,red", "red", "blue", "", "red"], logits))
    assert tuned.thresholds[0] == 0.5
    assert tuned.thresholds[1] < 0.5
    answers = [tuned.decode(rows("")[0], NOTHING, [row]).answer for row in logits]
    assert answers == [["blue", "red"], ["red"], ["blue"], [], ["blue", "red"]]


def test_thresholds_are_for_labels_that_can_be_said_or_not() -> None:
    with pytest.raises(ConfigError, match="tune_thresholds is for two labels, .* one of 3"):
        Classify.learn(rows("a", "b", "c"), TaskConfig(tune_thresholds=True))


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"temperature": 0}, "temperature is 0; expected a number above 0"),
        ({"temperature": "warm"}, "temperature is 'warm'"),
        ({"calibration": {"ece": 0.1}}, "calibration is {'ece': 0.1}; expected the numbers"),
        ({"thresholds": ["low"]}, "thresholds are .*'low'.*; expected a list of numbers"),
        ({"thresholds": [0.1, 0.2]}, "2 thresholds for its 2 labels"),
    ],
)
def test_a_folder_that_remembers_other_than_numbers_is_refused(
    fact: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Classify.from_facts(Classify(("a", "b")).facts() | fact)
