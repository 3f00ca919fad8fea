"""Every setting of every stage: one frozen dataclass a stage, one line a setting.

A line gives a setting's name, type, bounds, help and default. Flags, TOML and JSON keys and the
documentation come from that line and from nowhere else; pydantic checks the values when an object
is made, and contradictions between settings are refused at the same moment. Nothing changes a
config afterwards: use `dataclasses.replace`. A command's settings are the union of the stages that
it runs, so setting names are unique over all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from bertsmith.errors import ConfigError, DataError, MissingInputError, nearest


@dataclass(frozen=True)
class Help:
    """The one sentence that `--help` and the documentation show for a setting."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage's settings share: checked when made, read from and written to mappings."""

    def __post_init__(self) -> None:
        stage: type = type(self)
        for name, adapter in _adapters(stage).items():
            _check(adapter, f"{stage.__name__}.{name}", getattr(self, name))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Returns the settings that a TOML or JSON file holds; dashes in keys count as underscores.

        Raises:
            ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
        """
        known = setting_names(cls)
        given = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in known:
                raise ConfigError(
                    f"{where}: {cls.__name__} has no setting {key!r}{nearest(name, known)}"
                )
            given[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**given)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """Returns the settings as plain values that JSON can hold, in the order of declaration."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }


def setting_names(settings: type[Settings]) -> tuple[str, ...]:
    """Returns the names of the settings of one stage, in the order of declaration."""
    return tuple(field.name for field in dataclasses.fields(settings))


@functools.cache
def _adapters(settings: type) -> dict[str, Any]:
    from pydantic import TypeAdapter  # takes 0.1 s to load: not for --help

    hints = get_type_hints(settings, include_extras=True)
    return {name: TypeAdapter(hints[name]) for name in setting_names(settings)}


def _check(adapter: Any, where: str, value: object) -> None:
    from pydantic import ValidationError

    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        reasons = " or ".join(
            dict.fromkeys(
                part["msg"].removeprefix("Input should be ").lower() for part in error.errors()
            )
        )
        raise ConfigError(f"{where} is {value!r}; expected {reasons}") from None


# ---------------------------------------------------------------------------------- text


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


# ---------------------------------------------------------------------------------- data


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
    """What a pre-training example is.

    Source: Devlin et al. 2019, appendix A.1 and A.2, and `create_pretraining_data.py`.
    """

    sequence_length: Annotated[int, Ge(8), Help("pieces in an example, special ones included")] = (
        128
    )
    masked_lm_prob: Annotated[float, Gt(0), Lt(1), Help("share of pieces to predict")] = 0.15
    max_predictions_per_seq: Annotated[
        int | None, Ge(1), Help("most pieces predicted in an example; by default 20 in 128")
    ] = None
    short_seq_prob: Annotated[float, Ge(0), Le(1), Help("share of examples made shorter")] = 0.1
    random_next_prob: Annotated[
        float, Ge(0), Le(1), Help("share of pairs whose second half comes from elsewhere")
    ] = 0.5
    masking: Annotated[
        Literal["static", "dynamic"], Help("the same masks in every epoch, or new ones")
    ] = "dynamic"


# ---------------------------------------------------------------------------------- model


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} cannot be split over "
                f"num_attention_heads {self.num_attention_heads}: "
                f"choose a multiple, such as {self.num_attention_heads * 64}"
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
    shape: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
    return BertConfig(**(shape | changes))


