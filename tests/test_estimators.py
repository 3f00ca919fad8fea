"""The estimators learn, are what scikit-learn's tools expect, and leave nothing behind."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from tests.estimator_checks import EXPECTED_TO_FAIL, ClassifierOnNumbers, RegressorOnNumbers
from tests.tiny import write_tiny_encoder

import bertsmith
from bertsmith import TextClassifier, TextRegressor, TokenTagger
from bertsmith.config import (
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
)
from bertsmith.errors import CheckpointError, ConfigError, DataError, NotFiniteError
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.recipes.finetuning.given_rows import texts_of

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FAST: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "max_length": 12,
    "threads": 1,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(
        tmp_path_factory.mktemp("encoder") / "model",
        LETTERS,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.3,
    )


def rows(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Returns texts of letters, and for each whether there is an `a` in it, as 7 or 3."""
    rng = Random(seed)
    texts, labels = [], []
    for _ in range(count):
        letters = rng.choices(LETTERS[2:], k=5)
        letters[rng.randrange(5)] = rng.choice("ab")
        texts.append(" ".join(letters))
        labels.append(7 if "a" in letters else 3)
    return texts, labels


@pytest.fixture(scope="module")
def fitted(encoder: Path) -> TextClassifier:
    return TextClassifier(encoder, **FAST).fit(*rows(240))


# ------------------------------------------------------------------------------------ fitting


def test_labels_come_back_as_they_were_given(fitted: TextClassifier) -> None:
    texts, labels = rows(100, seed=1)
    assert fitted.classes_.tolist() == [3, 7]
    assert fitted.predict(texts).dtype == np.int64
    assert fitted.score(texts, labels) > 0.9
    shares = fitted.predict_proba(texts)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (fitted.classes_[shares.argmax(axis=1)] == fitted.predict(texts)).all()
    odds = fitted.decision_function(texts)
    assert 1 / (1 + np.exp(-odds)) == pytest.approx(shares[:, 1])


@pytest.mark.parametrize(
    "labels", [["no", "yes"], [False, True], [1.0, 2.0], [-1, 10], ["10", "9"], ["a b", " x"]]
)
def test_any_labels_are_classes_in_their_own_order(encoder: Path, labels: list[Any]) -> None:
    texts, numbers = rows(240)
    y = [labels[number == 7] for number in numbers]
    classifier = TextClassifier(encoder, **FAST).fit(np.array(texts), y)
    assert (classifier.classes_ == np.unique(y)).all()
    assert classifier.score(texts, y) > 0.95
    assert set(classifier.predict(texts).tolist()) == set(labels)


def test_it_is_the_recipe_itself(encoder: Path, tmp_path: Path, fitted: TextClassifier) -> None:
    texts, labels = rows(240)
    lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    result = finetune(
        "classify",
        tmp_path / "train.csv",
        encoder,
        tmp_path / "run",
        FinetuneConfig(epochs=4, batch_size=16, max_length=12, threads=1),
        OptimizerConfig(learning_rate=1e-2),
    )
    model = bertsmith.load(tmp_path / "run/best")
    shares = [list(found.probabilities.values()) for found in model.predict(texts)]
    assert fitted.predict_proba(texts) == pytest.approx(np.array(shares), abs=0)
    assert fitted.dev_scores_ == result["scores"]


def test_every_default_is_that_of_the_recipe() -> None:
    given = TextClassifier().get_params()
    stages = (FinetuneConfig(), OptimizerConfig(), TaskConfig())
    usual = {name: value for stage in stages for name, value in stage.to_mapping().items()}
    given |= TokenTagger().get_params()
    own = {"model", "learning_rate", "verbose"}
    assert {name: usual[name] for name in given.keys() - own} == {
        name: given[name] for name in given.keys() - own
    }


def test_dev_rows_choose_the_epoch(encoder: Path) -> None:
    texts, labels = rows(64)
    wrong = [10 - label for label in labels]
    classifier = TextClassifier(encoder, **(FAST | {"epochs": 6}))
    classifier.fit(texts, labels, X_dev=texts, y_dev=wrong)
    assert classifier.best_epoch_ < 6  # the less that is learnt the better
    with pytest.raises(DataError, match=r"X_dev\[0\]: the label '8' does not occur in training"):
        classifier.fit(texts, labels, texts, [8] * 64)


