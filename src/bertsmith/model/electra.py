"""Replaced-token detection: the encoder tells which pieces a small generator has put in.

A generator predicts hidden pieces as ever, and pieces drawn from what it says stand in their place;
the encoder then says of every token whether it is the one that stood there. So all tokens teach,
not only those that were hidden.

Source: Clark et al. 2020, ELECTRA, sections 2 and 3.

Shapes:  T tokens   S sequences   M masked tokens   H hidden size   G hidden size of the generator
         V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.config import BertConfig, EncoderConfig
from bertsmith.model.bert import Bert, Block, activate, direct_blocks, initialize
from bertsmith.model.heads import piece_loss
from bertsmith.model.modern import ModernBert, ModernBlock, initialize_cut, initialize_modern

DETECTION_WEIGHT = 50.0  # of the detection's loss beside the generator's; section 3.1
_DRAWS_OF_EVALUATION = 0  # seed of what the generator puts in where nothing is trained


class Generator(nn.Module):
    """A narrow encoder on the embeddings of a wider one, with a head that predicts pieces.

    It is of the wider one's kind. Blocks that have their norms before the sums, so that nobody has
    normalised what the last one gives, are followed by a norm.

    Source: Clark et al. 2020, sections 3.2 (shared embeddings) and 3.3 (a fourth of the width).
    """

    def __init__(self, config: EncoderConfig, share: float) -> None:
        """Draws new weights; `share` is the width as a share of the encoder's, in whole heads."""
        super().__init__()
        narrow = narrowed(config, share)
        self.config = narrow
        self.project = nn.Linear(config.hidden_size, narrow.hidden_size)
        numbers = range(narrow.num_hidden_layers)
        self.blocks = nn.ModuleList()
        self.last_norm: nn.Module = nn.Identity()
        if isinstance(narrow, BertConfig):
            self.blocks.extend(Block(narrow) for _ in numbers)
            epsilon, self.activation = narrow.layer_norm_eps, narrow.hidden_act
        else:  # none is the first of an encoder: what it reads is not normalised
            self.blocks.extend(ModernBlock(narrow, 1 + number) for number in numbers)
            epsilon, self.activation = narrow.norm_eps, narrow.classifier_activation
            self.last_norm = nn.LayerNorm(narrow.hidden_size, epsilon, bias=narrow.norm_bias)
        self.widen = nn.Linear(narrow.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if isinstance(narrow, BertConfig):
            initialize(self, narrow.initializer_range)
        else:
            initialize_modern(self, narrow)
            initialize_cut([self.project, self.widen], narrow.initializer_range, narrow)

    def begin_directed(self) -> None:
        """Draws weights anew so that its attention begins as that of an encoder so begun.

        It reads the same positions, and what it reads keeps its size on the way to its width.
        """
        assert isinstance(self.config, BertConfig), "a modern encoder does not begin directed"
        nn.init.normal_(self.project.weight, std=self.project.in_features**-0.5)
        direct_blocks(self.blocks, self.config)

    def forward(
        self, encoder: Bert | ModernBert, batch: Mapping[str, Tensor], positions: Tensor
    ) -> Tensor:
        """Returns the states that are compared with every piece's vector. [M, H]

        Args:
            encoder: whose embeddings are read.
            batch: the arguments of `Bert.forward`.
            positions: tokens to predict, counted over the whole batch. int64 [M]
        """
        hidden = encoder.through(self.project, self.blocks, **batch)  # [T, G]
        states = self.widen(self.last_norm(hidden.index_select(0, positions)))  # [M, H]
        return self.norm(activate(states, self.activation))  # [M, H]


class ForReplacedTokens(nn.Module):
    """An encoder of either kind with a generator beside it; what is kept of both is the encoder.

    `loss_weights` says how often the loss of each name counts in the objective.
    """

    loss_weights: Mapping[str, float] = {"rtd_loss": DETECTION_WEIGHT}

    def __init__(self, config: EncoderConfig, generator_share: float = 0.25) -> None:
        super().__init__()
        self.config = config
        self.encoder: Bert | ModernBert = (
            Bert(config, with_pooler=False)
            if isinstance(config, BertConfig)
            else ModernBert(config, with_pooler=False)
        )
        self.generator = Generator(config, generator_share)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1)
        if isinstance(config, BertConfig):
            for part in (self.dense, self.score):
                initialize(part, config.initializer_range)
        else:
            initialize_cut([self.dense, self.score], config.initializer_range, config)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        masked_positions: Tensor,
        masked_labels: Tensor,
        next_labels: Tensor | None = None,
        put_in: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns sums of the generator's `mlm_...` and the encoder's `rtd_loss`, `rtd_accuracy`.

        Saying 'not replaced' everywhere is right for all tokens but those that were hidden and that
        the generator drew wrongly: `rtd_accuracy` is to be read against `unreplaced_share`.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            masked_positions: tokens to predict, counted over the whole batch. int64 [M]
            masked_labels: the pieces that stood there. int64 [M]
            next_labels: not used: there is no next-sentence head.
            put_in: the pieces to put there, in place of what the generator draws. int64 [M]
        """
        places = {
            "segment_ids": segment_ids,
            "position_ids": position_ids,
            "sequence_starts": sequence_starts,
        }
        states = self.generator(self.encoder, {"piece_ids": piece_ids, **places}, masked_positions)
        vectors, bias = self.encoder.embeddings.pieces.weight, self.generator.bias
        loss, correct = piece_loss(states, vectors, bias, masked_labels)
        if put_in is None:
            with torch.no_grad():
                put_in = self.drawn(F.linear(states, vectors, bias))  # [M]
        seen = piece_ids.index_copy(0, masked_positions, put_in)  # [T]
        is_replaced = torch.zeros(len(seen), device=seen.device)  # [T]
        is_replaced[masked_positions] = (put_in != masked_labels).float()
        logits = self.detect(seen, **places).float()  # [T]
        return {
            "mlm_loss": loss,
            "mlm_accuracy": correct,
            "rtd_loss": F.binary_cross_entropy_with_logits(logits, is_replaced, reduction="sum"),
            "rtd_accuracy": ((logits.detach() > 0) == (is_replaced > 0)).sum(),
            "unreplaced_share": (is_replaced == 0).sum(),
        }

    def logits(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Returns the generator's score for each piece at each of `positions`, int64 [M]. [M, V]"""
        batch = {
            "piece_ids": piece_ids,
            "segment_ids": segment_ids,
            "position_ids": position_ids,
            "sequence_starts": sequence_starts,
        }
        states = self.generator(self.encoder, batch, positions)  # [M, H]
        return F.linear(  # [M, V]
            states, self.encoder.embeddings.pieces.weight, self.generator.bias
        )

    def detect(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns a score for each token, above 0 where it is likelier put in than not. [T]"""
        hidden = self.encoder(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        states = activate(self.dense(hidden), self.generator.activation)  # [T, H]
        return self.score(states).squeeze(1)  # [T]

    def counts(self, *, piece_ids: Tensor, masked_positions: Tensor, **_: Tensor) -> dict[str, int]:
        """Returns how many things each sum of `forward` is over."""
        masked, tokens = len(masked_positions), len(piece_ids)
        return {
            "mlm_loss": masked,
            "mlm_accuracy": masked,
            "rtd_loss": tokens,
            "rtd_accuracy": tokens,
            "unreplaced_share": tokens,
        }

    def drawn(self, logits: Tensor) -> Tensor:
        """Returns a piece drawn from each row's softmax. [M, V] -> int64 [M]

        In training the dice are torch's own, in evaluation the same every time.
        """
        generator = None
        if not self.training:
            generator = torch.Generator(logits.device).manual_seed(_DRAWS_OF_EVALUATION)
        rows = len(logits)
        dice = torch.rand(rows, 1, generator=generator, device=logits.device)  # [M, 1]
        up_to = logits.float().softmax(1).cumsum(1)  # [M, V]
        # rounding may leave the last sum below the die
        return (
            torch.searchsorted(up_to, dice * up_to[:, -1:]).squeeze(1).clamp(max=up_to.shape[1] - 1)
        )


def narrowed(config: EncoderConfig, share: float) -> EncoderConfig:
    """Returns the shape of a generator: as deep, and as wide as so large a share of the heads.

    A head has the size of the encoder's, so that places turn both by the same angles.
    """
    size = config.hidden_size // config.num_attention_heads
    heads = max(1, round(config.num_attention_heads * share))
    return replace(
        config,
        hidden_size=heads * size,
        num_attention_heads=heads,
        intermediate_size=max(
            1, round(config.intermediate_size * heads / config.num_attention_heads)
        ),
    )
