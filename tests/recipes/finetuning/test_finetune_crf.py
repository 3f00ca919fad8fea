"""A tagger with a CRF learns which tags follow each other, and keeps it wherever it goes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.tiny import write_tiny_encoder

from bertsmith import TokenTagger
from bertsmith.config import FinetuneConfig, OptimizerConfig, TaskConfig, bert_of_size
from bertsmith.errors import ConfigError, StoppedError
from bertsmith.folder import load_encoder, load_model, save_model
from bertsmith.interop.conversion import convert
from bertsmith.model.bert import Bert, Block
from bertsmith.model.crf import Crf
from bertsmith.model.task_heads import BertForTagging
from bertsmith.predict import load
from bertsmith.predictions import predict_file
from bertsmith.recipes.finetuning import watch as finetuning_watch
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import CRF_LEARNING_RATE, finetune, rate_scales
from bertsmith.tasks.schemes import respelt

WORDS = ["ann", "rome", "goes", "to", "."]
KINDS = {"ann": "PER", "rome": "LOC"}
CRF = TaskConfig(crf=True)
FAST = OptimizerConfig(learning_rate=1e-2)
SHORT = FinetuneConfig(epochs=8, batch_size=4, max_length=12, threads=1, freeze_encoder=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes an encoder in which no word reads another one."""
    folder = write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "model", WORDS, seed=1)
    loaded = load_encoder(folder)
    assert isinstance(loaded.model, Bert)
    with torch.no_grad():
        for block in loaded.model.blocks:
            assert isinstance(block, Block)
            for part in block.attention.output.parameters():
                part.zero_()
    save_model(folder, loaded.model, loaded.tokenizer, {})
    return folder


