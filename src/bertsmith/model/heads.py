"""What pre-training puts on the encoder: masked or next pieces, and the judgement of a pair.

A trainable model's `forward` takes the tensors of one packed batch and returns sums by name;
`counts` says how many things each was summed over. Names that end in `loss` are minimised.

Shapes:  T tokens   S sequences   M masked tokens   H hidden size   V vocabulary   C classes
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bertsmith.config import BertConfig
from bertsmith.errors import DataError
from bertsmith.model.bert import Bert, activate, first_states, initialize

_BLOCK_LOGITS = 1 << 19  # logits that are worked on at a time: 2 MiB, to stay in the cache
_FEWEST_PIECES = 256  # of a block: products of fewer columns are slow
_CHUNK = 1024  # states that are scored together where every token's are


class MaskedPieceHead(nn.Module):
    """Predicts the pieces at chosen places; its output weight is that of the piece embeddings.

    Source: Devlin et al. 2019, section 3.1, and `get_masked_lm_output` of the published code.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialize(self, config.initializer_range)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the states that are compared with every piece's vector. [M, H] -> [M, H]"""
        return self.norm(activate(self.dense(hidden), self.activation))  # [M, H]


class BertForPreTraining(nn.Module):
    """The encoder with the heads it is pre-trained with; without `next_sentence`, with MLM alone.

    With an encoder that reads left to right (`is_decoder`) and no `next_sentence` it is a language
    model: the same head predicts the piece that follows, and its sums are `lm_...`, not `mlm_...`.

    Source: Devlin et al. 2019, section 3.1, and section 5.1 ("LTR & No NSP"); it agrees with
    `transformers.BertForPreTraining` (without `next_sentence`: `transformers.BertForMaskedLM`;
    left to right: `transformers.BertLMHeadModel`).
    """

    def __init__(self, config: BertConfig, next_sentence: bool = True) -> None:
        super().__init__()
        assert not (config.is_decoder and next_sentence), "[CLS] has read nothing, left to right"
        self.config = config
        self.piece_task = "lm" if config.is_decoder else "mlm"
        self.encoder = Bert(config, with_pooler=next_sentence)
        self.masked = MaskedPieceHead(config)
        self.next = nn.Linear(config.hidden_size, 2) if next_sentence else None
        if self.next is not None:
            initialize(self.next, config.initializer_range)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        masked_positions: Tensor,
        masked_labels: Tensor,
        next_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns sums of `mlm_loss` and `mlm_accuracy`, and of `nsp_...` where there is that head.

        Left to right they are `lm_loss` and `lm_accuracy`.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            masked_positions: tokens to predict, counted over the whole batch; left to right, those
                whose next one is predicted. int64 [M]
            masked_labels: the pieces that stood there, or that come next. int64 [M]
            next_labels: 0 where the second half is the true next one, 1 where not. int64 [S]
        """
        hidden = self.encoder(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        states = self.masked(hidden.index_select(0, masked_positions))  # [M, H]
        loss_of = piece_loss_in_chunks if self.config.is_decoder else piece_loss
        loss, correct = loss_of(
            states, self.encoder.embeddings.pieces.weight, self.masked.bias, masked_labels
        )
        sums = {f"{self.piece_task}_loss": loss, f"{self.piece_task}_accuracy": correct}
        if self.next is not None:
            if next_labels is None:
                raise DataError(
                    "the model has a next-sentence head but the batch has no next_labels"
                )
            logits = self.next(self.encoder.pool(first_states(hidden, sequence_starts)))  # [S, 2]
            sums["nsp_loss"], sums["nsp_accuracy"] = class_loss(logits, next_labels)
        return sums

    def counts(
        self, *, sequence_starts: Tensor, masked_positions: Tensor, **_: Tensor
    ) -> dict[str, int]:
        """Returns how many things each sum of `forward` is over."""
        masked, sequences = len(masked_positions), len(sequence_starts) - 1
        counts = {f"{self.piece_task}_loss": masked, f"{self.piece_task}_accuracy": masked}
        if self.next is not None:
            counts |= {"nsp_loss": sequences, "nsp_accuracy": sequences}
        return counts

    def logits(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Returns a score for each piece at each of `positions`, int64 [M], of the batch. [M, V]"""
        inputs = (piece_ids, segment_ids, position_ids, sequence_starts)
        states = self.masked(self.encoder.at(*inputs, positions))  # [M, H]
        return F.linear(states, self.encoder.embeddings.pieces.weight, self.masked.bias)  # [M, V]

    def next_logits(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the scores of 'true next sentence' and 'not'. [S, 2]"""
        assert self.next is not None, "this model was made without a next-sentence head"
        firsts = self.encoder.firsts(  # [S, H]
            piece_ids, segment_ids, position_ids, sequence_starts
        )
        return self.next(self.encoder.pool(firsts))  # [S, 2]


def class_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the cross-entropy and the number of right answers, summed. [S, C], int64 [S]"""
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    return loss, (logits.detach().argmax(1) == labels).sum()


def piece_loss(
    states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the cross-entropy over the vocabulary and the number of right answers, summed.

    A right answer is one that no other piece scores higher than.

    Args:
        states: [M, H]
        weight: vectors of the pieces. [V, H]
        bias: [V]
        labels: int64 [M]
    """
    if states.device.type == "cpu" and len(labels) and not torch.is_autocast_enabled("cpu"):
        loss, correct = _PieceLoss.apply(states, weight, bias, labels, torch.is_grad_enabled())
        return loss, correct
    return class_loss(F.linear(states, weight, bias), labels)


def piece_loss_in_chunks(
    states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what `piece_loss` does, in memory that does not grow with the number of states.

    The gradient is made chunk by chunk on the way forward, so that no chunk's scores are kept.
    """
    if len(labels) <= _CHUNK or not torch.is_grad_enabled():
        chunks = zip(states.split(_CHUNK), labels.split(_CHUNK), strict=True)
        parts = [piece_loss(some, weight, bias, right) for some, right in chunks]
        losses, corrects = zip(*parts, strict=True)
        return sum(losses[1:], losses[0]), sum(corrects[1:], corrects[0])
    loss, correct = _ChunkedPieceLoss.apply(states, weight, bias, labels)
    return loss, correct


class _ChunkedPieceLoss(torch.autograd.Function):
    """The sum of `piece_loss` over chunks of states, whose gradient is ready when it is asked for.

    A sum's gradient is that of its parts times one number, which is known only on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        for_states = torch.empty_like(states)  # [M, H]
        totals = [torch.zeros_like(weight), torch.zeros_like(bias)]  # [V, H], [V]
        loss, correct = states.new_zeros(()), labels.new_zeros(())
        first = 0
        for some, right in zip(states.split(_CHUNK), labels.split(_CHUNK), strict=True):
            with torch.enable_grad():
                leaf, *shared = (part.detach().requires_grad_() for part in (some, weight, bias))
                part_loss, part_correct = piece_loss(leaf, shared[0], shared[1], right)
            gradients = torch.autograd.grad(part_loss, [leaf, *shared])
            for_states[first : first + len(some)] = gradients[0]
            for total, gradient in zip(totals, gradients[1:], strict=True):
                total += gradient
            loss, correct = loss + part_loss.detach(), correct + part_correct
            first += len(some)
        ctx.save_for_backward(for_states, *totals)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * scale for gradient in ctx.saved_tensors), None


class _PieceLoss(torch.autograd.Function):
    """A linear layer and its cross-entropy in one, block by block of the vocabulary.

    A block of logits is small enough to stay in the cache from the product that makes it to the
    softmax over it; products of whole rows reach two thirds of the speed. What is kept is each
    block's own softmax, and the logarithm of each block's sum, which says what share of the whole
    the block has.

    Shapes:  K blocks   R pieces in one block
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, needed: bool
    ) -> tuple[Tensor, Tensor]:
        firsts = range(0, len(weight), max(_FEWEST_PIECES, _BLOCK_LOGITS // len(labels)))
        by_label = labels.argsort()  # [M]
        edges = torch.searchsorted(labels[by_label], torch.tensor([*firsts, len(weight)])).tolist()
        right = states.new_empty(len(labels))  # [M]
        tops, sums, kept = [], [], []
        for number, first in enumerate(firsts):
            block = slice(first, first + firsts.step)
            logits = torch.addmm(bias[block], states, weight[block].t())  # [M, R]
            rows = by_label[edges[number] : edges[number + 1]]  # whose label is in this block
            right[rows] = logits[rows, labels[rows] - first]
            tops.append(logits.amax(1))  # [M]
            shares = torch.softmax(logits, 1)  # [M, R]
            # The top's share is 1 over the sum of exp(logit - top).
            sums.append(tops[-1] - shares.amax(1).log_())  # [M]
            if needed:
                kept.append(shares)
        block_sums = torch.stack(sums, 1)  # [M, K]
        whole = block_sums.logsumexp(1, keepdim=True)  # [M, 1]
        correct = (right >= torch.stack(tops, 1).amax(1)).sum()
        if needed:
            ctx.save_for_backward(states, weight, labels, (block_sums - whole).exp_(), *kept)
            ctx.firsts = firsts
        ctx.mark_non_differentiable(correct)
        return (whole.squeeze(1) - right).sum(), correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, labels, block_shares, *kept = ctx.saved_tensors
        block_shares = block_shares * scale  # [M, K]
        for_states = weight.index_select(0, labels).mul_(-scale)  # [M, H]
        for_weight = torch.empty_like(weight)  # [V, H]
        for_bias = weight.new_empty(len(weight))  # [V]
        for number, (first, shares) in enumerate(zip(ctx.firsts, kept, strict=True)):
            block = slice(first, first + ctx.firsts.step)
            factor = block_shares[:, number]  # [M]
            for_states.addcmul_(shares @ weight[block], factor[:, None])
            torch.mm(shares.t(), states * factor[:, None], out=for_weight[block])
            torch.mv(shares.t(), factor, out=for_bias[block])
        for_weight.index_add_(0, labels, states * -scale)
        for_bias.index_add_(0, labels, (-scale).expand(len(labels)))
        return for_states, for_weight, for_bias, None, None
