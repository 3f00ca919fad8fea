"""The settings of text on its way to examples: casing, vocabulary, corpus, shards, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from bertsmith.config.settings import Help, Settings
from bertsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CasingConfig(Settings):
    """How text is normalised before it is cut; keys as in a published `tokenizer_config.json`."""

    do_lower_case: Annotated[bool, Help("lower-case the text and strip its accents")] = True
    strip_accents: Annotated[
        bool | None, Help("strip accents; by default as do_lower_case says")
    ] = None
    tokenize_chinese_chars: Annotated[bool, Help("make each Chinese character a word")] = True


@dataclass(frozen=True, kw_only=True)
class VocabConfig(Settings):
    """What vocabulary to learn. The defaults are those of the published uncased vocabulary."""

    size: Annotated[int, Gt(5), Help("pieces in the vocabulary, special ones included")] = 30522
    algorithm: Annotated[
        Literal["wordpiece", "bpe"],
        Help("what merges are ranked by: likelihood (wordpiece) or frequency (bpe)"),
    ] = "wordpiece"
    cased: Annotated[bool, Help("keep case and accents")] = False
    min_frequency: Annotated[int, Ge(1), Help("rarer pairs are never merged")] = 2
    character_coverage: Annotated[
        float, Gt(0), Le(1), Help("share of all characters that must not become [UNK]")
    ] = 0.9999
    num_unused: Annotated[
        int | None, Ge(0), Help("rows [unused0].. kept free; by default 994 in 20,000 or more")
    ] = None


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Settings):
    """How raw text is read."""

    encoding: Annotated[str, Help("encoding of the text files")] = "utf-8"
    text_field: Annotated[
        str, Help("column or key that holds the text of CSV, parquet and JSONL rows")
    ] = "text"
    language: Annotated[
        Literal["auto", "en", "zh"], Help("whose rules split sentences; auto looks at each text")
    ] = "auto"
    text_layout: Annotated[
        Literal["auto", "lines", "wrapped", "spaced"],
        Help("plain text: a paragraph a line, lines broken at a width, or a blank after each line"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """How a corpus is tokenised and laid on disk."""

    workers: Annotated[int | None, Ge(1), Help("processes; by default one per core")] = None
    held_out: Annotated[
        float, Ge(0), Lt(1), Help("share of documents, by hash, set aside for evaluation")
    ] = 0.005
    shard_pieces: Annotated[int, Ge(1000), Help("pieces in one shard")] = 4_000_000


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig(Settings):
    """What a pre-training example is, and what is learnt from it.

    Source: Devlin et al. 2019, appendix A.1 and A.2, and `create_pretraining_data.py`; the order of
    sentences (`sop`): Lan et al. 2020, section 3.1; spans: Joshi et al. 2020, section 3.1; replaced
    pieces (`rtd`): Clark et al. 2020, ELECTRA.
    """

    objective: Annotated[
        Literal["mlm", "lm", "rtd"],
        Help("predict hidden pieces, each next one, or which ones a generator has replaced"),
    ] = "mlm"
    generator_share: Annotated[
        float, Gt(0), Le(1), Help("width of the generator of rtd, as a share of the encoder's")
    ] = 0.25
    sentence_task: Annotated[
        Literal["nsp", "sop", "none"],
        Help("is B the next text (nsp), do A and B stand in order (sop), or neither"),
    ] = "nsp"
    layout: Annotated[
        Literal["pairs", "packed"],
        Help("pairs of texts, or documents cut to full length, remainders side by side"),
    ] = "pairs"
    sequence_length: Annotated[int, Ge(8), Help("pieces in an example, special ones included")] = (
        128
    )
    masked_lm_prob: Annotated[float, Gt(0), Lt(1), Help("share of pieces to predict")] = 0.15
    final_masked_lm_prob: Annotated[
        float | None, Gt(0), Lt(1), Help("share at the end of the run, to which it moves evenly")
    ] = None
    masked_units: Annotated[
        Literal["pieces", "words", "spans"], Help("what is hidden whole: spans are of words")
    ] = "pieces"
    mask_share: Annotated[
        float, Ge(0), Le(1), Help("share of the pieces to predict that become [MASK]")
    ] = 0.8
    random_share: Annotated[
        float, Ge(0), Le(1), Help("share of them that become a random piece; the rest is kept")
    ] = 0.1
    max_predictions_per_seq: Annotated[
        int | None, Ge(1), Help("most pieces predicted in an example; by default 20 in 128")
    ] = None
    short_seq_prob: Annotated[float, Ge(0), Le(1), Help("share of pairs made shorter")] = 0.1
    random_next_prob: Annotated[
        float, Ge(0), Le(1), Help("share of nsp pairs whose second half comes from elsewhere")
    ] = 0.5
    masking: Annotated[
        Literal["static", "dynamic"], Help("the same masks in every epoch, or new ones")
    ] = "dynamic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_share + self.random_share > 1:
            raise ConfigError(
                f"mask_share {self.mask_share} and random_share {self.random_share} are together "
                f"more than 1; expected shares of one whole, as in 0.8 and 0.1"
            )
        if self.sentence_task != "none" and (self.layout, self.objective) != ("pairs", "mlm"):
            raise ConfigError(
                f"sentence_task is {self.sentence_task!r}, but with layout {self.layout!r} and "
                f"objective {self.objective!r} no pair of sentences is judged; "
                f"give sentence_task none"
            )
        if self.objective != "rtd" and self.generator_share != type(self).generator_share:
            raise ConfigError(
                f"generator_share is {self.generator_share}, but with objective "
                f"{self.objective!r} there is no generator; give objective rtd, or leave it out"
            )
        if self.objective == "lm" and (self.masked_units, self.final_masked_lm_prob) != (
            "pieces",
            None,
        ):
            raise ConfigError(
                "objective is 'lm', which hides nothing; leave masked_units and "
                "final_masked_lm_prob out"
            )
