"""Checks before the first step of a new run, so that no hour is spent on what cannot learn.

They run without dropout on the run's own first examples, a few hundred pieces of them, draw no
random number and leave weights, gradients and modes as they were: the run that follows is bit for
bit the one without them.

What a generator draws differs with the batch that it is drawn in, as dropout does. So pieces are
drawn once, sequence by sequence, and these are put in wherever one batch is compared with another:
all but the draw itself must be the same.

Shapes:  T tokens   S sequences   H hidden size   V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bertsmith.config import EncoderConfig, ExamplesConfig
from bertsmith.data.packing import PackedBatch
from bertsmith.errors import DataError, SelfCheckError
from bertsmith.model.electra import ForReplacedTokens
from bertsmith.model.kinds import PretrainingModel
from bertsmith.recipes.pretraining.alarms import piece_loss
from bertsmith.train.loop import accumulate, evaluate

MOST_TOKENS = 512  # that go through the model
CHANCE = 5.0  # standard deviations that are left to chance: one run in two million passes them
LOSS_MARGIN = 0.1  # nats beyond chance, for all that the expectation leaves out
FEWEST_PAIRS = 64  # with fewer nothing is said of a kind of pair that is absent
FEWEST_TRUE = 0.02  # share of true next sentences below which there is nothing to tell apart
CLOSE = 1e-4  # of states whose size is 1, and of gradients, in fp32
CLOSE_ON_GPU = 3e-2  # of gradients worked out in bfloat16
CUT_VARIANCE = 0.7737  # of a normal that is cut at two deviations

_MEND = "install torch in the version that the tests run with, and if it stays so, report it"


def check_start(
    model: PretrainingModel,
    batches: Sequence[PackedBatch],
    config: ExamplesConfig,
    *,
    is_new: bool = True,
) -> dict[str, float]:
    """Returns what was measured of new weights and of a run's first examples, all as it must be.

    Args:
        model: with the weights that were drawn.
        batches: the first of the run, on any device.
        config: of the examples.
        is_new: whether weights were drawn, so that their loss is known beforehand.

    Returns:
        `new_loss` and `expected_loss` on pieces; `new_rtd_loss` and `expected_rtd_loss` where
        replaced pieces are detected; `packed_difference` and `gradient_difference`, which are
        rounding; `examples`, and the share `random_next` of them if there are pairs.

    Raises:
        DataError: nearly no pair is a true one, so that next sentences cannot be learnt.
        SelfCheckError: the model does not compute what it must.
    """
    found = check_pairs(batches, config)
    device = next(model.parameters()).device
    few = [batch.to(device) for batch in first_sequences(batches, MOST_TOKENS)]
    was_training = model.training
    model.eval()
    try:
        if is_new:
            found |= check_loss(model, few)
        found["packed_difference"] = check_packing(model, few)
        found["gradient_difference"] = check_gradients(model, few)
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return found


def check_pairs(batches: Sequence[PackedBatch], config: ExamplesConfig) -> dict[str, float]:
    """Returns the number of examples and the share of them that have a random next, if any have.

    That share is above `random_next_prob`, since a chunk of one sentence has no true next.

    Raises:
        DataError: true pairs are absent although they were asked for, or are more than chance
            allows.
    """
    labels = [batch.next_labels for batch in batches if batch.next_labels is not None]
    if not labels:
        return {"examples": sum(batch.num_sequences for batch in batches)}
    random = torch.cat(labels).double()
    count, share, asked = len(random), random.mean().item(), config.random_next_prob
    chance = CHANCE * math.sqrt(asked * (1 - asked) / count)
    if share < asked - chance:
        raise DataError(
            f"of the first {count:,} examples {share:.1%} have a random second half; expected "
            f"{asked:.1%} or more (random_next_prob): the corpus was altered, prepare it again"
        )
    if asked < 1 and count >= FEWEST_PAIRS and 1 - share < FEWEST_TRUE:
        raise DataError(
            f"of the first {count:,} examples {1 - share:.1%} have a true second half; expected up "
            f"to {1 - asked:.1%}: next sentences cannot be learnt where every document, or every "
            f"example, has room for one sentence only; give longer documents (--text-layout says "
            f"how they are parted), a larger --sequence-length than {config.sequence_length}, or "
            f"--random-next-prob 1 to train without them"
        )
    return {"examples": count, "random_next": share}


def check_loss(model: PretrainingModel, few: Sequence[PackedBatch]) -> dict[str, float]:
    """Returns the loss on the pieces to predict, `new_loss`, and the `expected_loss`.

    Where replaced pieces are detected, that has a `new_rtd_loss` and `expected_rtd_loss`, too.

    Raises:
        SelfCheckError: they are further apart than chance allows.
    """
    figures = evaluate(model, [joined(few).tensors()])
    found = piece_loss(figures)
    labels = [batch.masked_labels for batch in few if batch.masked_labels is not None]
    expected, margin = loss_of_new_weights(model.config, len(torch.cat(labels).unique()))
    if not abs(found - expected) <= margin:
        raise SelfCheckError(
            f"the loss of new weights on masked pieces is {found:.3f}; expected {expected:.3f}, "
            f"give or take {margin:.2f}, about ln {model.config.vocab_size:,}: the weights are not "
            f"drawn as they must be, or what is to be predicted can be seen; {_MEND}"
        )
    return {"new_loss": found, "expected_loss": expected} | _check_detection(model, figures)


def _check_detection(model: PretrainingModel, figures: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(model, ForReplacedTokens):
        return {}
    found, (expected, margin) = figures["rtd_loss"], detection_loss_of_new_weights(model.config)
    if not abs(found - expected) <= margin:
        raise SelfCheckError(
            f"the loss of new weights on which pieces were replaced is {found:.3f}; expected "
            f"{expected:.3f}, give or take {margin:.2f}, about ln 2: the weights are not drawn as "
            f"they must be, or what was replaced can be seen; {_MEND}"
        )
    return {"new_rtd_loss": found, "expected_rtd_loss": expected}


def loss_of_new_weights(config: EncoderConfig, kinds: int) -> tuple[float, float]:
    """Returns the loss that new weights have on masked pieces, and how far chance may take it.

    States are normalised, so a piece's score is a sum of H products of a number of size 1 and a
    weight: about normal, of variance v = H * var(weight). The loss is then ln V + v / 2, less the
    mean score of the right pieces, of which there are `kinds`.
    """
    variance = config.hidden_size * CUT_VARIANCE * config.initializer_range**2
    expected = math.log(config.vocab_size) + variance / 2
    return expected, LOSS_MARGIN + CHANCE * math.sqrt(variance / max(kinds, 1))


def detection_loss_of_new_weights(config: EncoderConfig) -> tuple[float, float]:
    """Returns the loss that new weights have on replaced pieces, and how far chance may take it.

    A score is a sum of H products of a weight and an activation, whose mean square is at most v / 2
    with the v of `loss_of_new_weights`; so it is near 0, with a deviation of v / sqrt(2) or less.
    What all tokens have in common of it moves the loss by at most a half of itself.
    """
    variance = config.hidden_size * CUT_VARIANCE * config.initializer_range**2
    return math.log(2), LOSS_MARGIN + CHANCE * variance / math.sqrt(2) / 2


def check_packing(model: PretrainingModel, few: Sequence[PackedBatch]) -> float:
    """Returns how far the states of packed sequences are from those of each one by itself.

    Those of a generator are compared, too, at the pieces that it predicts.

    Raises:
        SelfCheckError: that is more than rounding.
    """
    with torch.inference_mode():
        together = _states(model, joined(few))
        by_itself = zip(*(_states(model, batch) for batch in few), strict=True)
        differences = [
            (packed - torch.cat(alone)).abs().max()
            for packed, alone in zip(together, by_itself, strict=True)
        ]
    difference = torch.stack(differences).max().item()  # a NaN stays one
    if not difference <= CLOSE:
        raise SelfCheckError(
            f"the states of {len(few)} packed sequences differ by up to {difference:.2g} from "
            f"those of each sequence alone; expected {CLOSE:g} or less: sequences of one batch see "
            f"each other; {_MEND}"
        )
    return difference


def check_gradients(model: PretrainingModel, few: Sequence[PackedBatch]) -> float:
    """Returns how far the gradient of a whole batch is from that of its parts, as a share of it.

    The parts have different numbers of tokens. Gradients are left behind.

    Raises:
        SelfCheckError: that is more than rounding.
    """
    model.zero_grad(set_to_none=True)
    put_in = [_put_in(model, batch) for batch in few]
    accumulate(model, [_together(few, put_in)])
    whole = _gradient_norm(model)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.neg_()  # the parts' is added to it, so no second copy is held
    cut = max(1, len(few) // 3)
    ends = ((0, cut), (cut, len(few)))
    accumulate(model, [_together(few[a:b], put_in[a:b]) for a, b in ends if a < b])
    difference = _gradient_norm(model) / (whole or 1.0)
    device = next(model.parameters()).device.type
    close = CLOSE if device == "cpu" else CLOSE_ON_GPU
    if not difference <= close:
        raise SelfCheckError(
            f"the gradient of a batch in two parts differs from that of the whole batch by "
            f"{difference:.2g} of its size; expected {close:g} or less: --accumulate would change "
            f"what is learnt; {_MEND}"
        )
    return difference


# ------------------------------------------------------------------------------ sequences


def first_sequences(batches: Sequence[PackedBatch], most_tokens: int) -> list[PackedBatch]:
    """Returns the first sequences, each by itself, as far as `most_tokens` go; at least two."""
    found: list[PackedBatch] = []
    total = 0
    for batch in batches:
        for number in range(batch.num_sequences):
            one = _sequence(batch, number)
            total += one.num_tokens
            if total > most_tokens and len(found) >= 2:
                return found
            found.append(one)
    return found


def joined(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Returns batches of pre-training packed into one, in their order."""
    sizes = torch.tensor([0, *(batch.num_tokens for batch in batches)]).cumsum(0).tolist()
    starts = [
        batch.sequence_starts[:-1] + size for batch, size in zip(batches, sizes, strict=False)
    ]
    masked = [
        batch.masked_positions + size
        for batch, size in zip(batches, sizes, strict=False)
        if batch.masked_positions is not None
    ]
    return PackedBatch(
        piece_ids=torch.cat([batch.piece_ids for batch in batches]),  # [T]
        segment_ids=torch.cat([batch.segment_ids for batch in batches]),  # [T]
        position_ids=torch.cat([batch.position_ids for batch in batches]),  # [T]
        sequence_starts=torch.cat([*starts, torch.tensor(sizes[-1:])]).to(torch.int32),  # [S + 1]
        masked_positions=torch.cat(masked),  # [M]
        masked_labels=_cat([batch.masked_labels for batch in batches]),  # [M]
        next_labels=_cat([batch.next_labels for batch in batches]),  # [S]
    )


