"""The commands: flags become settings, settings go to one function, its result is printed.

Results go to standard output, progress to standard error. Torch and the rooms that need it are
imported by the commands themselves, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError

from bertsmith import __version__
from bertsmith.config import (
    ColumnsConfig,
    CorpusConfig,
    EngineConfig,
    ExamplesConfig,
    FilterConfig,
    FinetuneConfig,
    Help,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    RanksConfig,
    TaskConfig,
    VocabConfig,
    WatchConfig,
)
from bertsmith.errors import BUG_EXIT_CODE, BertsmithError, DataError
from bertsmith.flags import Given, Result, add_command
from bertsmith.show import show

Texts = Annotated[list[str], Help("raw text: files, folders, globs or URLs")]
Out = Annotated[Path, Help("folder to write")]
RunOut = Annotated[Path, Help("run folder to write")]
Model = Annotated[Path, Help("model folder")]
ExcelSafe = Annotated[
    bool, Help("in CSV and TSV, put a quote before texts that a spreadsheet would run")
]
TaskName = Annotated[
    Literal["answer", "choose", "classify", "regress", "tag"], Help("what the model is to do")
]


def vocab(
    given: Given,
    text: Texts,
    *,
    out: Out,
    workers: Annotated[int | None, Help("processes; by default one per core")] = None,
) -> Result:
    """Learns a WordPiece vocabulary from raw text."""
    from bertsmith.progress import ProgressLine
    from bertsmith.recipes.vocabulary import learn

    with ProgressLine() as progress:
        return learn(
            text,
            out,
            given.stage(VocabConfig),
            given.stage(CorpusConfig),
            workers,
            engine=given.stage(EngineConfig),
            on_progress=lambda line: progress.show(None, line),
        )


def prepare(
    given: Given,
    text: Texts,
    *,
    vocab: Annotated[Path, Help("folder of the vocabulary")],
    out: Annotated[str, Help("folder to write, or the URL of one")],
) -> Result:
    """Tokenises raw text, once, into shards that pre-training reads."""
    from bertsmith.progress import ProgressLine
    from bertsmith.recipes.prepare import prepare
    from bertsmith.text.tokenizer_files import read_tokenizer

    with ProgressLine() as progress:
        return prepare(
            text,
            read_tokenizer(vocab),
            out,
            given.stage(CorpusConfig),
            given.stage(PrepareConfig),
            filters=given.stage(FilterConfig),
            engine=given.stage(EngineConfig),
            on_progress=lambda done: progress.show(None, f"{done / 1e6:,.0f} MB prepared"),
        )


def pretrain(
    given: Given,
    data: Annotated[list[str], Help("folders that `prepare` wrote, or raw text")],
    *,
    out: RunOut,
    vocab: Annotated[Path | None, Help("folder of the vocabulary, for raw text")] = None,
    resume: Annotated[bool, Help("go on from the newest checkpoint in the run folder")] = False,
) -> Result:
    """Trains an encoder on hidden pieces and next sentences, or on what else is asked for."""
    from bertsmith.recipes.pretrain import pretrain
    from bertsmith.recipes.pretraining_settings import PretrainSettings, paper_optimizer

    run = given.stage(PretrainConfig)
    settings = PretrainSettings(
        run=run,
        examples=given.stage(ExamplesConfig),
        optimizer=given.stage(OptimizerConfig, **paper_optimizer(run)),
        corpus=given.stage(CorpusConfig),
        prepare=given.stage(PrepareConfig),
        watch=given.stage(WatchConfig),
        ranks=given.stage(RanksConfig),
    )
    return pretrain(data, out, settings, vocab=vocab, resume=resume)


def report(
    given: Given, run: Annotated[Path, Help("run folder of a pre-training, also of one at work")]
) -> Result:
    """Writes the report of a pre-training run anew, from the metrics that it has logged."""
    from bertsmith.recipes.pretraining_report import write_report

    return {"out": str(write_report(run))}


def evaluate(
    given: Given,
    model: Model,
    data: Annotated[list[str], Help("raw text, or a labelled file for a fine-tuned model")],
) -> Result:
    """Measures a model: losses on raw text, or a fine-tuned one's scores on labelled rows."""
    from bertsmith.recipes.evaluate import evaluate

    return evaluate(model, data, given.stage(CorpusConfig), given.stage(ColumnsConfig))


