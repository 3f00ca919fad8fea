"""The kinds of encoder that there are, and which of them a config describes.

All kinds take the same packed batch and are asked the same things: `forward`, `layers`, `of_texts`,
`of_texts_among`, `of_tokens`. What stands on an encoder need not know which kind it is.
"""

from __future__ import annotations

from torch import nn

from bertsmith.config import BertConfig, EncoderConfig
from bertsmith.model.attention import SelfAttention
from bertsmith.model.bert import Bert, Block, initialize
from bertsmith.model.electra import ForReplacedTokens, Generator
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern import (
    ModernBert,
    ModernBlock,
    TurnedAttention,
    initialize_cut,
    initialize_modern,
)
from bertsmith.model.modern_heads import ModernBertForPreTraining

Encoder = Bert | ModernBert
WithPieceHead = BertForPreTraining | ModernBertForPreTraining
PretrainingModel = WithPieceHead | ForReplacedTokens


def encoder_of(config: EncoderConfig, with_pooler: bool = True) -> Encoder:
    """Returns a new encoder of the kind that `config` describes.

    `with_pooler` says whether it has the layers between its states and those of a task.
    """
    if isinstance(config, BertConfig):
        return Bert(config, with_pooler)
    return ModernBert(config, with_pooler)


def encoder_of_tokens(config: EncoderConfig, with_texts: bool) -> Encoder:
    """Returns a new encoder for layers that label tokens and, `with_texts`, whole sequences.

    BERT's pooler is for sequences alone; the modern head stands below either.
    """
    return encoder_of(config, with_pooler=with_texts or not isinstance(config, BertConfig))


def pretraining_model_of(config: EncoderConfig, next_sentence: bool = True) -> WithPieceHead:
    """Returns a new model with the heads that its kind is pre-trained with.

    The modern kind has none for next sentences, whatever `next_sentence` says.
    """
    if isinstance(config, BertConfig):
        return BertForPreTraining(config, next_sentence)
    return ModernBertForPreTraining(config)


def kept_of(model: PretrainingModel) -> WithPieceHead | Encoder:
    """Returns what of a pre-trained model a folder keeps: all, or the encoder beside a generator.

    A generator has done its work when the encoder is trained.

    Source: Clark et al. 2020, ELECTRA, section 2.
    """
    return model.encoder if isinstance(model, ForReplacedTokens) else model


def take_pooler(encoder: Encoder, other: Encoder) -> None:
    """Gives an encoder the pooler of another of its kind, or none where that has none."""
    if isinstance(encoder, Bert) and isinstance(other, Bert):
        encoder.pooler = other.pooler
    if isinstance(encoder, ModernBert) and isinstance(other, ModernBert):
        encoder.pooler = other.pooler


def draw_anew(part: nn.Module, config: EncoderConfig) -> None:
    """Draws new weights for blocks or a pooler of an encoder, as its kind begins."""
    if isinstance(config, BertConfig):
        initialize(part, config.initializer_range)
        for norm in part.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.reset_parameters()
    else:
        initialize_modern(part, config)


def begin_silent(part: Encoder | Generator) -> None:
    """Sets the output projections of every block to 0, so that new blocks add nothing at first.

    What a block adds grows as it is learnt, and the first gradients go to the embeddings and to
    what is predicted from them.

    Source: Zhang et al. 2019 (Fixup), section 3, which begins the last layer of a branch at 0.
    """
    for block in part.blocks:
        assert isinstance(block, Block | ModernBlock)
        nn.init.zeros_(block.attention.output.weight)
        nn.init.zeros_(block.output.weight)


def matrices_of_blocks(model: nn.Module) -> dict[str, int]:
    """Returns the weights of all blocks in a model, by name: how many matrices each of them holds.

    Query, key and value are one weight, and so are what is gated and its gate.
    """
    found: dict[str, int] = {}
    for name, part in model.named_modules():
        if isinstance(part, SelfAttention | TurnedAttention):
            found |= {f"{name}.qkv.weight": 3, f"{name}.output.weight": 1}
        elif isinstance(part, Block | ModernBlock):
            inner = 2 if isinstance(part, ModernBlock) else 1
            found |= {f"{name}.intermediate.weight": inner, f"{name}.output.weight": 1}
    return found


def new_task_layer(config: EncoderConfig, num_outputs: int) -> nn.Linear:
    """Returns the new last layer of a task, drawn as is usual on that kind of encoder."""
    layer = nn.Linear(config.hidden_size, num_outputs)
    if isinstance(config, BertConfig):
        initialize(layer, config.initializer_range)
    else:  # what it reads is normalised
        initialize_cut([layer], config.hidden_size**-0.5, config)
    return layer
