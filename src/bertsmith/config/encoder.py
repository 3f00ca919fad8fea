"""The shape of an encoder, and the sizes that have a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from bertsmith.config.settings import Help, Settings
from bertsmith.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class BertConfig(Settings):
    """The shape of one encoder; field names are those of a published `bert_config.json`.

    Source: Devlin et al. 2019, section 3. The defaults are BERT_BASE, uncased.
    """

    vocab_size: Annotated[int, Ge(1), Le(10_000_000), Help("pieces in the vocabulary (V)")] = 30522
    hidden_size: Annotated[int, Ge(1), Le(65536), Help("width of every layer (H)")] = 768
    num_hidden_layers: Annotated[int, Ge(1), Le(1000), Help("Transformer blocks (L)")] = 12
    num_attention_heads: Annotated[
        int, Ge(1), Help("heads per block (A); must divide hidden_size")
    ] = 12
    intermediate_size: Annotated[int, Ge(1), Help("width inside the feed-forward block")] = 3072
    hidden_act: Annotated[
        Literal["gelu", "gelu_new", "relu"], Help("activation of the feed-forward block")
    ] = "gelu"
    hidden_dropout_prob: Annotated[float, Ge(0), Lt(1), Help("dropout on hidden states")] = 0.1
    attention_probs_dropout_prob: Annotated[
        float, Ge(0), Lt(1), Help("dropout on attention weights")
    ] = 0.1
    max_position_embeddings: Annotated[int, Ge(1), Help("longest sequence")] = 512
    type_vocab_size: Annotated[int, Ge(1), Help("kinds of segment")] = 2
    initializer_range: Annotated[float, Gt(0), Help("deviation of the initial weights")] = 0.02
    layer_norm_eps: Annotated[float, Gt(0), Help("added to variances in layer norms")] = 1e-12
    is_decoder: Annotated[bool, Help("a token reads itself and those before it, no others")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.hidden_size, self.num_attention_heads)

    @property
    def head_dropout(self) -> float:
        """Returns the rate of dropout on what a task's layer reads."""
        return self.hidden_dropout_prob

    @property
    def block_weights(self) -> int:
        """Returns the number of weights in the matrices of one block."""
        return 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size

    @property
    def encoder_weights(self) -> int:
        """Returns the number of weights in an encoder, its few biases and norms left out."""
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        return rows * self.hidden_size + self.num_hidden_layers * self.block_weights

    def with_dropout(self, rate: float) -> dict[str, float]:
        """Returns the settings that make every rate of dropout `rate`, by name."""
        return {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}


def check_heads(hidden_size: int, num_attention_heads: int) -> None:
    """Raises ConfigError where a width cannot be split evenly over heads."""
    if hidden_size % num_attention_heads:
        raise ConfigError(
            f"hidden_size {hidden_size} cannot be split over "
            f"num_attention_heads {num_attention_heads}: "
            f"choose a multiple, such as {num_attention_heads * 64}"
        )


# Layers and width; heads are 64 wide and the feed-forward block is four times as wide.
# tiny to medium: Turc et al. 2019, table 1; base and large: Devlin et al. 2019, section 3.
SIZES: dict[str, tuple[int, int]] = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def bert_of_size(size: str, **changes: Any) -> BertConfig:
    """Returns the encoder shape that `size` names, or spells out as 'L6-H384' or 'L6-H384-A12'.

    `changes` are further fields of `BertConfig`.

    Raises:
        ConfigError: the size is neither a known name nor of that form.
    """
    return BertConfig(**(shape_of_size(size) | changes))


def shape_of_size(size: str) -> dict[str, Any]:
    """Returns layers, width, heads and feed-forward width of a size, by their published names.

    Raises:
        ConfigError: the size is neither a known name nor of the form 'L6-H384-A12'.
    """
    spelt = re.fullmatch(r"[Ll]([0-9]{1,4})-[Hh]([0-9]{1,6})(?:-[Aa]([0-9]{1,4}))?", size)
    if spelt:
        layers, hidden = int(spelt[1]), int(spelt[2])
        heads = int(spelt[3]) if spelt[3] else max(1, hidden // 64)
    elif size in SIZES:
        layers, hidden = SIZES[size]
        heads = hidden // 64
    else:
        raise ConfigError(
            f"there is no size {size!r}{nearest(size, SIZES)}; "
            f"any other is spelt out, as in 'L6-H384-A12'"
        )
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
