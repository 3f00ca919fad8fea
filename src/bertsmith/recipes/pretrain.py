"""Pre-training: a prepared corpus, or raw text, becomes an encoder.

    bertsmith pretrain TEXT... --vocab-size 8192 --size mini --budget 60m --out run

Source: Devlin et al. 2019, section 3.1 and appendix A.2; `run_pretraining.py`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import (
    BertConfig,
    CorpusConfig,
    EncoderConfig,
    ExamplesConfig,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    VocabConfig,
    bert_of_size,
    modern_of_size,
    seconds_of,
)
from bertsmith.data.shards import MANIFEST, Corpus, open_corpus
from bertsmith.errors import ConfigError, DataError
from bertsmith.model.bert import Bert, begin_directed
from bertsmith.model.kinds import PretrainingModel, pretraining_model_of
from bertsmith.model.memory import keep_freed_memory
from bertsmith.progress import ProgressLine
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining_data import (
    StepStream,
    StreamState,
    held_out_batches,
    phases,
    unigram_loss,
)
from bertsmith.recipes.pretraining_watch import Evaluator, Watch, Window
from bertsmith.recipes.vocabulary import learn
from bertsmith.text.tokenizer_files import read_tokenizer
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.checkpoint import (
    newest_checkpoint,
    refuse_without_room_for_two,
    restore,
)
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import Pace, Stopwatch, by_steps, by_time
from bertsmith.train.run_folder import RunFolder, open_run_folder
from bertsmith.train.stopping import StopRequests

# What a resumed run may do otherwise than it began: how long, how fast, how often it reports.
MAY_CHANGE = frozenset(
    {
        *("steps", "budget", "learning_rate", "warmup", "tokens_per_batch", "accumulate"),
        *("checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_examples"),
        *("log_every", "threads", "workers"),
    }
)
_PUBLISHED_RATE = 1e-4  # for a width of 768


@dataclass(frozen=True)
class PretrainSettings:
    """The settings of every stage that pre-training runs through."""

    run: PretrainConfig
    examples: ExamplesConfig
    optimizer: OptimizerConfig
    corpus: CorpusConfig
    prepare: PrepareConfig

    def to_mapping(self) -> dict[str, Any]:
        """Returns all settings in one table; their names are unique over the stages."""
        table: dict[str, Any] = {}
        for stage in vars(self).values():
            table |= stage.to_mapping()
        return table


def paper_optimizer(config: PretrainConfig) -> dict[str, Any]:
    """Returns what the paper's recipe sets otherwise than `OptimizerConfig` does.

    The published rate is for a width of 768. Narrower encoders take a larger one, up to three times
    as large: at 2e-3 without bias correction one of width 128 fell back to the unigram model and
    stayed there. A tenth of the run is warm-up; in the published million steps it is a hundredth.

    Source: Devlin et al. 2019, appendix A.2; for the rest `docs/results.md`.
    """
    width = bert_of_size(config.size).hidden_size
    return {
        "learning_rate": min(_PUBLISHED_RATE * max(1.0, 768 / width), 3 * _PUBLISHED_RATE),
        "warmup": 0.1,
        "bias_correction": False,
    }


def pretrain(
    sources: Sequence[str],
    out: Path,
    settings: PretrainSettings,
    *,
    vocab: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains an encoder on masked pieces and next sentences in the run folder `out`.

    `sources` is one folder that `prepare` wrote, or raw text. From raw text it first learns a
    vocabulary, unless `vocab` is the folder of one, and prepares a corpus in `out`. With `resume`
    it goes on from the newest sound checkpoint, or starts where there is none yet; stopped and
    resumed by steps, with as many threads, it ends with the weights of the unbroken run, bit for
    bit.

    Returns:
        `steps`, `tokens`, `seconds` and `tokens_per_second` of all sittings; `mlm_loss`,
        `mlm_accuracy`, `nsp_loss`, `nsp_accuracy` and `unigram_loss` on the `split` that they were
        measured on: "held_out", or "train" (the last logged steps) where no text was set aside;
        and the run folder `out`, whose `model` is the result.

    Raises:
        ConfigError: settings contradict each other, or those that the run was begun with.
        DataError: the text, the corpus or the vocabulary does not hold what it must.
        FolderInUseError: another run is at work in `out`, or it holds something else.
        NotFiniteError: a loss or gradient became NaN or infinite.
        StoppedError: SIGINT or SIGTERM asked for it; everything is saved.
    """
    torch.set_num_threads(settings.run.threads or os.cpu_count() or 1)
    keep_freed_memory()
    table = {"data": list(sources), "vocab": str(vocab) if vocab else None} | settings.to_mapping()
    with ExitStack() as stack:
        folder = stack.enter_context(open_run_folder(out, resume=resume))
        progress = stack.enter_context(ProgressLine())
        corpus, tokenizer = _find_corpus(sources, settings, vocab, folder, progress)
        folder.settle(table, may_change=MAY_CHANGE, say=progress.say)
        model = _new_model(corpus, settings)
        run = Run(model, adamw(model, settings.optimizer))
        refuse_without_room_for_two(folder.path, run)
        state = _resume(run, corpus, folder, progress.say)
        evaluator = _evaluator(corpus, tokenizer, settings, progress.say)
        stopwatch = Stopwatch(state.get("seconds", 0.0))
        pace = _pace(settings.run, corpus, stopwatch)
        stream = stack.enter_context(_stream(run, corpus, tokenizer, settings, pace, state))
        watch = Watch(
            model,
            tokenizer,
            settings.run,
            {
                "task": "pretrain",
                "settings": table,
                "corpus": corpus.fingerprint,
                "tokenizer": tokenizer.fingerprint,
            },
            folder=folder,
            stream=stream,
            evaluator=evaluator,
            pace=pace,
            stopwatch=stopwatch,
            progress=progress,
            requests=stack.enter_context(StopRequests()),
            how_to_go_on=_command(folder),
            window=Window(**state.get("window", {})),
            step_seconds=state.get("step_seconds", 0.0),
        )
        train(
            run,
            stream,
            pace=pace,
            schedule=warmup_then_decay(settings.optimizer),
            max_gradient_norm=settings.optimizer.max_gradient_norm,
            seed=settings.run.seed,
            after_step=watch.after_step,
        )
        return watch.finish(run)