# ---------------------------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """How weights are moved. The defaults are those of fine-tuning.

    Source: Devlin et al. 2019, appendix A.2 and A.3; `optimization.py`.
    """

    learning_rate: Annotated[float, Gt(0), Help("peak learning rate")] = 5e-5
    weight_decay: Annotated[float, Ge(0), Help("decay of weights, not of biases and norms")] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1), Help("memory of the gradient's mean")] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1), Help("memory of the gradient's square")] = 0.999
    epsilon: Annotated[float, Gt(0), Help("added to the root of the gradient's square")] = 1e-6
    bias_correction: Annotated[
        bool, Help("correct Adam's means for their start; the published code does not")
    ] = True
    max_gradient_norm: Annotated[float, Gt(0), Help("longer gradients are shortened to this")] = 1.0
    warmup: Annotated[float, Ge(0), Le(1), Help("share of the run in which the rate rises")] = 0.1


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings):
    """One pre-training run. The defaults are those of `--recipe paper`."""

    recipe: Annotated[Literal["paper"], Help("the paper's recipe, section 3.1 and A.2")] = "paper"
    size: Annotated[str, Help("tiny mini small medium base large, or as in L6-H384-A12")] = "mini"
    steps: Annotated[int | None, Ge(1), Help("optimizer steps; by default one epoch")] = None
    budget: Annotated[str | None, Help("train for this long instead, as in 90s, 30m, 3h")] = None
    dropout: Annotated[float, Ge(0), Lt(1), Help("of states and of attention weights")] = 0.1
    initialization: Annotated[
        Literal["published", "directed"],
        Help("directed: half of the heads begin by reading nearby"),
    ] = "published"
    tokens_per_batch: Annotated[int, Ge(8), Help("most pieces in one optimizer step")] = 4096
    accumulate: Annotated[int, Ge(1), Help("parts in which a batch goes through the model")] = 1
    long_sequence_length: Annotated[int, Ge(8), Help("pieces in an example of the last phase")] = (
        512
    )
    long_sequence_share: Annotated[
        float, Ge(0), Lt(1), Help("share of the steps in the last phase (0: none)")
    ] = 0.1
    vocab_size: Annotated[
        int | None, Gt(5), Help("learn a vocabulary of this size from the text")
    ] = None
    checkpoint_every: Annotated[int, Ge(1), Help("steps between checkpoints")] = 1000
    keep_checkpoints: Annotated[int, Ge(1), Help("newest checkpoints kept")] = 2
    evaluate_every: Annotated[int, Ge(1), Help("steps between held-out evaluations")] = 500
    evaluate_examples: Annotated[int, Ge(1), Help("held-out examples in an evaluation")] = 1024
    log_every: Annotated[int, Ge(1), Help("steps between rows of metrics.jsonl")] = 10
    seed: Annotated[int, Ge(0), Lt(2**32), Help("of weights, order, masks and dropout")] = 0
    threads: Annotated[int | None, Ge(1), Help("threads of torch; by default one per core")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.budget is not None:
            raise ConfigError("steps and budget are both given; choose one of them")
        if self.budget is not None:
            seconds_of(self.budget)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings):
    """One fine-tuning run.

    Source: Devlin et al. 2019, appendix A.3, for the rates, batch sizes and epochs.
    """

    epochs: Annotated[int, Ge(1), Help("passes over the training rows")] = 3
    batch_size: Annotated[int, Ge(1), Help("rows in one optimizer step")] = 32
    max_length: Annotated[int, Ge(4), Help("longer texts are cut to this many pieces")] = 128
    dev_share: Annotated[
        float, Gt(0), Lt(1), Help("share of training rows split off where there is no dev file")
    ] = 0.1
    evaluations_per_epoch: Annotated[int, Ge(1), Help("dev evaluations in each epoch")] = 1
    early_stopping: Annotated[
        int | None, Ge(1), Help("stop after this many evaluations without a better score")
    ] = None
    layer_decay: Annotated[
        float, Gt(0), Le(1), Help("rate of each block as a share of that of the block above")
    ] = 1.0
    reinit_layers: Annotated[int, Ge(0), Help("top blocks that begin with new weights")] = 0
    freeze_encoder: Annotated[bool, Help("train what stands on the encoder alone")] = False
    restarts: Annotated[
        int, Ge(0), Help("how often a run that learnt nothing is begun again with another seed")
    ] = 2
    train_anyway: Annotated[bool, Help("train even if the data check finds an error")] = False
    seed: Annotated[int, Ge(0), Lt(2**32), Help("of the head, order and dropout")] = 0
    split_seed: Annotated[
        int, Ge(0), Lt(2**32), Help("of the dev rows split off, and of folds")
    ] = 0
    threads: Annotated[int | None, Ge(1), Help("threads of torch; by default one per core")] = None


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Settings):
    """How a task reads its rows and what its loss makes of them."""

    class_weights: Annotated[
        Literal["balanced"] | None, Help("weigh each row against its label's share of all rows")
    ] = None
    multi_label: Annotated[bool, Help("a row may have several labels at once, or none")] = False
    label_separator: Annotated[
        str, Help("between the labels of a row that has several in one column")
    ] = ","
    tune_thresholds: Annotated[
        bool, Help("say a label above the probability that gives dev rows the best F1")
    ] = False
    long_texts: Annotated[
        Literal["cut", "windows"], Help("lose their end, or are read in overlapping windows")
    ] = "cut"
    label_smoothing: Annotated[
        float, Ge(0), Lt(1), Help("share of a label that is spread over all labels")
    ] = 0.0
    tag_scheme: Annotated[
        Literal["iob1", "iob2", "bioes", "bmes", "bilou", "plain"] | None,
        Help("how tags are learnt and written; by default learns iob2, writes the file's own"),
    ] = None
    document_context: Annotated[
        bool, Help("read the sentence to be tagged amid as much of its document as fits")
    ] = False
    # Source of the next four: google-research/bert, `run_squad.py`.
    doc_stride: Annotated[
        int, Ge(1), Help("answer: pieces from one window of a long context to the next")
    ] = 128
    max_query_length: Annotated[int, Ge(1), Help("answer: most pieces of a question")] = 64
    max_answer_length: Annotated[int, Ge(1), Help("answer: most pieces of an answer")] = 30
    n_best: Annotated[int, Ge(1), Help("answer: likeliest answers that are told")] = 20


@dataclass(frozen=True, kw_only=True)
class FeatureTaggerConfig(Settings):
    """A tagger on a frozen encoder. The defaults are the best of the paper's six combinations.

    Source: Devlin et al. 2019, section 5.3; the dropout, of which it says nothing, is our choice.
    """

    layers: Annotated[str, Help("layers that are read, as in -1 or 1: or -4:-1")] = "-4:-1"
    combine: Annotated[
        Literal["mix", "concat"], Help("sum the layers with learnt weights, or put them in a row")
    ] = "concat"
    lstm_size: Annotated[int, Ge(1), Help("width of the BiLSTM, in each direction")] = 768
    lstm_layers: Annotated[int, Ge(1), Help("BiLSTMs on top of each other")] = 2
    lstm_dropout: Annotated[float, Ge(0), Lt(1), Help("of what each of them reads")] = 0.5


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig(Settings):
    """Which columns of a labelled file are read; what is not named is guessed and said aloud."""

    text_column: Annotated[str | None, Help("column of the text")] = None
    pair_column: Annotated[str | None, Help("column of the second text of a pair")] = None
    label_column: Annotated[
        str | None, Help("column of the label; with multi_label also one of 0 and 1 each: a,b,c")
    ] = None
    id_column: Annotated[str | None, Help("column that names a row in predictions")] = None
    delimiter: Annotated[
        Literal["comma", "tab"] | None, Help("between columns; by default as the file's name says")
    ] = None
    no_header: Annotated[bool, Help("the first row is data; columns are named 0, 1, 2..")] = False
    file_encoding: Annotated[str, Help("encoding of the labelled files")] = "utf-8"
    glue: Annotated[
        str | None, Help("a GLUE task by name, as in CoLA; its folder is given in place of a file")
    ] = None
    stem_column: Annotated[str | None, Help("column of what endings are chosen for")] = None
    second_column: Annotated[
        str | None, Help("column of words that stand before each of the endings")
    ] = None
    ending_columns: Annotated[
        str | None, Help("columns of the endings, as in a,b,c,d; or the one that holds them all")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.glue is None:
            return
        for name in setting_names(type(self)):
            if name not in ("glue", "id_column") and getattr(self, name) != getattr(
                type(self), name
            ):
                raise ConfigError(
                    f"glue is {self.glue!r} and {name} is {getattr(self, name)!r}; "
                    f"expected one of them: the columns of GLUE's files are known"
                )


# ---------------------------------------------------------------------------------- files


def seconds_of(duration: str) -> float:
    """Returns the seconds in a duration such as '90s', '30m', '1.5h' or '2d'.

    Raises:
        ConfigError: it is not a positive number with one of those units.
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", duration)
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if not seconds > 0:
        raise ConfigError(f"budget is {duration!r}; expected a duration such as 90s, 30m, 3h or 2d")
    return seconds


def read_settings_file(path: Path) -> dict[str, Any]:
    """Returns the keys of a TOML file of settings, or of the JSON that a run has left.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is not well-formed; the message names the place.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if path.suffix == ".json":
            values = json.loads(content)
        else:
            values = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds {type(values).__name__}; expected a table of settings")
    return values
