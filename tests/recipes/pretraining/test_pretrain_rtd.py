"""Replaced-token detection as a run: it checks itself, learns, resumes and keeps the encoder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.model.published import TINY, packed
from tests.recipes.finetuning.test_finetune import FAST, SHORT, opinions, write_rows
from tests.recipes.toy_runs import (
    RUN,
    SETTINGS,
    STEPS,
    as_killed_after,
    metrics_of,
    state_of,
    weights_of,
)
from tests.recipes.toy_text import write_text
from torch import Tensor

from bertsmith.cli import main
from bertsmith.config import BertConfig, ExamplesConfig, OptimizerConfig, RanksConfig
from bertsmith.data.framing import frame
from bertsmith.data.packing import PackedBatch, pack_texts
from bertsmith.data.shards import open_corpus
from bertsmith.errors import ConfigError, DataError, SelfCheckError
from bertsmith.folder import load_model
from bertsmith.model.bert import Bert, begin_directed
from bertsmith.model.electra import ForReplacedTokens
from bertsmith.model.modern import ModernBert
from bertsmith.predict import load
from bertsmith.recipes.evaluate import evaluate
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.recipes.pretraining import pretrain as recipe
from bertsmith.recipes.pretraining.checks import (
    check_gradients,
    check_loss,
    check_packing,
    check_start,
    detection_loss_of_new_weights,
    first_sequences,
)
from bertsmith.recipes.pretraining.filled_masks import fill, hidden_words
from bertsmith.recipes.pretraining.model import new_model
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.report import write_report
from bertsmith.recipes.pretraining.settings import PretrainSettings, check_settings
from bertsmith.train.checkpoint import newest_checkpoint
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps
from bertsmith.train.place import Place

EXAMPLES = ExamplesConfig(sequence_length=20, objective="rtd", sentence_task="none")
TOLD = {"mlm_loss", "mlm_accuracy", "rtd_loss", "rtd_accuracy", "unreplaced_share"}
# name: settings of the examples, settings of the run
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pairs": ({}, {}),
    "packed, in parts": (
        {"layout": "packed", "masked_units": "spans", "generator_share": 1.0},
        {"accumulate": 2, "first_tokens_per_batch": 60, "initialization": "silent"},
    ),
    "modern": (
        {"layout": "packed", "generator_share": 0.5},
        {"architecture": "modern", "size": "L2-H32-A2", "initialization": "silent"},
    ),
}


def settings_of(kind: str = "pairs", **run: Any) -> PretrainSettings:
    examples, changes = KINDS[kind]
    return replace(
        SETTINGS, run=replace(RUN, **changes | run), examples=replace(EXAMPLES, **examples)
    )


@pytest.fixture(scope="module", params=list(KINDS))
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path
) -> tuple[str, Path, dict[str, Any]]:
    """Returns a kind, the folder of an unbroken run of it, and its result."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return request.param, out, pretrain([str(toy_corpus)], out, settings_of(request.param))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    pretrain([str(toy_corpus)], out, settings_of())
    return out


def trained_model(run: Path, corpus: Path) -> ForReplacedTokens:
    """Returns the whole model of a run's newest checkpoint."""
    model = new_model(open_corpus(corpus), settings_of())
    assert isinstance(model, ForReplacedTokens)
    newest = newest_checkpoint(run / "checkpoints", lambda _: None)
    assert newest is not None
    model.load_state_dict(load_file(newest.folder / "model.safetensors"))
    return model.eval()


def a_model(config: BertConfig = TINY) -> ForReplacedTokens:
    torch.manual_seed(0)
    return ForReplacedTokens(config, 0.5)


def batch_of(lengths: list[int], config: BertConfig = TINY) -> PackedBatch:
    return replace(PackedBatch(**packed(lengths, config)), next_labels=None)


# -------------------------------------------------------------------------------- a whole run


def test_a_result_tells_of_both_halves(made: tuple[str, Path, dict[str, Any]]) -> None:
    _, out, result = made
    ends = ("loss", "accuracy", "unreplaced_share")
    assert {name for name in result if name.endswith(ends)} == TOLD | {"unigram_loss"}
    rows = metrics_of(out)
    for split, more in (("train", set()), ("held_out", {"unigram_loss"})):
        for row in [row for row in rows if row["split"] == split]:
            assert {name for name in row if name.endswith(ends)} == TOLD | more
            # of the pieces to predict, 15% or a few more, those drawn rightly are not replaced
            assert 0.7 < row["unreplaced_share"] < 1
    assert result["steps"] == STEPS
    start = rows[0]
    assert abs(start["new_rtd_loss"] - math.log(2)) < 0.1
    assert abs(start["new_loss"] - start["expected_loss"]) < 0.3