def _find_corpus(
    sources: Sequence[str],
    settings: PretrainSettings,
    vocab: Path | None,
    folder: RunFolder,
    progress: ProgressLine,
) -> tuple[Corpus, Tokenizer]:
    """Returns the corpus that was given, or that is made of the raw text, and its tokenizer."""
    if len(sources) == 1 and (Path(sources[0]) / MANIFEST).is_file():
        place = Path(sources[0])
        if settings.run.vocab_size is not None:
            raise ConfigError(
                f"vocab_size is given, but {place} was prepared with a vocabulary of its own; "
                f"give raw text, or leave vocab_size out"
            )
    else:
        place = folder.path / "corpus"
        if not (place / MANIFEST).is_file():
            _make_corpus(sources, settings, vocab, place, progress)
    corpus = open_corpus(place)
    if vocab is not None:
        corpus.require_tokenizer(read_tokenizer(vocab).fingerprint, f"that of {vocab}")
    tokenizer = corpus.read_tokenizer()
    _check_case(settings.run, tokenizer, place)
    total = corpus.total("train")
    progress.say(
        f"{place}: {total.documents:,} documents, {total.pieces:,} pieces to learn from, "
        f"{corpus.total('held_out').pieces:,} held out, {corpus.vocab_size:,} kinds of piece"
    )
    return corpus, tokenizer


def _make_corpus(
    sources: Sequence[str],
    settings: PretrainSettings,
    vocab: Path | None,
    place: Path,
    progress: ProgressLine,
) -> None:
    if vocab is not None:
        _check_case(settings.run, read_tokenizer(vocab), vocab)
    else:
        vocab = place.with_name("vocab")
        size = settings.run.vocab_size or _usual_vocab_size(settings.run)
        progress.say(f"learns a vocabulary of {size:,} pieces")
        learn(
            sources,
            vocab,
            VocabConfig(size=size, cased=bool(settings.run.cased)),
            settings.corpus,
            settings.prepare.workers,
            on_progress=lambda line: progress.show(None, line),
        )
    progress.say("prepares the corpus")
    prepare(
        sources,
        read_tokenizer(vocab),
        place,
        settings.corpus,
        settings.prepare,
        on_progress=lambda done: progress.show(None, f"{done / 1e6:,.0f} MB prepared"),
    )