def finetune(
    given: Given,
    task: TaskName,
    train: Annotated[Path, Help("labelled file of the task's form, also .gz; or a folder of one")],
    *,
    model: Model,
    out: RunOut,
    dev: Annotated[Path | None, Help("labelled file that the best epoch is chosen by")] = None,
    seeds: Annotated[int, Help("runs under this many seeds; their mean is the score")] = 1,
    search: Annotated[
        Literal["paper"] | None,
        Help("try the paper's batch sizes, rates and epochs; keep the best"),
    ] = None,
    random_weights: Annotated[bool, Help("start from random weights, for comparison")] = False,
    resume: Annotated[bool, Help("go on from the newest checkpoint in the run folder")] = False,
) -> Result:
    """Fine-tunes an encoder on labelled rows and keeps the best epoch."""
    from bertsmith.recipes.finetune import finetune, usual_learning_rate, usual_max_length
    from bertsmith.recipes.trials import Trial, finetune_several

    run = given.stage(FinetuneConfig, max_length=usual_max_length(task))
    optimizer = given.stage(OptimizerConfig, learning_rate=usual_learning_rate(model))
    columns, options = given.stage(ColumnsConfig), given.stage(TaskConfig)
    if seeds > 1 or search:
        trial = Trial(
            "", task, train, model, run, optimizer, columns, options, dev, None, random_weights
        )
        return finetune_several(trial, out, seeds=seeds, search=search, resume=resume)
    return finetune(
        task,
        train,
        model,
        out,
        run,
        optimizer,
        columns,
        options,
        dev=dev,
        random_weights=random_weights,
        resume=resume,
    )


def crossval(
    given: Given,
    task: TaskName,
    train: Annotated[Path, Help("labelled file: a table, SQuAD JSON or tagged words, also .gz")],
    *,
    model: Model,
    out: RunOut,
    folds: Annotated[int, Help("parts of the rows, each of which is the dev set once")] = 5,
    group_column: Annotated[
        str | None, Help("rows that are alike in this column stay in one fold")
    ] = None,
    test: Annotated[Path | None, Help("rows that all folds' models answer together")] = None,
    submission: Annotated[Path | None, Help("file for those answers: .csv")] = None,
    like: Annotated[Path | None, Help("sample submission whose layout is wanted")] = None,
    excel_safe: ExcelSafe = False,
    resume: Annotated[bool, Help("go on where it stopped")] = False,
) -> Result:
    """Fine-tunes once for each fold: every row is predicted by a model that has not seen it."""
    from bertsmith.recipes.crossval import crossval
    from bertsmith.recipes.finetune import usual_learning_rate, usual_max_length
    from bertsmith.recipes.trials import Trial

    trial = Trial(
        "",
        task,
        train,
        model,
        given.stage(FinetuneConfig, max_length=usual_max_length(task)),
        given.stage(OptimizerConfig, learning_rate=usual_learning_rate(model)),
        given.stage(ColumnsConfig),
        given.stage(TaskConfig),
    )
    return crossval(
        trial,
        out,
        folds=folds,
        group_column=group_column,
        test=test,
        submission=submission,
        like=like,
        excel_safe=excel_safe,
        resume=resume,
    )


def predict(
    given: Given,
    model: Model,
    data: Annotated[Path, Help("file with the columns that the model was trained on")],
    *,
    out: Annotated[Path, Help("file to write: .csv or .jsonl; with --glue .tsv; of tags .conll")],
    like: Annotated[Path | None, Help("sample submission whose layout is wanted")] = None,
    excel_safe: ExcelSafe = False,
) -> Result:
    """Writes a fine-tuned model's predictions for every row of a file."""
    from bertsmith.predict import load
    from bertsmith.predictions import predict_file

    columns = given.stage(ColumnsConfig)
    return predict_file(load(model), data, out, columns, like=like, excel_safe=excel_safe)


def doctor(
    given: Given,
    data: Annotated[Path, Help("labelled file, or the folder of a run")],
    *,
    task: TaskName = "classify",
    dev: Annotated[Path | None, Help("labelled file that the best epoch is chosen by")] = None,
    model: Annotated[Path | None, Help("model folder, to tell how long the rows are")] = None,
    max_length: Annotated[int, Help("pieces that the model will read of a text")] = 128,
) -> Result:
    """Finds what is wrong with labelled rows or a run, and says the mend; status 65 for errors."""
    from bertsmith.recipes.doctor import doctor

    columns, options = given.stage(ColumnsConfig), given.stage(TaskConfig)
    return doctor(data, task, columns, options, dev=dev, model=model, max_length=max_length)