@pytest.mark.parametrize("step", [1, 5, 8, 9, 11])
def test_resumed_after_a_step_a_run_ends_as_the_unbroken_one(
    made: tuple[str, Path, dict[str, Any]], tmp_path: Path, toy_corpus: Path, step: int
) -> None:
    """What is drawn comes from the step's seed, so a resumed run puts the same pieces in."""
    kind, whole, _ = made
    out = as_killed_after(whole, step, tmp_path / "run")
    pretrain([str(toy_corpus)], out, settings_of(kind), resume=True)
    assert weights_of(out) == weights_of(whole)
    assert metrics_of(out) == metrics_of(whole)
    assert state_of(out) == state_of(whole)


def test_a_run_reads_what_one_on_masked_pieces_reads(
    run: Path, tmp_path: Path, toy_corpus: Path
) -> None:
    masked = replace(settings_of(), examples=replace(EXAMPLES, objective="mlm"))
    pretrain([str(toy_corpus)], tmp_path / "run", masked)
    for step in range(1, STEPS + 1):
        assert state_of(run, step)["stream"] == state_of(tmp_path / "run", step)["stream"]
    held_out = [
        [row["unigram_loss"] for row in metrics_of(each) if row["split"] == "held_out"]
        for each in (run, tmp_path / "run")
    ]
    assert held_out[0] == held_out[1] != []


def test_one_batch_is_learnt_to_nearly_zero_loss_by_both_halves() -> None:
    torch.manual_seed(0)
    batch = batch_of([16] * 6).tensors()
    batch["put_in"] = torch.randint(5, TINY.vocab_size, batch["masked_labels"].shape)
    still = replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = ForReplacedTokens(still, 0.5)
    config = OptimizerConfig(learning_rate=0.005)
    rows: list[dict[str, float]] = []
    train(
        Run(model, adamw(model, config)),
        iter([[batch]] * 150),
        pace=by_steps(150),
        schedule=warmup_then_decay(config),
        max_gradient_norm=1.0,
        seed=0,
        after_step=lambda _, figures: rows.append(figures),
    )
    assert rows[0]["mlm_loss"] > 4 and rows[0]["rtd_loss"] > 0.6
    assert rows[-1]["mlm_loss"] < 0.05 and rows[-1]["rtd_loss"] < 0.02


def test_both_halves_learn(tmp_path: Path, toy_vocabulary: Path) -> None:
    """The generator passes frequencies, and the detection those who call no piece replaced.

    An accuracy above theirs takes context: no piece is replaced in half of its places or more. It
    cannot be far above, since what this generator puts in mostly fits.
    """
    text = write_text(tmp_path / "text.txt", 300)
    settings = settings_of(
        size="L2-H32-A2",
        steps=300,
        tokens_per_batch=512,
        long_sequence_share=0.0,
        checkpoint_every=300,
        evaluate_every=300,
        evaluate_examples=1000,
        dropout=0.0,
        initialization="directed",
    )
    examples = replace(settings.examples, generator_share=0.5)
    optimizer = OptimizerConfig(learning_rate=0.005)
    settings = replace(settings, examples=examples, optimizer=optimizer)
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=toy_vocabulary)
    assert result["mlm_loss"] < 0.6 * result["unigram_loss"]
    assert result["rtd_accuracy"] > result["unreplaced_share"]


def test_the_masks_shown_are_filled_by_the_generator(run: Path, toy_corpus: Path) -> None:
    corpus = open_corpus(toy_corpus)
    tokenizer = corpus.read_tokenizer()
    model = trained_model(run, toy_corpus)
    hidden = hidden_words(corpus, tokenizer, EXAMPLES.sequence_length)
    last = [row for row in metrics_of(run) if row["split"] == "filled"][-1]
    assert fill(model, hidden, tokenizer) == last["filled"]
    one = hidden[0].batch.tensors()
    place = torch.tensor([hidden[0].place])
    with torch.no_grad():
        states = model.generator(model.encoder, one, place)
        scores = states @ model.encoder.embeddings.pieces.weight.T + model.generator.bias
    best = tokenizer.vocabulary.pieces[int(scores.argmax())]
    assert last["filled"][0]["pieces"][0] == best


