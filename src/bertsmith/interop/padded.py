"""A model on padded batches, in plain torch: what others' formats are written from.

The weights are the model's own. Inputs and outputs have the names that `transformers` gives them.

Shapes:  B sequences   R rows of choices   C choices of a row   L longest sequence   H hidden size
         N heads   D head size   V vocabulary
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.model.bert import Bert, Block, activate
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.kinds import Encoder
from bertsmith.model.modern import ModernBert, ModernBlock
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.published import AnyModel, encoder_in
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
)
from bertsmith.tasks.vectors import Pooling


class Padded(nn.Module):
    """A model that takes `input_ids`, `attention_mask` and, of BERT, `token_type_ids`: [B, L] each.

    Of choices they are [R, C, L]. Padding stands behind a sequence; its mask is 0. Outputs are
    those of `output_names`, in that order.
    """

    def __init__(self, model: AnyModel, pooling: Pooling | None = None) -> None:
        """Takes a model as it is; `pooling` is for an encoder without a head, to give vectors."""
        super().__init__()
        self.model = model
        self.encoder = encoder_in(model)
        self.pooling = pooling
        self.eval()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Returns the names of the inputs, in the order of `forward`."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        return names if isinstance(self.encoder, Bert) else names[:2]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Returns the names of the outputs; a head's are those of `transformers`."""
        model = self.model
        if isinstance(model, Encoder):
            if self.pooling:
                return ("token_embeddings", "sentence_embedding")
            has_pooler = isinstance(model, Bert) and model.pooler is not None
            return ("last_hidden_state", "pooler_output")[: 1 + has_pooler]
        if isinstance(model, BertForPreTraining) and model.next is not None:
            return ("prediction_logits", "seq_relationship_logits")
        if isinstance(model, BertForAnswering):
            return ("start_logits", "end_logits")
        if isinstance(model, BertForTagging) and model.intents is not None:
            return ("logits", "intent_logits")
        return ("logits",)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Returns the outputs, each [B, ...] or [B, L, ...]; of choices [R, C]."""
        if not isinstance(self.model, BertForChoice):
            return self._outputs(input_ids, attention_mask, token_type_ids)
        rows, choices = input_ids.shape[:2]
        segments = None if token_type_ids is None else token_type_ids.flatten(0, 1)
        (scores,) = self._outputs(input_ids.flatten(0, 1), attention_mask.flatten(0, 1), segments)
        return (scores.view(rows, choices),)

    def _outputs(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
    ) -> tuple[Tensor, ...]:
        model, encoder = self.model, self.encoder
        states = self.states(input_ids, attention_mask, token_type_ids)  # [B, L, H]
        if isinstance(model, Encoder):
            if self.pooling == "cls":
                return states, states[:, 0]
            if self.pooling == "mean":
                return states, _means(states, attention_mask)
            if isinstance(model, Bert) and model.pooler is not None:
                return states, model.pool(states[:, 0])
            return (states,)
        if isinstance(model, BertForPreTraining | ModernBertForPreTraining):
            return self._pretraining(states)
        if isinstance(model, BertForAnswering):
            return model.spans(encoder.of_tokens(states)).unbind(-1)
        if isinstance(model, BertForTagging):
            scores = model.classifier(encoder.of_tokens(states))  # [B, L, labels]
            if model.intents is None:
                return (scores,)
            return scores, model.intents(self._texts(states, attention_mask))
        assert isinstance(model, BertForClassification | BertForRegression | BertForChoice)
        return (model.classifier(self._texts(states, attention_mask)),)

    def _pretraining(self, states: Tensor) -> tuple[Tensor, ...]:
        model, encoder = self.model, self.encoder
        pieces = encoder.embeddings.pieces.weight  # [V, H]
        if isinstance(model, ModernBertForPreTraining):
            return (F.linear(encoder.pool(states), pieces, model.masked.bias),)
        assert isinstance(model, BertForPreTraining)
        logits = F.linear(model.masked(states), pieces, model.masked.bias)  # [B, L, V]
        if model.next is None:
            return (logits,)
        return logits, model.next(encoder.pool(states[:, 0]))

    def _texts(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the vector that stands for each sequence; see `Bert.of_texts`. [B, H]"""
        config = self.encoder.config
        if isinstance(self.encoder, ModernBert):
            if self.encoder.config.classifier_pooling == "mean":
                return self.encoder.pool(_means(states, attention_mask))
        elif config.is_decoder:
            last = attention_mask.sum(1) - 1  # [B]
            places = last[:, None, None].expand(-1, 1, states.shape[2])  # [B, 1, H]
            return self.encoder.pool(states.gather(1, places).squeeze(1))
        return self.encoder.pool(states[:, 0])

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        """Returns the states of the last block, of no meaning where the mask is 0. [B, L, H]"""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)  # [L]
        used = attention_mask[:, None, None, :] > 0  # [B, 1, 1, L]
        if isinstance(self.encoder, ModernBert):
            return _modern_states(self.encoder, input_ids, places, used)
        parts, config = self.encoder.embeddings, self.encoder.config
        hidden = parts.pieces(input_ids) + parts.positions(places)  # [B, L, H]
        if token_type_ids is not None:
            hidden = hidden + parts.segments(token_type_ids)  # [B, L, H]
        hidden = parts.norm(hidden)  # [B, L, H]
        if config.is_decoder:
            used = used & (places[None, :] <= places[:, None])  # [B, 1, L, L]
        bias = _bias(used)
        for block in self.encoder.blocks:
            assert isinstance(block, Block)
            parted = _heads(block.attention.qkv(hidden), config.num_attention_heads)
            read = block.attention.output(_attended(*parted, bias))  # [B, L, H]
            hidden = block.attention_norm(read + hidden)  # [B, L, H]
            inner = activate(block.intermediate(hidden), block.activation)  # [B, L, 4 * H]
            hidden = block.output_norm(block.output(inner) + hidden)  # [B, L, H]
        return hidden


