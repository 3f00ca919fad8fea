"""Pre-training: a prepared corpus, or raw text, becomes an encoder.

    bertsmith pretrain TEXT... --vocab-size 8192 --size mini --budget 60m --out run

Source: Devlin et al. 2019, section 3.1 and appendix A.2; `run_pretraining.py`.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from bertsmith.config import seconds_of
from bertsmith.data.mixture import Mixture, epoch_pieces
from bertsmith.data.shards import Corpus
from bertsmith.data.sharing import Share
from bertsmith.errors import DataError, NotFiniteError
from bertsmith.model.kinds import PretrainingModel, matrices_of_blocks
from bertsmith.model.memory import keep_freed_memory
from bertsmith.progress import ProgressLine
from bertsmith.recipes.pretraining.alarms import Alarms
from bertsmith.recipes.pretraining.budget import Choices, Setting, choose
from bertsmith.recipes.pretraining.checks import check_start, first_sequences, joined
from bertsmith.recipes.pretraining.corpora import losses
from bertsmith.recipes.pretraining.data import (
    StepStream,
    StreamState,
    held_out_batches,
    phases,
    unigram_entropy,
    unigram_loss,
)
from bertsmith.recipes.pretraining.filled_masks import hidden_words
from bertsmith.recipes.pretraining.growth import mean_tokens
from bertsmith.recipes.pretraining.metric_sinks import Mirror, require_sink
from bertsmith.recipes.pretraining.model import new_model
from bertsmith.recipes.pretraining.out_of_memory import explained_lack_of_memory
from bertsmith.recipes.pretraining.ranks import FirstRank, OtherRank
from bertsmith.recipes.pretraining.raw_text import find_corpus
from bertsmith.recipes.pretraining.report import leave_report
from bertsmith.recipes.pretraining.settings import MAY_CHANGE, PretrainSettings, check_settings
from bertsmith.recipes.pretraining.start import checked_start
from bertsmith.recipes.pretraining.utilisation import measured_flop_share
from bertsmith.recipes.pretraining.watch import Evaluator, Watch, Window
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.checkpoint import (
    newest_checkpoint,
    refuse_without_room_to_keep,
    restore,
)
from bertsmith.train.loop import Run, loss_weights_of, train
from bertsmith.train.optimizer import optimizer_of, schedule_of
from bertsmith.train.pace import Ending, Pace, Stopwatch, by_steps, by_time
from bertsmith.train.place import Place, place_of_this_process
from bertsmith.train.ranks import Ranks, join_ranks
from bertsmith.train.run_folder import RunFolder, open_run_folder
from bertsmith.train.stopping import stopped_at_once

CHECKED_STEPS = 8  # whose examples are looked at before the first; they lie ready anyway
PROBE_TOKENS = 512  # on which weights are tried before they are written


def pretrain(
    sources: Sequence[str],
    out: Path,
    settings: PretrainSettings,
    *,
    vocab: Path | None = None,
    resume: bool = False,
    began: float | None = None,
    choices: Choices | None = None,
) -> dict[str, Any]:
    """Trains an encoder on hidden or next pieces, and on pairs of texts, in the run folder `out`.

    `sources` are folders that `prepare` wrote, mixed by weight where they are several, or raw text.
    From raw text it first learns a vocabulary, unless `vocab` is the folder of one, and prepares a
    corpus in `out`. With `resume` it goes on from the newest sound checkpoint, or starts where
    there is none yet; stopped and resumed by steps, with as many threads, it ends with the weights
    of the unbroken run, bit for bit.

    A budget is the time of the whole call, or since `began` by `time.monotonic`: what is learnt and
    prepared of raw text, what is measured so as to choose, and the last evaluation are part of it.

    Started by torchrun, every rank calls it alike; they train on the same steps as one would, each
    on its share. The first holds the run folder and gives the result; the others give nothing.

    Returns:
        `steps`, `tokens`, `seconds` and `tokens_per_second` of all sittings; `mlm_loss`,
        `mlm_accuracy`, `nsp_loss`, `nsp_accuracy` and `unigram_loss` on the `split` that they were
        measured on: "held_out", or "train" (the last logged steps) where no text was set aside;
        `lost_shards`, `lost_documents` and `lost_pieces` where damaged shards may be passed over;
        and the run folder `out`, whose `model` is the result. Left to right it is `lm_...`, not
        `mlm_...`; `nsp_...` is of the task on pairs, which may be `sop`, and absent without one.

    Raises:
        ConfigError: settings contradict each other, or those that the run was begun with; or the
            memory does not suffice for them.
        DataError: the text, the corpus or the vocabulary does not hold what it must.
        FolderInUseError: another run is at work in `out`, or it holds something else.
        MissingInputError: the package that `log_to` names is not installed.
        NotFiniteError: a loss or gradient became NaN or infinite.
        DivergedError: the loss jumped, and `stop_at_divergence` was asked for.
        SelfCheckError: new weights do not compute what they must.
        RanksError: another rank has gone, or does not answer.
        StoppedError: SIGINT, SIGTERM or SIGHUP asked for it; everything is saved.
    """
    began = time.monotonic() if began is None else began
    require_sink(settings.watch.log_to)
    place = place_of_this_process()
    inputs = {"data": list(map(_spelt, sources)), "vocab": str(vocab) if vocab else None}
    vocab = checked_start(settings, vocab, ProgressLine().say)
    check_settings(settings, vocab, place)
    torch.set_num_threads(settings.run.threads or place.threads)
    keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(stopped_at_once(out))
        ranks = stack.enter_context(join_ranks(place, settings.ranks.timeout_seconds))
        if ranks.rank:
            return _follow(ranks, settings, choices, vocab, place)
        again = resume or place.restarts > 0
        folder = stack.enter_context(open_run_folder(out, resume=again))
        progress = stack.enter_context(ProgressLine())
        corpus, tokenizer = find_corpus(sources, settings, vocab, folder, progress)
        chosen: dict[str, Setting] = {}
        if choices is not None:
            spent = Stopwatch(0.0, began)
            chosen = choose(corpus, tokenizer, choices, folder.path, spent, progress, ranks.count)
            settings = choices.resolve(chosen)
            check_settings(settings, vocab, place)
        table = inputs | settings.to_mapping()
        folder.settle(
            table, may_change=MAY_CHANGE, say=progress.say, unnamed=settings.defaults().to_mapping()
        )
        model = new_model(corpus, settings)
        matrices = matrices_of_blocks(model)
        run = Run(model, optimizer_of(model, settings.optimizer, matrices=matrices))
        refuse_without_room_to_keep(folder.checkpoints, run, settings.run.keep_checkpoints)
        state = _resume(run, corpus, folder, progress.say)
        mirror = stack.enter_context(
            Mirror(settings.watch.log_to, folder.path, table, progress.say, run.step)
        )
        first = stack.enter_context(FirstRank(ranks))
        trained = first.begin(
            run, corpus, state, settings, chosen, lambda: new_model(corpus, settings)
        )
        evaluator = first.evaluator(_evaluator(corpus, tokenizer, settings, progress.say))
        stopwatch = Stopwatch(state.get("seconds", 0.0), began)
        ending = Ending(state.get("ending_seconds", 0.0))
        pace = first.pace(_pace(settings, corpus, stopwatch, ending), settings.run)
        stream = stack.enter_context(
            _stream(trained, corpus, tokenizer, settings, pace, state, ranks)
        )
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
            requests=first.requests,
            how_to_go_on=_command(folder, place),
            before_writing=first.gather,
            window=Window(**state.get("window", {})),
            step_seconds=state.get("step_seconds", 0.0),
            ending=ending,
            alarms=Alarms.after(
                folder.metrics(), settings.watch, settings.run, loss_weights_of(model)
            ),
            mirror=mirror,
            probe=joined(
                first_sequences(evaluator.batches if evaluator else stream.peek(1), PROBE_TOKENS)
            ),
            hidden=hidden_words(corpus, tokenizer, settings.examples.sequence_length),
            train_unigram_loss=None if evaluator else unigram_entropy(corpus, tokenizer.vocabulary),
        )
        if settings.watch.measure_peak:
            watch.flop_share = measured_flop_share(
                cast(PretrainingModel, trained.model),
                phases(settings.run, settings.examples),
                lambda: stream.state.phase,
                progress.say,
                num_devices=ranks.count,
            )
        stack.callback(leave_report, folder.path, progress.say)
        with explained_lack_of_memory(trained, model, settings.run, settings.longest):
            if run.step == 0:
                ahead = stream.peek(CHECKED_STEPS)
                is_new = settings.run.from_ is None
                watch.begin(run, check_start(model, ahead, settings.examples, is_new=is_new))
            _train(trained, stream, settings, pace, first.after_step(watch.after_step), ranks)
            with first.leading():
                return watch.finish(run) | losses(corpus, settings.run)


def _spelt(source: str) -> str:
    """Returns a path in one of its spellings, so that t.txt and ./t.txt are the same input."""
    return source if "://" in source else os.path.normpath(source)


def _train(
    run: Run,
    stream: StepStream,
    settings: PretrainSettings,
    pace: Pace,
    after_step: Callable[[Run, dict[str, float]], None],
    ranks: Ranks,
) -> None:
    try:
        train(
            run,
            stream,
            pace=pace,
            schedule=schedule_of(settings.optimizer),
            max_gradient_norm=settings.optimizer.max_gradient_norm,
            seed=settings.run.seed,
            after_step=after_step,
            ranks=ranks,
        )
    except NotFiniteError as error:
        state = stream.state
        raise NotFiniteError(
            f"{error} (the last examples read are those before {state.position.index:,} of epoch "
            f"{state.position.epoch} in phase {state.phase}, drawn with seed {settings.run.seed})"
        ) from error


def _follow(
    ranks: Any,
    settings: PretrainSettings,
    choices: Choices | None,
    vocab: Path | None,
    place: Place,
) -> dict[str, Any]:
    """Trains beside the first rank, which does all the rest; returns nothing."""
    with ExitStack() as stack:
        other = stack.enter_context(OtherRank(ranks))
        corpus, state, chosen = other.begin(settings.run)
        if choices is not None:
            settings = choices.resolve(chosen)
            check_settings(settings, vocab, place)
        tokenizer = corpus.read_tokenizer()
        run = other.join(settings, lambda: new_model(corpus, settings))
        model = cast(PretrainingModel, run.model)
        evaluator = _evaluator(corpus, tokenizer, settings, lambda _: None)
        pace = other.pace(_pace(settings, corpus, Stopwatch(), Ending()), settings.run)
        stream = stack.enter_context(_stream(run, corpus, tokenizer, settings, pace, state, ranks))
        with explained_lack_of_memory(run, model, settings.run, settings.longest):
            _train(run, stream, settings, pace, other.after_step(evaluator), ranks)
            other.obey()
        return {}


def _resume(
    run: Run, corpus: Corpus | Mixture, folder: RunFolder, say: Callable[[str], None]
) -> dict[str, Any]:
    """Puts `run` where the newest sound checkpoint stands; returns what that holds besides.

    Where none was ever finished the run starts at the beginning, and nothing is returned.
    """
    checkpoint = newest_checkpoint(folder.checkpoints, say)
    if checkpoint is None:
        if folder.metrics():
            say("the run was stopped before its first checkpoint: it starts at the beginning")
        folder.forget_after(-1)
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


def _pace(
    settings: PretrainSettings, corpus: Corpus | Mixture, stopwatch: Stopwatch, ending: Ending
) -> Pace:
    config = settings.run
    if config.budget is not None:
        return by_time(seconds_of(config.budget), stopwatch, ending)
    tokens = mean_tokens(config, settings.examples)
    one_epoch = max(1, round(epoch_pieces(corpus) / tokens))
    return by_steps(config.steps or one_epoch)


def _stream(
    run: Run,
    corpus: Corpus | Mixture,
    tokenizer: Tokenizer,
    settings: PretrainSettings,
    pace: Pace,
    state: Mapping[str, Any],
    ranks: Ranks,
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
        share=Share(ranks.rank, ranks.count),
        pace=_pace_of_sizes(pace, settings, ranks),
        step=run.step,
    )


def _pace_of_sizes(pace: Pace, settings: PretrainSettings, ranks: Ranks) -> Pace:
    """Returns the pace that sizes of steps go by, which each rank asks for some steps ahead.

    By the clock, where ranks must agree on it at every step, no size changes.
    """
    return pace if ranks.count == 1 or settings.run.budget is None else lambda step: 0.0


def _evaluator(
    corpus: Corpus | Mixture,
    tokenizer: Tokenizer,
    settings: PretrainSettings,
    say: Callable[[str], None],
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
    predicts_ends = settings.examples.objective == "lm"
    sep_id = tokenizer.vocabulary.sep_id if predicts_ends else None
    return Evaluator(batches, unigram_loss(corpus, batches, sep_id))


def _command(folder: RunFolder, place: Place) -> str:
    path = shlex.quote(str(folder.path))
    start = "bertsmith" if place.count == 1 else "torchrun ... -m bertsmith"
    return f"{start} pretrain --config {path}/settings.json --out {path} --resume"