def test_the_report_tells_the_halves_apart(run: Path) -> None:
    page = write_report(run).read_text()
    for told in (
        "replaced pieces: accuracy",
        "saying &#x27;not replaced&#x27; of every piece",
        "What the generator puts behind a mask",
        "loss of the new weights on which pieces were replaced",
    ):
        assert told in page


# ------------------------------------------------------------------------------- what is kept


def test_the_folder_is_the_encoder_and_opens_with_equal_states(run: Path, toy_corpus: Path) -> None:
    ours = load_model(run / "model")
    assert isinstance(ours.model, Bert) and ours.model.pooler is None
    theirs = transformers.AutoModel.from_pretrained(run / "model", add_pooling_layer=False).eval()
    trained = trained_model(run, toy_corpus)
    ids = [[7, 9, 8, 12, 6], [11, 6, 13]]
    vocabulary = ours.tokenizer.vocabulary
    for text in ids:
        batch = pack_texts([frame(text, None, vocabulary, max_length=20)])
        parts = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
        with torch.no_grad():
            expected = theirs(batch.piece_ids[None]).last_hidden_state[0]
            torch.testing.assert_close(ours.model(*parts), expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(ours.model(*parts), trained.encoder(*parts))


def test_a_modern_encoder_opens_with_equal_states_and_is_fine_tuned(
    tmp_path: Path, toy_corpus: Path
) -> None:
    run = tmp_path / "run"
    pretrain([str(toy_corpus)], run, settings_of("modern"))
    ours = load_model(run / "model")
    assert isinstance(ours.model, ModernBert) and ours.model.pooler is None
    theirs = transformers.AutoModel.from_pretrained(run / "model").eval()
    assert type(theirs) is transformers.ModernBertModel
    batch = pack_texts([frame([7, 9, 8, 12, 6], None, ours.tokenizer.vocabulary, max_length=20)])
    parts = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
    with torch.no_grad():
        expected = theirs(batch.piece_ids[None]).last_hidden_state[0]
        torch.testing.assert_close(ours.model(*parts), expected, atol=1e-5, rtol=1e-5)
    train = write_rows(tmp_path / "train.csv", opinions(60, 0))
    config = replace(SHORT, epochs=1, train_anyway=True)
    finetune("classify", train, run / "model", tmp_path / "tuned", config, FAST)
    assert load(tmp_path / "tuned/model").predict(["the cat"])


def test_checkpoints_hold_generator_and_detection(run: Path) -> None:
    held = load_file(run / f"checkpoints/step-{STEPS:08d}/model.safetensors")
    kept = load_file(run / "model/model.safetensors")
    assert {"generator.project.weight", "generator.bias", "dense.weight", "score.bias"} <= set(held)
    assert not [name for name in kept if not name.startswith(("embeddings.", "encoder."))]


def test_the_folder_is_fine_tuned(run: Path, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.csv", opinions(60, 0))
    config = replace(SHORT, epochs=1, train_anyway=True)
    finetune("classify", train, run / "model", tmp_path / "tuned", config, FAST)
    assert load(tmp_path / "tuned/model").predict(["the cat"])


def test_what_is_not_in_the_folder_is_said(run: Path, tmp_path: Path) -> None:
    left = r"--objective rtd the encoder alone is kept: the generator, .* in the checkpoints of its"
    with pytest.raises(ConfigError, match=rf"no head for masked pieces \(.*{left}"):
        load(run / "model").fill_mask("the [MASK]")
    text = write_text(tmp_path / "text.txt", 10, seed=9)
    with pytest.raises(DataError, match=rf"holds an encoder without a head \(.*{left}"):
        evaluate(run / "model", [str(text)])


# ----------------------------------------------------------------------------------- checks


@pytest.mark.parametrize("is_directed", [True, False])
def test_new_weights_pass_and_are_left_alone(is_directed: bool) -> None:
    model = a_model().train()
    if is_directed:
        assert isinstance(model.encoder, Bert)
        begin_directed(model.encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = check_start(model, [batch_of([9, 32, 17, 4, 32, 21])], EXAMPLES)
    assert found["examples"] == 6
    assert abs(found["new_loss"] - math.log(TINY.vocab_size)) < 0.5
    assert abs(found["new_rtd_loss"] - math.log(2)) < 0.1
    assert 0 <= found["packed_difference"] < 1e-5
    assert 0 <= found["gradient_difference"] < 1e-5
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_run_ends_with_the_weights_of_one_without_checks(
    run: Path, tmp_path: Path, toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "check_start", lambda *_, **__: {})
    pretrain([str(toy_corpus)], tmp_path / "run", settings_of())
    assert weights_of(tmp_path / "run") == weights_of(run)


@pytest.mark.parametrize("hidden_size", [16, 128, 512])
def test_the_detection_of_new_weights_is_within_its_margin(hidden_size: int) -> None:
    config = replace(TINY, hidden_size=hidden_size, num_hidden_layers=1, num_attention_heads=2)
    batch = batch_of([32] * 4, config).tensors()
    expected, margin = detection_loss_of_new_weights(config)
    for seed in range(10):
        torch.manual_seed(seed)
        model = ForReplacedTokens(config, 0.5).eval()
        with torch.no_grad():
            found = float(model(**batch)["rtd_loss"]) / len(batch["piece_ids"])
        assert abs(found - expected) < margin / 2


def test_detection_that_is_sure_from_the_start_is_refused() -> None:
    model = a_model().eval()
    with torch.no_grad():
        model.score.bias.fill_(3.0)
    with pytest.raises(SelfCheckError, match="on which pieces were replaced is .* about ln 2"):
        check_loss(model, [batch_of([32] * 8)])


def test_a_generator_that_sees_the_pieces_is_refused() -> None:
    batch = batch_of([32] * 8)
    model = a_model().eval()
    with torch.no_grad():
        model.generator.bias[batch.tensors()["masked_labels"]] = 3.0
    with pytest.raises(SelfCheckError, match="loss of new weights on masked pieces is"):
        check_loss(model, [batch])


def test_sequences_that_a_generator_sees_together_are_refused() -> None:
    few = first_sequences([batch_of([9, 32, 17])], 512)
    model = a_model().eval()
    assert check_packing(model, few) < 1e-5
    inner = model.generator.forward

    def leaking(*given: Any) -> Tensor:
        states = inner(*given)
        return states + 0.001 * states[0]

    model.generator.forward = leaking  # type: ignore[assignment, method-assign]
    with pytest.raises(SelfCheckError, match="states of 3 packed sequences differ by up to"):
        check_packing(model, few)


class Averaging(ForReplacedTokens):
    """Returns the mean of the detection's loss where a sum is asked for."""

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        sums = super().forward(**batch)
        return sums | {"rtd_loss": sums["rtd_loss"] / len(batch["piece_ids"])}


def test_parts_whose_detection_weighs_otherwise_are_refused() -> None:
    torch.manual_seed(0)
    few = first_sequences([batch_of([9, 32, 17, 30])], 512)
    with pytest.raises(SelfCheckError, match="gradient of a batch in two parts differs"):
        check_gradients(Averaging(TINY, 0.5).eval(), few)


# ----------------------------------------------------------------------------- the user's way


def test_settings_are_flags(
    tmp_path: Path, toy_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        *("--objective", "rtd", "--generator-share", "0.5", "--sentence-task", "none"),
        *("--size", "L1-H32-A2", "--sequence-length", "16", "--tokens-per-batch", "256"),
        *("--long-sequence-share", "0", "--steps", "3", "--threads", "1", "--measure-peak"),
    ]
    assert main(["pretrain", str(toy_corpus), "--out", str(tmp_path / "run"), *flags]) == 0
    captured = capsys.readouterr()
    assert "unreplaced_share" in captured.out
    assert "% are not replaced)" in captured.err
    assert load_model(tmp_path / "run/model").facts["settings"]["generator_share"] == 0.5
    held = load_file(tmp_path / "run/checkpoints/step-00000003/model.safetensors")
    assert held["generator.project.weight"].shape == (16, 32)


def test_a_sharded_model_is_refused() -> None:
    check_settings(settings_of(), None, Place(0, 2))
    sharded = replace(settings_of(), ranks=RanksConfig(shard_model=True))
    with pytest.raises(ConfigError, match="'rtd' with shard_model, .* give --no-shard-model, or"):
        check_settings(sharded, None, Place(0, 2))
