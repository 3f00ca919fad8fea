"""The settings of tasks: which columns are read, and what a task makes of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from bertsmith.config.settings import Help, Settings, setting_names
from bertsmith.errors import ConfigError


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
    crf: Annotated[
        bool, Help("tag: learn which tags follow each other, and choose the best row of tags")
    ] = False
    # Source of the next four: google-research/bert, `run_squad.py`.
    doc_stride: Annotated[
        int, Ge(1), Help("answer: pieces from one window of a long context to the next")
    ] = 128
    max_query_length: Annotated[int, Ge(1), Help("answer: most pieces of a question")] = 64
    max_answer_length: Annotated[int, Ge(1), Help("answer: most pieces of an answer")] = 30
    n_best: Annotated[int, Ge(1), Help("answer: likeliest answers that are told")] = 20


FeatureBased = Literal[
    "embeddings",
    "second-to-last",
    "last",
    "last-four-summed",
    "last-four-concatenated",
    "all-summed",
]
# The six combinations of layers of table 7 of Devlin et al. 2019, in its order.
PAPERS_FEATURES: dict[FeatureBased, dict[str, str]] = {
    "embeddings": {"layers": "0", "combine": "concat"},
    "second-to-last": {"layers": "-2", "combine": "concat"},
    "last": {"layers": "-1", "combine": "concat"},
    "last-four-summed": {"layers": "-4:-1", "combine": "mix"},
    "last-four-concatenated": {"layers": "-4:-1", "combine": "concat"},
    "all-summed": {"layers": "1:", "combine": "mix"},
}


@dataclass(frozen=True, kw_only=True)
class FeatureTaggerConfig(Settings):
    """A tagger on a frozen encoder. The defaults are the best of the paper's six combinations.

    Source: Devlin et al. 2019, section 5.3; the dropout, of which it says nothing, is our choice.
    """

    layers: Annotated[
        str, Help("layers that are read, as in -1 or -4:-1, in place of those of feature_based")
    ] = "-4:-1"
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
        Literal["comma", "tab", "semicolon", "pipe"] | None,
        Help("between columns; by default as the file's name says"),
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
