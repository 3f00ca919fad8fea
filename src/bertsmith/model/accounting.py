"""Parameters, operations and memory of an encoder: by formula and by count.

Letters, in formulas:  V vocabulary   H hidden size   L layers   A heads   F feed-forward width
                       P positions   G segments   T tokens of one sequence   M masked share
"""

from __future__ import annotations

import torch
from torch import nn

from bertsmith.config import EncoderConfig, ExamplesConfig, ModernBertConfig
from bertsmith.model.bert import Bert
from bertsmith.model.electra import ForReplacedTokens
from bertsmith.model.kinds import PretrainingModel, WithPieceHead, pretraining_model_of
from bertsmith.model.published import AnyModel, encoder_in

BYTES = 4  # of one number in fp32


def on_paper(config: EncoderConfig) -> WithPieceHead:
    """Returns a model with its pre-training heads that has shapes alone and takes no memory.

    One that reads left to right has no head for next sentences.
    """
    with torch.device("meta"):
        return pretraining_model_of(config, next_sentence=not config.is_decoder)


def count_parameters(model: AnyModel | PretrainingModel) -> dict[str, int]:
    """Returns the number of parameters in each part of a model, its `encoder` and the `total`.

    `encoder` is embeddings, blocks and pooler, as sizes are usually quoted. The output weight of
    the masked-piece head is that of the piece embeddings, and is counted there.
    """
    encoder = encoder_in(model)
    parts: dict[str, nn.Module | None] = {"piece_embeddings": encoder.embeddings.pieces}
    if isinstance(encoder, Bert):
        parts["position_embeddings"] = encoder.embeddings.positions
        parts["segment_embeddings"] = encoder.embeddings.segments
    parts |= {"embedding_norm": encoder.embeddings.norm, "blocks": encoder.blocks}
    if not isinstance(encoder, Bert):
        parts["last_norm"] = encoder.norm
    parts["pooler"] = encoder.pooler
    counts = {name: _count(part) for name, part in parts.items() if part is not None}
    counts["encoder"] = _count(encoder)
    counts["total"] = _count(model)
    counts["heads"] = counts["total"] - counts["encoder"]
    return counts


def parameters_by_formula(config: EncoderConfig) -> dict[str, int]:
    """Returns the parameters of the encoder by the paper's formula, and by name what it leaves out.

    The formula is V*H for the pieces and 12*L*H^2 for the blocks, with F = 4*H; `encoder` is the
    sum and equals the count. That of the modern encoder is 4*L*H^2 and 3*L*H*F for the blocks.

    Source: Devlin et al. 2019, section 3, on the sizes of BERT_BASE and BERT_LARGE.
    """
    if isinstance(config, ModernBertConfig):
        return _modern_formula(config)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = config.intermediate_size
    parts = {
        "pieces_VH": config.vocab_size * hidden,
        "blocks_12LHH": 12 * layers * hidden**2,
        "wider_or_narrower_feed_forward": layers * 2 * hidden * (inner - 4 * hidden),
        "block_biases": layers * (5 * hidden + inner),  # of q, k, v, both outputs, and F
        "block_norms": layers * 4 * hidden,
        "positions_and_segments": (config.max_position_embeddings + config.type_vocab_size)
        * hidden,
        "embedding_norm": 2 * hidden,
        "pooler": hidden**2 + hidden,
    }
    return parts | {"encoder": sum(parts.values())}


def _modern_formula(config: ModernBertConfig) -> dict[str, int]:
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner, norm = config.intermediate_size, config.hidden_size * (1 + config.norm_bias)
    parts = {
        "pieces_VH": config.vocab_size * hidden,
        "attention_4LHH": 4 * layers * hidden**2,
        "feed_forward_3LHF": 3 * layers * hidden * inner,
        "attention_biases": config.attention_bias * layers * 4 * hidden,
        "feed_forward_biases": config.mlp_bias * layers * (2 * inner + hidden),
        "block_norms": (2 * layers - 1) * norm,
        "embedding_and_last_norm": 2 * norm,
        "pooler": hidden**2 + config.classifier_bias * hidden + norm,
    }
    return parts | {"encoder": sum(parts.values())}