def test_pairs_are_tuples_or_two_columns(encoder: Path, tmp_path: Path) -> None:
    texts, labels = rows(64)
    pairs = [(text, "x y") for text in texts]
    classifier = TextClassifier(encoder, **(FAST | {"epochs": 1})).fit(pairs, labels)
    assert classifier.n_features_in_ == 2
    found = classifier.predict_proba(np.array(pairs))
    assert (found == classifier.predict_proba(pairs)).all()
    with pytest.raises(DataError, match="holds a single text, but .* was trained on pairs"):
        classifier.predict(texts)
    with pytest.raises(DataError, match="one of X and X_dev holds pairs and one single texts"):
        classifier.fit(pairs, labels, texts, labels)


def test_several_labels_are_an_indicator_array(encoder: Path, tmp_path: Path) -> None:
    texts, labels = rows(240)
    has_a = np.array(labels) == 7
    has_c = np.array(["c" in text for text in texts])
    y = np.stack([has_a, ~has_a, has_c, np.zeros(240)], axis=1).astype(int)
    classifier = TextClassifier(encoder, **(FAST | {"epochs": 8})).fit(texts, y)
    found = classifier.predict(texts)
    assert found.shape == y.shape
    assert (found[:, :2] == y[:, :2]).mean() > 0.95
    assert (classifier.predict_proba(texts)[:, 3] == 0).all()  # no training row has it
    assert ((classifier.decision_function(texts) > 0) == found).all()
    classifier.save(tmp_path / "model")
    again = TextClassifier.load(tmp_path / "model")
    assert (again.predict(texts) == found).all()
    assert again.classes_.tolist() == [0, 1, 2, 3]


def test_a_regressor_answers_in_the_units_of_y(encoder: Path, tmp_path: Path) -> None:
    texts, labels = rows(240)
    prices = np.array(labels) * 1000.0
    regressor = TextRegressor(encoder, **(FAST | {"epochs": 8})).fit(texts, prices)
    assert regressor.score(texts, prices) > 0.8
    regressor.save(tmp_path / "model")
    again = TextRegressor.load(tmp_path / "model")
    assert (again.predict(texts) == regressor.predict(texts)).all()
    assert (pickle.loads(pickle.dumps(regressor)).predict(texts) == again.predict(texts)).all()


# -------------------------------------------------------------------------------------- words


def tagged(count: int) -> tuple[list[list[str]], list[list[str]]]:
    """Returns sentences of letters; `a` begins an entity, which `b` goes on with."""
    sentences = [text.split() for text in rows(count)[0]]
    tags = [
        [{"a": "B-X", "b": "B-Y"}.get(word, "O") for word in sentence] for sentence in sentences
    ]
    return sentences, tags


def test_a_tagger_scores_entities_as_seqeval_does(encoder: Path, tmp_path: Path) -> None:
    from seqeval.metrics import f1_score

    sentences, tags = tagged(160)
    tagger = TokenTagger(encoder, **(FAST | {"epochs": 3})).fit(sentences, tags)
    found = tagger.predict(sentences)
    assert [len(row) for row in found] == [len(row) for row in sentences]
    assert 0.5 < tagger.score(sentences, tags) == f1_score(tags, found)
    assert tagger.classes_.tolist() == ["B-X", "B-Y", "O"]
    tagger.save(tmp_path / "model")
    assert TokenTagger.load(tmp_path / "model").predict(sentences) == found
    assert pickle.loads(pickle.dumps(tagger)).predict([*sentences, []]) == [*found, []]


def test_tags_may_be_numbers(encoder: Path) -> None:
    sentences, tags = tagged(160)
    numbers = [[{"B-X": 2, "B-Y": 5}.get(tag, 0) for tag in row] for row in tags]
    search = GridSearchCV(TokenTagger(encoder, **FAST), {"epochs": [1, 3]}, cv=2)
    search.fit(sentences, numbers)
    assert search.best_params_ == {"epochs": 3}
    tagger = search.best_estimator_
    assert {tag for row in tagger.predict(sentences) for tag in row} == {0, 2, 5}
    right = [
        one == other
        for row, wanted in zip(tagger.predict(sentences), numbers, strict=True)
        for one, other in zip(row, wanted, strict=True)
    ]
    assert tagger.score(sentences, numbers) == sum(right) / len(right)