def _sequence(batch: PackedBatch, number: int) -> PackedBatch:
    """Returns sequence `number` of a batch of pre-training, by itself."""
    start, end = batch.sequence_starts[number : number + 2].tolist()
    assert batch.masked_positions is not None and batch.masked_labels is not None
    inside = (batch.masked_positions >= start) & (batch.masked_positions < end)  # [M]
    next_labels = batch.next_labels
    return replace(
        batch,
        piece_ids=batch.piece_ids[start:end],
        segment_ids=batch.segment_ids[start:end],
        position_ids=batch.position_ids[start:end],
        sequence_starts=torch.tensor([0, end - start], dtype=torch.int32),
        masked_positions=batch.masked_positions[inside] - start,
        masked_labels=batch.masked_labels[inside],
        next_labels=None if next_labels is None else next_labels[number : number + 1],
    )


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there) if there else None


def _states(model: PretrainingModel, batch: PackedBatch) -> list[Tensor]:
    """Returns the states of the encoder [T, H] and, if there is one, those of the generator. [M, H]

    The generator's are those that are compared with the pieces' vectors.
    """
    parts = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
    states = [model.encoder(*parts)]  # [T, H]
    if isinstance(model, ForReplacedTokens):
        names = ("piece_ids", "segment_ids", "position_ids", "sequence_starts")
        read = dict(zip(names, parts, strict=True))
        states.append(model.generator(model.encoder, read, batch.masked_positions))  # [M, H]
    return states


def _put_in(model: PretrainingModel, batch: PackedBatch) -> dict[str, Tensor]:
    """Returns what a generator draws for a batch, as an argument of `forward`; else nothing."""
    if not isinstance(model, ForReplacedTokens):
        return {}
    assert batch.masked_positions is not None
    with torch.no_grad():
        logits = model.logits(  # [M, V]
            batch.piece_ids,
            batch.segment_ids,
            batch.position_ids,
            batch.sequence_starts,
            batch.masked_positions,
        )
    return {"put_in": model.drawn(logits)}  # [M]


def _together(
    batches: Sequence[PackedBatch], more: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Returns the tensors of batches packed into one, with what is given `more` for each."""
    tensors = joined(batches).tensors()
    return tensors | {name: torch.cat([each[name] for each in more]) for name in more[0]}


def _gradient_norm(model: PretrainingModel) -> float:
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return torch.stack(norms).norm().item()