def flops_per_token(
    model: AnyModel | PretrainingModel,
    *,
    sequence_length: int,
    masked_share: float | None = None,
) -> dict[str, float]:
    """Returns the floating-point operations in matrix products for one real token.

    A product of [m, k] by [k, n] is 2*m*k*n. Each token reads `sequence_length` tokens, or those in
    its window. The masked-piece head runs on `masked_share` of the tokens (by default that of the
    published examples, left to right on all) and the pooler on one token of each sequence. Backward
    costs twice forward. A generator beside the encoder is counted in training alone.
    """
    config = model.config
    hidden = config.hidden_size
    share = masked_share
    if share is None:
        share = 1.0 if config.is_decoder else ExamplesConfig().masked_lm_prob
    forward = float(_flops_of_blocks(config, sequence_length))
    if isinstance(model, WithPieceHead):
        forward += share * 2 * (hidden**2 + hidden * config.vocab_size)
    # The modern masked-piece head is the pooler, and is counted above.
    is_counted = isinstance(model, WithPieceHead) and isinstance(config, ModernBertConfig)
    if encoder_in(model).pooler is not None and not is_counted:
        forward += 2 * hidden**2 / sequence_length
    beside = 0.0
    if isinstance(model, ForReplacedTokens):
        beside = _flops_of_replacing(model, sequence_length, share)
    return {"inference": forward, "training": 3 * (forward + beside)}


def _flops_of_blocks(config: EncoderConfig, sequence_length: int) -> int:
    """Returns what all blocks take for one token, forward."""
    read = [sequence_length] * config.num_hidden_layers
    if isinstance(config, ModernBertConfig):
        windows = map(config.window_of, range(config.num_hidden_layers))
        read = [sequence_length if w is None else min(sequence_length, 2 * w + 1) for w in windows]
    return sum(2 * config.block_weights + 4 * tokens * config.hidden_size for tokens in read)


def _flops_of_replacing(
    model: ForReplacedTokens, sequence_length: int, masked_share: float
) -> float:
    """Returns what the generator and the detection take for one token, forward."""
    hidden, narrow = model.config.hidden_size, model.generator.config
    width = narrow.hidden_size
    blocks = _flops_of_blocks(narrow, sequence_length)
    pieces = masked_share * 2 * (width * hidden + hidden * model.config.vocab_size)
    detection = 2 * (hidden**2 + hidden)
    return 2 * hidden * width + blocks + pieces + detection


def memory_bytes(
    model: AnyModel | PretrainingModel, *, sequence_length: int, tokens_per_batch: int = 4096
) -> dict[str, int]:
    """Returns the memory that weights and states take in fp32, roughly.

    For inference: the weights, and the widest states of one block. For training: weights,
    gradients and AdamW's two means; what every block keeps for its gradient, a generator's too; and
    the logits of the masked pieces, all of them at once where pieces are drawn by them.
    """
    config = model.config
    weights = _count(model) * BYTES
    hidden, inner = config.hidden_size, config.intermediate_size
    if isinstance(config, ModernBertConfig):
        inner *= 2  # what is gated, and its gate
    scores = config.num_attention_heads * sequence_length
    widest = BYTES * tokens_per_batch * (2 * hidden + max(inner, 3 * hidden + scores))
    kept = _kept_bytes(config, sequence_length, tokens_per_batch)
    logits = 0
    if isinstance(model, PretrainingModel):
        masked = int(tokens_per_batch * ExamplesConfig().masked_lm_prob)
        logits = BYTES * min(masked * config.vocab_size, 1 << 24) * 2
        if isinstance(model, ForReplacedTokens):
            kept += _kept_bytes(model.generator.config, sequence_length, tokens_per_batch)
            logits += BYTES * masked * config.vocab_size * 3  # scores, shares and their sums
    return {"inference": weights + widest, "training": 4 * weights + kept + logits}


def _kept_bytes(config: EncoderConfig, sequence_length: int, tokens_per_batch: int) -> int:
    """Returns what the blocks of an encoder keep for their gradients.

    The input, q k v twice (as made, and by heads), the scores' three forms (softmax, mask),
    context, two sums with their masks, two normalised states, and both sides of the GELU.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    if isinstance(config, ModernBertConfig):
        inner *= 2  # what is gated, and its gate
    scores = config.num_attention_heads * sequence_length
    kept = BYTES * tokens_per_batch * (13 * hidden + 2 * inner + 2 * scores)
    return config.num_hidden_layers * kept


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