def _modern_states(encoder: ModernBert, input_ids: Tensor, places: Tensor, used: Tensor) -> Tensor:
    config = encoder.config
    distance = (places[None, :] - places[:, None]).abs()  # [L, L]
    hidden = encoder.embeddings.norm(encoder.embeddings.pieces(input_ids))  # [B, L, H]
    for number, block in enumerate(encoder.blocks):
        assert isinstance(block, ModernBlock)
        window = config.window_of(number)
        theta = config.global_rope_theta if window is None else config.local_rope_theta
        bias = _bias(used if window is None else used & (distance <= window))
        normed = hidden if block.attention_norm is None else block.attention_norm(hidden)
        query, key, value = _heads(block.attention.qkv(normed), config.num_attention_heads)
        query, key = (_turned(part, places, theta) for part in (query, key))
        hidden = hidden + block.attention.output(_attended(query, key, value, bias))  # [B, L, H]
        value, gate = block.intermediate(block.output_norm(hidden)).chunk(2, -1)
        hidden = hidden + block.output(activate(value, block.activation) * gate)  # [B, L, H]
    return encoder.norm(hidden)


def _heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns query, key and value of every head. [B, L, 3 * H] -> [B, N, L, D] thrice"""
    query, key, value = (
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)
    )
    return query, key, value


def _bias(visible: Tensor) -> Tensor:
    """Returns what is added to scores: 0 where a token is visible, else what no score outweighs.

    It is finite, so that padding that sees nothing does not become NaN.
    """
    hidden = torch.finfo(torch.float32).min
    return torch.where(visible, 0.0, hidden)


def _attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Returns what each token reads, heads side by side. [B, N, L, D] thrice -> [B, L, H]"""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias  # [B, N, L, L]
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)  # [B, L, H]


def _turned(states: Tensor, places: Tensor, theta: float) -> Tensor:
    """Returns heads turned by their places; see `model.rotary.turn`. [B, N, L, D]"""
    size = states.shape[-1]
    steps = torch.arange(0, size, 2, dtype=torch.float32, device=states.device)  # [D / 2]
    angles = places[:, None].float() * (1.0 / theta ** (steps / size))  # [L, D / 2]
    cosines, sines = angles.cos(), angles.sin()
    left, right = states.chunk(2, -1)  # [B, N, L, D / 2] each
    return torch.cat([left * cosines - right * sines, right * cosines + left * sines], -1)


def _means(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the mean state of every sequence, padding left out. [B, L, H] -> [B, H]"""
    used = attention_mask[:, :, None].to(states.dtype)  # [B, L, 1]
    return torch.where(used > 0, states, 0.0).sum(1) / used.sum(1)  # [B, H]