def _check_case(config: PretrainConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Raises ConfigError where the vocabulary that is there has another case than was asked for."""
    is_cased = not tokenizer.casing.do_lower_case
    if config.cased is not None and config.cased != is_cased:
        kinds = {True: "cased", False: "uncased"}
        raise ConfigError(
            f"cased is {config.cased}, but the vocabulary of {where} is {kinds[is_cased]}; leave "
            f"cased out, or give raw text alone and a vocabulary is learnt that is "
            f"{kinds[config.cased]}"
        )


def _usual_vocab_size(config: PretrainConfig) -> int:
    """Returns the published size for wide encoders and a smaller one for narrow ones.

    Up to a width of 512, half the parameters or more would go into vectors of 30,522 pieces.
    """
    return 30_522 if bert_of_size(config.size).hidden_size > 512 else 8_192


def _new_model(corpus: Corpus, settings: PretrainSettings) -> PretrainingModel:
    """Returns a model of random weights, drawn from the run's seed."""
    longest = max(each.sequence_length for each in phases(settings.run, settings.examples))
    is_modern = settings.run.architecture == "modern"
    of_size: Callable[..., EncoderConfig] = modern_of_size if is_modern else bert_of_size
    config = of_size(
        settings.run.size,
        vocab_size=corpus.vocab_size,
        max_position_embeddings=max(longest, BertConfig.max_position_embeddings),
    )
    config = replace(config, **config.with_dropout(settings.run.dropout))  # type: ignore[arg-type]
    torch.manual_seed(settings.run.seed)
    model = pretraining_model_of(config)
    if settings.run.initialization == "directed":
        assert isinstance(model.encoder, Bert), "settings are refused where both are given"
        begin_directed(model.encoder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _resume(
    run: Run, corpus: Corpus, folder: RunFolder, say: Callable[[str], None]
) -> dict[str, Any]:
    """Puts `run` where the newest sound checkpoint stands; returns what that holds besides.

    Where none was ever finished the run starts at the beginning, and nothing is returned.
    """
    checkpoint = newest_checkpoint(folder.checkpoints, say)
    if checkpoint is None:
        if folder.metrics():
            say("the run was stopped before its first checkpoint: it starts at the beginning")
        folder.forget_after(0)
        return {}
    state = checkpoint.state
    if state["corpus"] != corpus.fingerprint:
        raise DataError(
            f"{corpus.path}: is corpus {corpus.fingerprint[:16]} of tokenizer "
            f"{corpus.tokenizer_fingerprint[:16]}, but {checkpoint.folder} was trained on corpus "
            f"{state['corpus'][:16]} of tokenizer {state['tokenizer'][:16]}; give that one"
        )
    restore(run, checkpoint)
    folder.forget_after(run.step)
    say(f"goes on from {checkpoint.folder}")
    return state


def _pace(config: PretrainConfig, corpus: Corpus, stopwatch: Stopwatch) -> Pace:
    if config.budget is not None:
        return by_time(seconds_of(config.budget), stopwatch)
    one_epoch = max(1, round(corpus.total("train").pieces / config.tokens_per_batch))
    return by_steps(config.steps or one_epoch)


def _stream(
    run: Run,
    corpus: Corpus,
    tokenizer: Tokenizer,
    settings: PretrainSettings,
    pace: Pace,
    state: Mapping[str, Any],
) -> StepStream:
    last = len(phases(settings.run, settings.examples)) - 1
    turn = 1.0 - settings.run.long_sequence_share
    return StepStream(
        corpus,
        tokenizer.vocabulary,
        settings.run,
        settings.examples,
        phase=lambda: last if pace(run.step) >= turn else 0,
        state=StreamState.from_mapping(state["stream"]) if state else StreamState(),
        device=next(run.model.parameters()).device,
    )


def _evaluator(
    corpus: Corpus, tokenizer: Tokenizer, settings: PretrainSettings, say: Callable[[str], None]
) -> Evaluator | None:
    batches = held_out_batches(
        corpus,
        tokenizer.vocabulary,
        settings.examples,
        most_examples=settings.run.evaluate_examples,
        tokens_per_batch=settings.run.tokens_per_batch,
    )
    if not batches:
        say("no text was set aside: results will be those of the training text itself")
        return None
    return Evaluator(batches, unigram_loss(corpus, batches))


def _command(folder: RunFolder) -> str:
    path = shlex.quote(str(folder.path))
    return f"bertsmith pretrain --config {path}/settings.json --out {path} --resume"