def fill(
    given: Given,
    model: Model,
    text: Annotated[str, Help("text with one [MASK] or more")],
    *,
    top: Annotated[int, Help("pieces shown for each mask")] = 5,
) -> Result:
    """Shows the likeliest pieces behind each [MASK]."""
    from bertsmith.predict import load

    return {"predictions": load(model).fill_mask(text, top=top)}


def embed(
    given: Given,
    model: Model,
    text: Annotated[Path, Help("text file, one text a line, or a table")],
    *,
    out: Annotated[Path, Help("file.npy to write")],
    pooling: Annotated[Literal["mean", "cls"], Help("how pieces become one vector")] = "mean",
    layers: Annotated[int, Help("layer that is read; -1 is the last, 0 the embeddings")] = -1,
    normalize: Annotated[bool, Help("make every vector one unit long")] = False,
) -> Result:
    """Writes one vector for each text."""
    from bertsmith.predict import load

    return load(model).embed_file(
        text,
        out,
        given.stage(ColumnsConfig),
        pooling=pooling,
        layers=layers,
        normalize=normalize,
    )


def features(
    given: Given,
    model: Model,
    text: Annotated[Path, Help("text file, one text a line, or a table")],
    *,
    out: Annotated[Path, Help("file to write: .npz, or .npy for the states alone")],
    layers: Annotated[
        str, Help("as in -1 or 0,6,12 or -4:-1, the last four; 0 are the embeddings")
    ] = "-1",
) -> Result:
    """Writes the states of chosen layers for every piece of every text."""
    from bertsmith.recipes.features import write_features

    return write_features(model, text, out, layers, given.stage(ColumnsConfig))


def inspect(
    given: Given,
    model: Annotated[str, Help("model folder, or a size such as base or L6-H384")],
) -> Result:
    """Shows parameters, operations and memory of a model or a size."""
    from bertsmith.lab.inspection import account

    return account(model)


def env(given: Given) -> Result:
    """Shows what this machine and this installation can do."""
    from bertsmith.lab.environment import describe

    return describe()


COMMANDS = (
    (vocab, (VocabConfig, CorpusConfig, EngineConfig)),
    (prepare, (CorpusConfig, PrepareConfig, FilterConfig, EngineConfig)),
    (
        pretrain,
        (
            *(PretrainConfig, ExamplesConfig, OptimizerConfig),
            *(CorpusConfig, PrepareConfig, WatchConfig, RanksConfig),
        ),
    ),
    (report, ()),
    (evaluate, (CorpusConfig, ColumnsConfig)),
    (finetune, (FinetuneConfig, OptimizerConfig, TaskConfig, ColumnsConfig)),
    (crossval, (FinetuneConfig, OptimizerConfig, TaskConfig, ColumnsConfig)),
    (predict, (ColumnsConfig,)),
    (doctor, (ColumnsConfig, TaskConfig)),
    (fill, ()),
    (embed, (ColumnsConfig,)),
    (features, (ColumnsConfig,)),
    (inspect, ()),
    (env, ()),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the arguments name; returns its exit status, as in `errors.py`."""
    app = App(name="bertsmith", help="Makes BERTs, from raw text on.", version=__version__)
    for command, stages in COMMANDS:
        add_command(app, command, stages, show)
    try:
        result = app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return 2  # cyclopts has said what is wrong
    except BertsmithError as error:
        if not error.is_said:
            _complain(f"bertsmith: {error}")
        return error.exit_code
    except BrokenPipeError:  # the reader of the result has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _complain("bertsmith: stopped; nothing was written")
        return 130
    except Exception:
        sys.excepthook(*sys.exc_info())
        _complain("bertsmith: this is a bug; please report what stands above")
        return BUG_EXIT_CODE
    is_unsound = isinstance(result, dict) and result.get("ok") is False  # as `doctor` may find
    return DataError.exit_code if is_unsound else 0


def _complain(message: str) -> None:
    """Prints a message on standard error; where that is closed, the exit status says it alone."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)