@pytest.mark.parametrize(
    ("sentences", "tags", "message"),
    [
        ("a b", [["O", "O"]], "X is str 'a b'; expected many sentences"),
        (["a b"], [["O", "O"]], r"X\[0\] is 'a b'; expected a list of words"),
        ([["a", 1]], [["O", "O"]], r"X\[0\] is \['a', 1\]; expected a list of words"),
        ([["a", "b"]], [["O"]], r"y\[0\] is \['O'\]; expected a list of 2 tags"),
        ([["a"]], [["O"], ["O"]], "X has 1 sentences and y 2"),
        ([["a"], []], [["O"], []], r"X\[1\] has no words"),
        ([["a"], ["b"]], [["O"], ["O"]], "have the tag 'O'; expected two tags or more"),
    ],
)
def test_what_are_no_tagged_words_is_named(
    encoder: Path, sentences: Any, tags: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        TokenTagger(encoder).fit(sentences, tags)


# -------------------------------------------------------------------------------------- seeds


def test_a_seed_gives_the_same_model_and_none_another(encoder: Path) -> None:
    texts, labels = rows(48)

    def answers(seed: Any) -> bytes:
        classifier = TextClassifier(encoder, **(FAST | {"epochs": 1, "seed": seed}))
        return classifier.fit(texts, labels).predict_proba(texts).tobytes()

    assert answers(3) == answers(3) == answers(np.int64(3))
    assert len({answers(3), answers(4), answers(None)}) == 3
    assert answers(np.random.RandomState(5)) == answers(np.random.RandomState(5))


def test_fitting_leaves_the_generator_the_threads_and_the_folder_alone(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    classifier = TextClassifier(encoder, **(FAST | {"epochs": 1}))
    classifier.fit(*rows(48))
    copy.deepcopy(classifier)
    assert (torch.get_rng_state() == before).all()
    assert torch.get_num_threads() == threads
    with pytest.raises(NotFiniteError):
        clone(classifier).set_params(learning_rate=1e30, epochs=4).fit(*rows(48))
    assert os.listdir(tmp_path / "work") == os.listdir(tmp_path / "temporary") == []


def test_fitting_says_nothing_unless_asked(
    encoder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    classifier = TextClassifier(encoder, **(FAST | {"epochs": 1})).fit(*rows(48))
    assert capfd.readouterr() == ("", "")
    classifier.set_params(verbose=True).fit(*rows(48))
    assert "epoch 1: dev accuracy" in capfd.readouterr().err


# ----------------------------------------------------------------------------- saved and copied


def test_a_saved_estimator_is_a_model_folder(fitted: TextClassifier, tmp_path: Path) -> None:
    texts, _ = rows(50, seed=2)
    fitted.save(tmp_path / "model")
    again = TextClassifier.load(tmp_path / "model")
    assert (again.predict_proba(texts) == fitted.predict_proba(texts)).all()
    assert again.predict(texts).dtype == fitted.predict(texts).dtype
    assert again.get_params() == fitted.get_params() | {"model": str(fitted.model)}
    answers = [found.answer for found in bertsmith.load(tmp_path / "model").predict(texts)]
    assert answers == list(map(str, fitted.predict(texts)))
    again.save(tmp_path / "model")  # in its own place
    assert not [file for file in (tmp_path / "model").iterdir() if file.suffix == ".pkl"]
    with pytest.raises(CheckpointError, match="its task is 'classify'; expected 'regress'"):
        TextRegressor.load(tmp_path / "model")


def test_a_folder_that_the_command_wrote_is_an_estimator(encoder: Path, tmp_path: Path) -> None:
    lines = [f"{text},{label}" for text, label in zip(*rows(48), strict=True)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    config = FinetuneConfig(epochs=1, max_length=12, threads=1)
    finetune("classify", tmp_path / "train.csv", encoder, tmp_path / "run", config)
    classifier = TextClassifier.load(tmp_path / "run/best")
    assert classifier.classes_.tolist() == ["3", "7"]
    assert (classifier.epochs, classifier.max_length) == (1, 12)


def test_a_pickle_and_a_copy_answer_alike(fitted: TextClassifier) -> None:
    texts, _ = rows(50, seed=2)
    for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert (again.predict_proba(texts) == fitted.predict_proba(texts)).all()
        assert again.get_params() == fitted.get_params()


def test_a_pickle_holds_nothing_of_torch(fitted: TextClassifier) -> None:
    modules = set()

    class Watched(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    Watched(io.BytesIO(pickle.dumps(fitted))).load()
    assert modules <= {"bertsmith", "numpy", "pathlib", "builtins", "_codecs"}


def test_a_clone_is_not_fitted(fitted: TextClassifier) -> None:
    with pytest.raises(NotFittedError):
        clone(fitted).predict(["a"])
    with pytest.raises(NotFittedError):
        clone(fitted).save("nowhere")


# ------------------------------------------------------------------------- scikit-learn's tools


def test_scikit_learns_tools_take_it(encoder: Path) -> None:
    texts, labels = rows(240)
    classifier = TextClassifier(encoder, **(FAST | {"epochs": 6}))
    assert cross_val_score(classifier, texts, labels, cv=2).mean() > 0.8
    search = GridSearchCV(classifier, {"epochs": np.array([1, 6])}, cv=2).fit(texts, labels)
    assert search.best_params_ == {"epochs": 6}
    calibrated = CalibratedClassifierCV(classifier, cv=2).fit(texts, labels)
    assert calibrated.score(texts, labels) > 0.8


def test_it_ends_a_pipeline(encoder: Path) -> None:
    texts, labels = rows(240)
    shout = FunctionTransformer(lambda texts: [f"{text} !" for text in texts])
    pipeline = Pipeline([("shout", shout), ("bert", TextClassifier(encoder))])
    pipeline.set_params(**{f"bert__{name}": value for name, value in FAST.items()})
    assert pipeline.fit(texts, labels).score(texts, labels) > 0.8
    assert pipeline.classes_.tolist() == [3, 7]


@pytest.mark.parametrize("kind", [ClassifierOnNumbers, RegressorOnNumbers])
@pytest.mark.parametrize("legacy", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_it_passes_scikit_learns_checks(encoder: Path, kind: type[Any], legacy: bool) -> None:
    """The checks called legacy are those of what is learnt, besides those of the interface."""
    estimator = kind(encoder, epochs=1, batch_size=64, max_length=16, restarts=0, threads=1)
    expected = EXPECTED_TO_FAIL if legacy else {}
    results = check_estimator(
        estimator, legacy=legacy, expected_failed_checks=expected, on_skip=None, on_fail="raise"
    )
    assert len(results) > (50 if legacy else 14)
    failed = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert failed == set(expected)


def test_importing_the_package_loads_neither_torch_nor_scikit_learn() -> None:
    program = (
        "import sys, bertsmith; assert not {'torch', 'sklearn'} & set(sys.modules); "
        "bertsmith.TextClassifier('model'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", "X is str 'one text'; expected many texts"),
        (["a", None], r"X\[1\] is None; expected a text, or a pair of texts"),
        (["a", float("nan")], r"X\[1\] is nan; expected a text"),
        (["a", b"b"], r"X\[1\] is b'b'; expected a text"),
        (["a", ("b", "c")], r"X\[1\] is a pair, unlike X\[0\]; expected all alike"),
        (["a", ("b", "c", "d")], r"X\[1\] is \('b', 'c', 'd'\); expected"),
        (np.ones((2, 2)), r"X\[0\] is array"),
        ({"a": "b"}, "X is dict"),
        (7, "X is int"),
    ],
)
def test_what_is_no_text_is_named(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts_of(given, "X")


def test_what_cannot_be_learnt_from_is_refused(encoder: Path) -> None:
    texts, labels = rows(8)
    classifier = TextClassifier(encoder, **FAST)
    with pytest.raises(DataError, match=r"X\[1\] is empty; expected a text"):
        classifier.fit(["a", " "], [0, 1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.fit(texts, labels[:-1])
    with pytest.raises(ValueError, match=r"y holds one class, \[1\]"):
        classifier.fit(texts, [1] * 8)
    with pytest.raises(DataError, match="some are one number spelt differently"):
        classifier.fit(texts, ["1", "1.0", "2", "2"] * 2)
    with pytest.raises(ValueError, match="NaN"):
        TextRegressor(encoder).fit(texts, [float("nan")] * 8)
    with pytest.warns(DataConversionWarning):
        classifier.set_params(epochs=1).fit(texts, np.array(labels)[:, None])


def test_a_parameter_that_cannot_be_is_refused_by_fit(encoder: Path) -> None:
    with pytest.raises(ConfigError, match="model is None; expected the folder of an encoder"):
        TextClassifier().fit(*rows(8))
    with pytest.raises(ConfigError, match="FinetuneConfig.epochs is 0"):
        TextClassifier(encoder, epochs=0).fit(*rows(8))
    with pytest.raises(ConfigError, match="max_length is 128, but .* reads at most 32 pieces"):
        TextClassifier(encoder).fit(*rows(8))
