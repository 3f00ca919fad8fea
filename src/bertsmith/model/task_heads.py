"""What a task puts on the encoder: classes, a number, tags, answer spans, choices.

A trainable model's `forward` takes the tensors of one packed batch and returns sums by name;
`counts` says how many things each was summed over. `logits` is what predictions are made of: a row
for each sequence or, where `per_token`, for each token.

Any kind of encoder can stand below. What lies between its states and a task's layer (a pooler, a
prediction head) is the encoder's own, and so is its rate of dropout there.

Shapes:  T tokens   S sequences   M labelled tokens   R rows of choices   H hidden size   C classes
         I intents   N sentences, each of one sequence or several
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.config import EncoderConfig
from bertsmith.errors import ConfigError
from bertsmith.model.bilstm import BertForFeatureTagging
from bertsmith.model.crf import Crf
from bertsmith.model.dropout import Noise, drop
from bertsmith.model.heads import class_loss
from bertsmith.model.kinds import Encoder, encoder_of, encoder_of_tokens, new_task_layer


class OnFirsts(nn.Module):
    """The encoder with a layer on the vector that it makes of each sequence.

    Left to right it is made of the last token, which has read the others; see `Bert.firsts`.
    """

    per_token: ClassVar[bool] = False

    def __init__(self, config: EncoderConfig, num_outputs: int) -> None:
        """Draws new weights from torch's default generator."""
        super().__init__()
        self.config = config
        self.encoder = encoder_of(config)
        self.classifier = new_task_layer(config, num_outputs)

    def logits(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the outputs for each sequence: scores, or a number. [S, C]

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
        """
        texts = self.encoder.of_texts(  # [S, H]
            piece_ids, segment_ids, position_ids, sequence_starts
        )
        return self.classifier(_dropped(self.encoder, texts))  # [S, C]


class BertForClassification(OnFirsts):
    """The encoder with one score per class for each sequence, of which one or several are right.

    Source: Devlin et al. 2019, section 4.1; it agrees with
    `transformers.BertForSequenceClassification`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_labels: int,
        *,
        several: bool = False,
        smoothing: float = 0.0,
    ) -> None:
        """Draws new weights from torch's default generator.

        Args:
            config: of the encoder.
            num_labels: C.
            several: whether any number of classes may be right at once.
            smoothing: share of each label that the loss spreads over all classes evenly.
        """
        super().__init__(config, num_labels)
        self.num_labels = num_labels
        self.several = several
        self.smoothing = smoothing

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the sums of `loss` and `accuracy` over sequences.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            labels: the right class, int64 [S]; or 1 for every right one, float [S, C].
            label_weights: how much each sequence's loss counts; all alike if None. float [S]
        """
        logits = self.logits(piece_ids, segment_ids, position_ids, sequence_starts).float()  # [S,C]
        if self.several:
            losses = F.binary_cross_entropy_with_logits(  # [S]
                logits, labels, reduction="none"
            ).mean(1)
            right = ((logits.detach() > 0) == (labels > 0.5)).all(1)  # [S]
        else:
            losses = F.cross_entropy(  # [S]
                logits, labels, reduction="none", label_smoothing=self.smoothing
            )
            right = logits.detach().argmax(1) == labels  # [S]
        if label_weights is not None:
            losses = losses * label_weights  # [S]
        return {"loss": losses.sum(), "accuracy": right.sum()}

    def counts(
        self, *, labels: Tensor, label_weights: Tensor | None = None, **_: Tensor
    ) -> dict[str, float]:
        """Returns how many things each sum of `forward` is over; weighted ones count as they weigh.

        Source: `torch.nn.CrossEntropyLoss`, whose weighted mean is over the weights.
        """
        weight = len(labels) if label_weights is None else float(label_weights.sum())
        return {"loss": weight, "accuracy": len(labels)}


class BertForRegression(OnFirsts):
    """The encoder with one number for each sequence.

    Source: Devlin et al. 2019, section 4.1 (STS-B); it agrees with
    `transformers.BertForSequenceClassification` of one label.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, 1)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the sum of `loss`, the squared error, over sequences.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            labels: the right numbers. float [S]
            label_weights: how much each sequence's loss counts; all alike if None. float [S]
        """
        logits = self.logits(piece_ids, segment_ids, position_ids, sequence_starts)  # [S, 1]
        losses = (logits.squeeze(1).float() - labels.float()).square()  # [S]
        return {"loss": (losses if label_weights is None else losses * label_weights).sum()}

    def counts(
        self, *, labels: Tensor, label_weights: Tensor | None = None, **_: Tensor
    ) -> dict[str, float]:
        """Returns how many things the sum of `forward` is over, weighted ones as they weigh."""
        return {"loss": len(labels) if label_weights is None else float(label_weights.sum())}


class BertForTagging(nn.Module):
    """The encoder with one score per tag for each token and, jointly, one per intent for each text.

    Source: Devlin et al. 2019, section 5.3 and figure 4 (d); it agrees with
    `transformers.BertForTokenClassification`. The intents stand on the pooled [CLS], and their loss
    is added to that of the tags, as in Chen et al. 2019 (JointBERT), section 3.2. With a `crf` the
    loss is that of whole sentences' tags, and a word's own scores are what `logits` returns.
    """

    per_token: ClassVar[bool] = True

    def __init__(
        self, config: EncoderConfig, num_labels: int, *, num_intents: int = 0, crf: bool = False
    ) -> None:
        """Draws new weights from torch's default generator.

        Raises:
            ConfigError: intents are asked for of an encoder that reads left to right.
        """
        super().__init__()
        if config.is_decoder and num_intents:
            raise ConfigError(
                "the encoder reads left to right, so that [CLS], on which intents stand, has read "
                "nothing; expected a bidirectional encoder, or tags without intents"
            )
        self.config = config
        self.num_labels = num_labels
        self.num_intents = num_intents
        self.encoder = encoder_of_tokens(config, with_texts=num_intents > 0)
        self.classifier = new_task_layer(config, num_labels)
        self.intents = new_task_layer(config, num_intents) if num_intents else None
        self.crf = Crf(num_labels) if crf else None

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        label_positions: Tensor,
        labels: Tensor,
        intent_labels: Tensor | None = None,
        sentence_lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the sums of `loss` and `accuracy` over the labelled tokens.

        With intents also those of `intent_loss` and `intent_accuracy` over sequences.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            label_positions: the tokens that have a tag, counted over the batch. int64 [M]
            labels: their tags. int64 [M]
            intent_labels: the intent of each sequence, where the model tells intents. int64 [S]
            sentence_lengths: labelled tokens of each sentence, for a model with a CRF. int64 [N]
        """
        hidden = self.encoder(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        states = self.encoder.of_tokens(hidden.index_select(0, label_positions))  # [M, H]
        scores = self.classifier(_dropped(self.encoder, states))  # [M, C]
        if self.crf is None:
            loss, correct = class_loss(scores, labels)
        else:
            assert sentence_lengths is not None, "a CRF is trained on whole sentences"
            loss = self.crf.loss(scores, labels, sentence_lengths)
            correct = self.crf.num_right(scores, labels, sentence_lengths)
        sums = {"loss": loss, "accuracy": correct}
        if self.intents is not None:
            assert intent_labels is not None, "a model with intents is trained on them"
            pooled = self.encoder.of_texts_among(hidden, sequence_starts)  # [S, H]
            of_texts = self.intents(_dropped(self.encoder, pooled))  # [S, I]
            intent_loss, intent_correct = class_loss(of_texts, intent_labels)
            sums |= {"intent_loss": intent_loss, "intent_accuracy": intent_correct}
        return sums

    def counts(
        self, *, labels: Tensor, intent_labels: Tensor | None = None, **_: Tensor
    ) -> dict[str, float]:
        """Returns how many things each sum of `forward` is over."""
        counts: dict[str, float] = {"loss": len(labels), "accuracy": len(labels)}
        if self.intents is not None and intent_labels is not None:
            counts |= {"intent_loss": len(intent_labels), "intent_accuracy": len(intent_labels)}
        return counts

    def logits(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns a score for each tag of each token, by itself also where there is a CRF. [T, C]

        With intents, those of its sequence stand behind them, the same for all its tokens. [T, C+I]
        """
        hidden = self.encoder(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        states = self.encoder.of_tokens(hidden)  # [T, H]
        scores = self.classifier(_dropped(self.encoder, states))  # [T, C]
        if self.intents is None:
            return scores
        pooled = self.encoder.of_texts_among(hidden, sequence_starts)  # [S, H]
        of_texts = self.intents(_dropped(self.encoder, pooled))  # [S, I]
        lengths = sequence_starts.to(hidden.device).diff()  # [S]
        return torch.cat([scores, of_texts.repeat_interleave(lengths, dim=0)], dim=1)  # [T, C + I]


class BertForAnswering(nn.Module):
    """The encoder with two scores for each token: that an answer starts here, and that it ends.

    Source: Devlin et al. 2019, section 4.2; it agrees with `transformers.BertForQuestionAnswering`.
    """

    per_token: ClassVar[bool] = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder_of_tokens(config, with_texts=False)
        self.spans = new_task_layer(config, 2)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        span_starts: Tensor,
        span_ends: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the sum over sequences of `loss`, the mean of that of the start and of the end.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            span_starts: first token of the answer, counted within its sequence. int64 [S]
            span_ends: last token of the answer, likewise. int64 [S]
        """
        logits = self.logits(piece_ids, segment_ids, position_ids, sequence_starts).float()  # [T,2]
        firsts = sequence_starts.to(device=logits.device, dtype=torch.int64)  # [S + 1]
        owners = torch.repeat_interleave(  # [T]
            torch.arange(len(firsts) - 1, device=logits.device), firsts.diff()
        )
        tops = logits.new_full((len(firsts) - 1, 2), -torch.inf)  # [S, 2]
        tops = tops.scatter_reduce(0, owners[:, None].expand_as(logits), logits.detach(), "amax")
        sums = torch.zeros_like(tops).index_add(0, owners, (logits - tops[owners]).exp())  # [S, 2]
        right = firsts[:-1, None] + torch.stack([span_starts, span_ends], 1)  # [S, 2]
        losses = sums.log() + tops - logits.gather(0, right)  # [S, 2]
        return {"loss": losses.mean(1).sum()}

    def counts(self, *, span_starts: Tensor, **_: Tensor) -> dict[str, float]:
        """Returns how many things the sum of `forward` is over."""
        return {"loss": len(span_starts)}

    def logits(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns for each token the scores of an answer's start and end. [T, 2]"""
        hidden = self.encoder(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        return self.spans(self.encoder.of_tokens(hidden))  # [T, 2]


class BertForChoice(OnFirsts):
    """The encoder with one score for each sequence, of which the best of a row is chosen.

    Source: Devlin et al. 2019, section 4.4; it agrees with `transformers.BertForMultipleChoice`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, 1)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the sums of `loss` and `accuracy` over rows; all have as many sequences.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: those of one row stand side by
                side; see `Bert.forward`.
            labels: which of its sequences is the right one of each row. int64 [R]
        """
        logits = self.logits(piece_ids, segment_ids, position_ids, sequence_starts)  # [S, 1]
        loss, correct = class_loss(logits.view(len(labels), -1), labels)
        return {"loss": loss, "accuracy": correct}

    def counts(self, *, labels: Tensor, **_: Tensor) -> dict[str, float]:
        """Returns how many things each sum of `forward` is over."""
        return {"loss": len(labels), "accuracy": len(labels)}


TaskModel = (
    BertForClassification
    | BertForRegression
    | BertForTagging
    | BertForFeatureTagging
    | BertForAnswering
    | BertForChoice
)


def _dropped(encoder: Encoder, states: Tensor) -> Tensor:
    """Returns states as a task's layer reads them: with dropout in training, of the same shape."""
    noise = Noise.draw() if encoder.training else None
    return drop(states, encoder.config.head_dropout, noise)
