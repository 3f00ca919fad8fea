"""What pre-training reads: the steps of its phases, the held-out batches, the unigram model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import ExamplesConfig, PretrainConfig
from bertsmith.data.batches import Position, Prefetched, Step, read_epoch, read_sized_steps
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.mixture import Mixture, training_examples
from bertsmith.data.packing import PackedBatch
from bertsmith.data.shards import Corpus
from bertsmith.data.sharing import WHOLE, Share, check_share
from bertsmith.errors import ConfigError
from bertsmith.recipes.pretraining.growth import step_sizes
from bertsmith.text.wordpiece import Vocabulary
from bertsmith.train.pace import Pace

_HELD_OUT_SEED = 0  # the same masks in every run, so that runs can be compared


def phases(config: PretrainConfig, examples: ExamplesConfig) -> list[ExamplesConfig]:
    """Returns the examples of the first phase and, where there is one, of the long last phase.

    Batches hold as many tokens in both. A cap on predictions grows with the length.

    Source: Devlin et al. 2019, appendix A.2.
    """
    short, long = examples.sequence_length, config.long_sequence_length
    if not config.long_sequence_share or long <= short:
        return [examples]
    cap = examples.max_predictions_per_seq
    grown = None if cap is None else round(cap * long / short)
    return [examples, replace(examples, sequence_length=long, max_predictions_per_seq=grown)]


@dataclass(frozen=True)
class StreamState:
    """Where the stream stands; all that a checkpoint must hold of the data."""

    phase: int = 0
    position: Position = Position()
    tokens: int = 0  # read so far

    def to_mapping(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> StreamState:
        """Returns what `to_mapping` wrote."""
        return cls(values["phase"], Position(**values["position"]), values["tokens"])


class StepStream:
    """Yields the parts of one optimizer step after another, phase after phase.

    `phase` is asked before each step. A phase starts at the first example of its own epoch 0.
    Examples are made in a thread of their own, some steps ahead; `state` is that of the last step
    handed out, whatever lies ready or was looked at. `pace` tells the share of the run done before
    each step, from `step` on, as sizes of batches and shares of masks may go by it. Use it as a
    context manager.
    """

    def __init__(
        self,
        corpus: Corpus | Mixture,
        vocabulary: Vocabulary,
        config: PretrainConfig,
        examples: ExamplesConfig,
        *,
        phase: Callable[[], int],
        state: StreamState,
        device: torch.device,
        pace: Pace = lambda step: 0.0,
        step: int = 0,
        share: Share = WHOLE,
    ) -> None:
        for each in phases(config, examples):
            if each.sequence_length > config.tokens_per_batch:
                raise ConfigError(
                    f"tokens_per_batch is {config.tokens_per_batch}; expected at least the longest "
                    f"sequence's {each.sequence_length}"
                )
            check_share(share, config.accumulate, config.tokens_per_batch, each.sequence_length)
        first = config.first_tokens_per_batch
        if first is not None and first < examples.sequence_length:
            raise ConfigError(
                f"first_tokens_per_batch is {first}; expected at least the sequence_length of "
                f"{examples.sequence_length}"
            )
        if first is not None:
            check_share(share, config.accumulate, first, examples.sequence_length)
        self.state = state
        self._step = step
        self._pace = pace
        self._config = config
        self._phase = phase
        self._device = device
        self._phases = phases(config, examples)
        self._share = share
        self._examples = [
            training_examples(corpus, vocabulary, each, seed=config.seed) for each in self._phases
        ]
        self._seen: deque[Step] = deque()  # looked at, and yet to be handed out
        self._steps = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()

    def __iter__(self) -> Iterator[list[dict[str, Tensor]]]:
        return self

    def __next__(self) -> list[dict[str, Tensor]]:
        phase = self._phase()
        if phase != self.state.phase:
            self._steps.close()
            self._seen.clear()
            self.state = replace(self.state, phase=phase, position=Position())
            self._steps = self._read()
        step = self._seen.popleft() if self._seen else next(self._steps)
        self._step += 1
        tokens = self.state.tokens + step.num_tokens
        self.state = replace(self.state, position=step.position, tokens=tokens)
        return [part.to(self._device).tensors() for part in step.parts]

    def peek(self, steps: int) -> list[PackedBatch]:
        """Returns the batches of the next `steps` of this phase, which are handed out as ever."""
        while len(self._seen) < steps:
            self._seen.append(next(self._steps))
        return [part for step in list(self._seen)[:steps] for part in step.parts]

    def _read(self) -> Prefetched[Step]:
        phase = self.state.phase
        return Prefetched(
            read_sized_steps(
                self._examples[phase],
                self.state.position,
                step_sizes(self._config, self._phases[phase], self._pace, self._step),
                accumulate=self._config.accumulate,
                share=self._share,
            )
        )


def held_out_batches(
    corpus: Corpus | Mixture,
    vocabulary: Vocabulary,
    examples: ExamplesConfig,
    *,
    most_examples: int,
    tokens_per_batch: int,
) -> list[PackedBatch]:
    """Returns the batches that runs are measured on: always the same examples, the same masks.

    Every piece to predict is hidden, as many as at the start of a run; left to right nothing is.
    Of a mixture each corpus gives as many examples as its share.
    It is empty where no text was set aside.
    """
    if isinstance(corpus, Mixture):
        return [
            batch
            for part, share in zip(corpus.corpora, corpus.shares, strict=True)
            for batch in held_out_batches(
                part,
                vocabulary,
                examples,
                most_examples=ceil(most_examples * share),
                tokens_per_batch=tokens_per_batch,
            )
        ]
    if not corpus.shards("held_out"):
        return []
    held_out = PretrainingExamples(
        corpus, vocabulary, examples, seed=_HELD_OUT_SEED, split="held_out"
    )
    batches, sequences = [], 0
    for batch in read_epoch(held_out, tokens_per_batch=tokens_per_batch):
        batches.append(as_measured(batch, examples, vocabulary))
        sequences += batch.num_sequences
        if sequences >= most_examples:
            break
    return batches


def as_measured(
    batch: PackedBatch, examples: ExamplesConfig, vocabulary: Vocabulary
) -> PackedBatch:
    """Returns a batch as models are measured on it: with [MASK] at all pieces to predict, if any.

    Left to right all pieces are there to be read.
    """
    return batch if examples.objective == "lm" else batch.hidden(vocabulary.mask_id)


def unigram_loss(
    corpus: Corpus | Mixture, batches: list[PackedBatch], sep_id: int | None = None
) -> float:
    """Returns the loss of the model that knows nothing but how often each piece occurs.

    That is the mean negative log-likelihood of the predicted pieces of `batches` under the
    frequencies of the training text, one added to each count. A run that does not pass it has not
    learned. The text holds no [SEP], which a model left to right predicts, too: `sep_id` counts as
    often as it does among the predicted pieces.
    """
    counts = _piece_counts(corpus) + 1
    labels = np.concatenate(
        [batch.masked_labels.numpy() for batch in batches if batch.masked_labels is not None]
    )
    if sep_id is not None:
        ends = (labels == sep_id).mean()
        counts[sep_id] += counts.sum() * ends / (1 - ends)
    losses = -np.log(counts / counts.sum())
    return float(losses[labels].mean())


def unigram_entropy(corpus: Corpus | Mixture, vocabulary: Vocabulary) -> float:
    """Returns the loss that the unigram model of the training text has on that text itself.

    [UNK] is left out, which is never predicted.
    """
    counts = _piece_counts(corpus)
    counts[vocabulary.unk_id] = 0
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _piece_counts(corpus: Corpus | Mixture) -> NDArray[np.float64]:
    """Returns how often each piece stands in the training text; in a mixture as it is drawn. [V]"""
    counts = np.zeros(corpus.vocab_size)
    if isinstance(corpus, Mixture):
        total = corpus.total("train").pieces
        for part, share in zip(corpus.corpora, corpus.shares, strict=True):
            counts += _piece_counts(part) * (share * total / part.total("train").pieces)
        return counts
    for number in range(len(corpus.shards("train"))):
        pieces = corpus.open_shard("train", number).pieces
        counts += np.bincount(pieces, minlength=corpus.vocab_size)
    return counts
