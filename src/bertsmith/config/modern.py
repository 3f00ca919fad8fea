"""The shape of a modern encoder: rotary positions, local attention, a gated feed-forward block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from bertsmith.config.encoder import check_heads, shape_of_size
from bertsmith.config.settings import Help, Settings
from bertsmith.errors import ConfigError

Activation = Literal["gelu", "gelu_new", "relu"]


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(Settings):
    """The shape of one modern encoder; field names are those of a published ModernBERT's config.

    Source: Warner et al. 2024 (ModernBERT), section 2.1 and table 4. The defaults are
    ModernBERT-base.
    """

    vocab_size: Annotated[int, Ge(1), Le(10_000_000), Help("pieces in the vocabulary (V)")] = 50368
    hidden_size: Annotated[int, Ge(1), Le(65536), Help("width of every layer (H)")] = 768
    num_hidden_layers: Annotated[int, Ge(1), Le(1000), Help("Transformer blocks (L)")] = 22
    num_attention_heads: Annotated[
        int, Ge(1), Help("heads per block (A); their size must be even")
    ] = 12
    intermediate_size: Annotated[int, Ge(1), Help("width of what is gated, and of its gate")] = 1152
    hidden_activation: Annotated[Activation, Help("activation of what is gated")] = "gelu"
    max_position_embeddings: Annotated[int, Ge(1), Help("longest sequence")] = 8192
    global_attn_every_n_layers: Annotated[
        int, Ge(1), Help("every which block attends to whole texts, from the first (1: all)")
    ] = 3
    local_attention: Annotated[
        int, Ge(2), Help("pieces in the window of the other blocks, half on either side")
    ] = 128
    global_rope_theta: Annotated[
        float, Gt(0), Help("base of the rotary positions where whole texts are attended to")
    ] = 160_000.0
    local_rope_theta: Annotated[float, Gt(0), Help("the same where a window is")] = 10_000.0
    embedding_dropout: Annotated[float, Ge(0), Lt(1), Help("dropout on embeddings")] = 0.0
    attention_dropout: Annotated[
        float, Ge(0), Lt(1), Help("dropout on attention weights and on what they read")
    ] = 0.0
    mlp_dropout: Annotated[float, Ge(0), Lt(1), Help("dropout inside the feed-forward block")] = 0.0
    attention_bias: Annotated[bool, Help("biases in attention")] = False
    mlp_bias: Annotated[bool, Help("biases in the feed-forward block")] = False
    norm_bias: Annotated[bool, Help("biases in layer norms")] = False
    norm_eps: Annotated[float, Gt(0), Help("added to variances in layer norms")] = 1e-5
    initializer_range: Annotated[float, Gt(0), Help("deviation of the initial weights")] = 0.02
    initializer_cutoff_factor: Annotated[
        float, Gt(0), Help("deviations at which initial weights are cut")
    ] = 2.0
    decoder_bias: Annotated[bool, Help("a bias for every piece that is predicted")] = True
    classifier_pooling: Annotated[
        Literal["cls", "mean"], Help("what stands for a text: its first state, or their mean")
    ] = "cls"
    classifier_dropout: Annotated[float, Ge(0), Lt(1), Help("dropout below a task's layer")] = 0.0
    classifier_bias: Annotated[bool, Help("a bias in the dense layer of the prediction head")] = (
        False
    )
    classifier_activation: Annotated[Activation, Help("activation of the prediction head")] = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_size, self.num_attention_heads)
        if self.hidden_size // self.num_attention_heads % 2:
            raise ConfigError(
                f"hidden_size {self.hidden_size} over num_attention_heads "
                f"{self.num_attention_heads} gives heads of "
                f"{self.hidden_size // self.num_attention_heads}; rotary positions turn pairs: "
                f"choose an even size, such as 64"
            )

    @property
    def is_decoder(self) -> bool:
        """Returns whether a token reads only those before it: never."""
        return False

    @property
    def head_dropout(self) -> float:
        """Returns the rate of dropout on what a task's layer reads."""
        return self.classifier_dropout

    @property
    def block_weights(self) -> int:
        """Returns the number of weights in the matrices of one block."""
        return 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size

    @property
    def encoder_weights(self) -> int:
        """Returns the number of weights in an encoder, its few biases and norms left out."""
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * self.block_weights

    def window_of(self, block: int) -> int | None:
        """Returns how far a block looks to either side, in pieces; None: over the whole text."""
        if block % self.global_attn_every_n_layers == 0:
            return None
        return self.local_attention // 2

    def with_dropout(self, rate: float) -> dict[str, float]:
        """Returns the settings that make every rate of dropout `rate`, by name."""
        names = ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")
        return dict.fromkeys(names, rate)


def modern_of_size(size: str, **changes: Any) -> ModernBertConfig:
    """Returns the modern encoder of as many layers, width and heads as `bert_of_size` gives.

    The feed-forward block has as many weights as there: three matrices of two thirds the width,
    to the nearest 64. `changes` are further fields of `ModernBertConfig`.

    Source: Shazeer 2020 (GLU variants), section 3, for the two thirds.

    Raises:
        ConfigError: the size is neither a known name nor of the form 'L6-H384'.
    """
    shape = shape_of_size(size)
    shape["intermediate_size"] = max(64, 64 * round(2 * shape["intermediate_size"] / 3 / 64))
    return ModernBertConfig(**(shape | changes))