def rows_of(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Returns sentences, some longer than the model, in which 'to' goes on with what is before.

    'ann to to' is one person, 'rome to to' one place, and 'goes to to' nothing.
    """
    rng = Random(seed)
    rows = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(rng.randrange(1, 6)):
            word, length = rng.choice(["ann", "rome", "goes"]), rng.randrange(1, 5)
            words += [word] + ["to"] * (length - 1)
            kind = KINDS.get(word)
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1) if kind else ["O"] * length
        rows.append((words, tags))
    return rows


def write(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    lines = [json.dumps({"words": words, "tags": tags}) for words, tags in rows]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """Writes a run without a CRF and one with, on the same rows."""
    folder = tmp_path_factory.mktemp("runs")
    train = write(folder / "train.jsonl", rows_of(200, 0))
    dev = write(folder / "dev.jsonl", rows_of(50, 1))
    for name, options in (("plain", TaskConfig()), ("crf", CRF)):
        finetune("tag", train, encoder, folder / name, SHORT, FAST, options=options, dev=dev)
    return folder


def found_by(model: Any, rows: list[tuple[list[str], list[str]]]) -> list[Any]:
    return [(row.answer, row.more) for row in model.tag([words for words, _ in rows])]


def test_what_only_the_tag_before_tells_is_learnt_with_a_crf(runs: Path) -> None:
    scores = {
        name: evaluate_task(runs / name / "best", runs / "dev.jsonl")["f1"]
        for name in ("plain", "crf")
    }
    assert scores["plain"] < 0.6 and scores["crf"] > 0.98
    steps = [json.loads(line) for line in (runs / "crf/metrics.jsonl").read_text().splitlines()]
    accuracies = [step["accuracy"] for step in steps if "accuracy" in step]
    assert accuracies[0] < 0.6 and accuracies[-1] > 0.98  # of whole paths, as they are told


def test_a_sentence_is_one_path_over_all_of_its_windows(runs: Path) -> None:
    """The word that tells the tag of the last one stands two windows before it."""
    (row,) = load(runs / "crf/best").tag([["ann"] + ["to"] * 30 + ["goes", "to"]])
    assert row.answer == ("B-PER", *["I-PER"] * 30, "O", "O")
    assert all(0 < share <= 1 for share in row.more["probabilities"])


def test_words_without_a_piece_are_outside_and_not_in_the_path(runs: Path) -> None:
    model = load(runs / "crf/best")
    (row,) = model.tag([["rome", "\u200b", "to"]])
    (alone,) = model.tag([["rome", "to"]])
    assert row.answer == tuple(respelt(["B-LOC", "O", "I-LOC"], "iob2"))
    assert row.more["probabilities"] == [
        alone.more["probabilities"][0],
        None,
        alone.more["probabilities"][1],
    ]
    assert model.tag([["\u200b"], []])[0].answer == ("O",)


def test_a_folder_gives_the_path_of_its_own_weights(runs: Path, tmp_path: Path) -> None:
    loaded = load_model(runs / "crf/best")
    assert isinstance(loaded.model, BertForTagging) and loaded.model.crf is not None
    assert loaded.facts["options"]["crf"] is True
    config = json.loads((runs / "crf/best/config.json").read_text())
    assert config["crf"] is True
    assert "crf" not in json.loads((runs / "plain/best/config.json").read_text())
    rows = rows_of(20, 2)
    found = found_by(load(runs / "crf/best"), rows)
    save_model(tmp_path / "again", loaded.model, loaded.tokenizer, {})
    (tmp_path / "again/bertsmith.json").unlink()  # what is left is told by config.json
    bare = load_model(tmp_path / "again")
    assert bare.facts["options"] == {"crf": True} and bare.facts["task"] == "tag"
    written = predict_file(load(runs / "crf/best"), runs / "dev.jsonl", tmp_path / "answers.jsonl")
    assert written["rows"] == 50
    assert evaluate_task(runs / "crf/best", tmp_path / "answers.jsonl")["accuracy"] == 1.0
    with torch.no_grad():  # without its transitions the same model tells other tags
        assert loaded.model.crf.transitions.abs().max() > 1
        for part in loaded.model.crf.parameters():
            part.zero_()
    facts = {name: loaded.facts[name] for name in ("task", "labels", "scheme", "learnt_scheme")}
    save_model(tmp_path / "zero", loaded.model, loaded.tokenizer, facts | {"max_length": 12})
    assert [one for one, _ in found_by(load(tmp_path / "zero"), rows)] != [one for one, _ in found]


def test_transformers_opens_the_folder_and_names_what_it_does_not_know(runs: Path) -> None:
    theirs, report = transformers.AutoModelForTokenClassification.from_pretrained(
        runs / "crf/best", output_loading_info=True
    )
    assert not report["missing_keys"]
    names = {"crf.transitions", "crf.start_transitions", "crf.end_transitions"}
    assert names <= set(report["unexpected_keys"])
    ours = load_model(runs / "crf/best").model
    assert isinstance(ours, BertForTagging)
    ids = torch.tensor([2, 5, 8, 8, 3])
    inputs = (ids.int(), torch.zeros(5).int(), torch.arange(5).int(), torch.tensor([0, 5]).int())
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids[None]).logits[0]
        torch.testing.assert_close(ours.logits(*inputs), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_graph_says_that_the_crf_is_left_out(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'bertsmith[onnx]'")
    assert "the CRF" in convert(runs / "crf/best", "onnx", tmp_path / "crf")["left_out"]
    assert "left_out" not in convert(runs / "plain/best", "onnx", tmp_path / "plain")


def test_googles_format_has_no_taggers(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a head that none of its programs knows"):
        convert(runs / "crf/best", "tf1", tmp_path / "tf1")


def test_another_format_of_ours_keeps_the_crf(runs: Path, tmp_path: Path) -> None:
    convert(runs / "crf/best", "hf", tmp_path / "hf")
    rows = rows_of(20, 2)
    assert found_by(load(tmp_path / "hf"), rows) == found_by(load(runs / "crf/best"), rows)


def test_a_resumed_run_is_the_unbroken_one(
    runs: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tmp_path / "run"
    begun: dict[str, Any] = {"train_file": runs / "train.jsonl", "model": encoder, "out": stopped}
    begun |= {"config": SHORT, "optimizer": FAST, "options": CRF, "dev": runs / "dev.jsonl"}
    after_step = finetuning_watch.Sitting.after_step

    def stopping(self: Any, run: Any, figures: Any) -> None:
        if run.step == 20:
            self.requests.stop = "a test"
        after_step(self, run, figures)

    monkeypatch.setattr(finetuning_watch.Sitting, "after_step", stopping)
    with pytest.raises(StoppedError):
        finetune("tag", **begun)
    monkeypatch.undo()
    finetune("tag", **begun, resume=True)
    one, other = (
        load_model(place / "model").model.state_dict() for place in (stopped, runs / "crf")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_begun_before_there_were_crfs_goes_on(runs: Path, encoder: Path) -> None:
    settings = json.loads((runs / "plain/settings.json").read_text())
    del settings["crf"]
    (runs / "plain/settings.json").write_text(json.dumps(settings))
    again = {"options": TaskConfig(), "dev": runs / "dev.jsonl", "resume": True}
    train = runs / "train.jsonl"
    finetune("tag", train, encoder, runs / "plain", SHORT, FAST, **again)  # type: ignore[arg-type]
    again["options"] = CRF
    with pytest.raises(ConfigError, match="crf: False -> True"):
        finetune("tag", train, encoder, runs / "plain", SHORT, FAST, **again)  # type: ignore[arg-type]


def test_intents_are_learnt_beside_a_crf(tmp_path: Path, encoder: Path) -> None:
    rows = rows_of(200, 3)
    lines = [json.dumps({"words": words, "tags": tags, "intent": words[0]}) for words, tags in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:160]))
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[160:]))
    trained = FinetuneConfig(epochs=10, batch_size=4, max_length=12, threads=1)
    optimizer = OptimizerConfig(learning_rate=3e-3)
    named = {"options": CRF, "dev": tmp_path / "dev.jsonl"}
    whole = write_tiny_encoder(tmp_path / "encoder", WORDS, seed=1)
    result = finetune(
        "tag",
        tmp_path / "train.jsonl",
        whole,
        tmp_path / "run",
        trained,
        optimizer,
        **named,  # type: ignore[arg-type]
    )
    assert result["scores"]["f1"] > 0.95 and result["scores"]["intent_accuracy"] > 0.9
    (row,) = load(tmp_path / "run/best").tag([["ann", "to", "rome"]])
    assert row.answer == ("B-PER", "I-PER", "B-LOC") and row.more["intent"] == "ann"


def test_the_estimator_takes_a_crf(encoder: Path, tmp_path: Path) -> None:
    rows = rows_of(150, 4)
    sentences, tags = [words for words, _ in rows], [tags for _, tags in rows]
    named: dict[str, Any] = {"epochs": 8, "batch_size": 4, "max_length": 12, "threads": 1}
    named |= {"learning_rate": 1e-2, "freeze_encoder": True}
    tagger = TokenTagger(encoder, crf=True, **named).fit(sentences, tags)
    assert tagger.score(sentences, tags) > 0.95
    tagger.save(tmp_path / "model")
    loaded = TokenTagger.load(tmp_path / "model")
    assert loaded.crf and loaded.predict(sentences) == tagger.predict(sentences)


def test_a_crf_has_a_rate_of_its_own() -> None:
    model = BertForTagging(bert_of_size("L2-H32-A2", vocab_size=20), 3, crf=True)
    parts = {name for name, _ in model.named_parameters() if name.startswith("crf.")}
    assert parts == {"crf.transitions", "crf.first", "crf.last"}
    for rate, expected in ((5e-5, CRF_LEARNING_RATE), (1e-4, CRF_LEARNING_RATE), (0.1, 0.1)):
        scales = rate_scales(model, FinetuneConfig(layer_decay=0.5), rate)
        assert [scales[name] * rate for name in parts] == pytest.approx([expected] * 3)
        assert scales["classifier.weight"] == 1


def test_a_new_crf_changes_no_other_weight() -> None:
    config = bert_of_size("L2-H32-A2", vocab_size=20)
    states = []
    for crf in (False, True):
        torch.manual_seed(3)
        states.append(BertForTagging(config, 5, num_intents=2, crf=crf).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(states[1][name], tensor)
    assert states[1].keys() - states[0].keys() == {f"crf.{name}" for name in Crf(5).state_dict()}


def test_a_crf_is_for_tags(tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nann,a\nrome,b\n")
    with pytest.raises(ConfigError, match="crf is for the task tag; classify has no rows of tags"):
        finetune("classify", tmp_path / "train.csv", encoder, tmp_path / "run", SHORT, options=CRF)


def test_no_word_is_forbidden_what_its_scheme_has_not(encoder: Path, tmp_path: Path) -> None:
    """Words without a piece hide the B- before an I-, and the loss of the right tags is finite."""
    words, tags = ["goes", "\u200b", "to"], ["O", "B-PER", "I-PER"]
    train = write(tmp_path / "train.jsonl", [(words, tags)] * 40)
    trained = FinetuneConfig(epochs=2, batch_size=16, max_length=12, threads=1, restarts=0)
    finetune("tag", train, encoder, tmp_path / "run", trained, FAST, options=CRF)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in rows if "loss" in row]).all()
