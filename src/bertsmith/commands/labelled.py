"""Commands on labelled rows: checked, trained on, scored, predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.commands.arguments import Model, RunOut, TaskName, found
from bertsmith.config import (
    PAPERS_FEATURES,
    ColumnsConfig,
    CorpusConfig,
    FeatureBased,
    FeatureTaggerConfig,
    FinetuneConfig,
    Help,
    InferenceConfig,
    OptimizerConfig,
    TaskConfig,
    setting_names,
)
from bertsmith.errors import ConfigError
from bertsmith.flags import Given, Result

ExcelSafe = Annotated[
    bool, Help("in CSV and TSV, put a quote before texts that a spreadsheet would run")
]


def doctor(
    given: Given,
    data: Annotated[Path, Help("labelled file, or the folder of a run")],
    *,
    task: TaskName = "classify",
    dev: Annotated[Path | None, Help("labelled file that the best epoch is chosen by")] = None,
    model: Annotated[str | None, Help("model, to tell how long the rows are")] = None,
    max_length: Annotated[int, Help("pieces that the model will read of a text")] = 128,
) -> Result:
    """Finds what is wrong with labelled rows or a run, and says the mend; status 65 for errors."""
    from bertsmith.recipes.doctor import doctor

    columns, options = given.stage(ColumnsConfig), given.stage(TaskConfig)
    folder = found(model) if model else None
    return doctor(data, task, columns, options, dev=dev, model=folder, max_length=max_length)


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
        Help("try the paper's batch sizes, rates and epochs where not given; keep the best"),
    ] = None,
    feature_based: Annotated[
        FeatureBased | None,
        Help("tag: train a BiLSTM on these layers and leave the encoder as it is"),
    ] = None,
    random_weights: Annotated[bool, Help("start from random weights, for comparison")] = False,
    resume: Annotated[bool, Help("go on from the newest checkpoint in the run folder")] = False,
) -> Result:
    """Fine-tunes an encoder on labelled rows and keeps the best epoch."""
    from bertsmith.recipes.finetuning.finetune import (
        finetune,
        usual_learning_rate,
        usual_max_length,
    )
    from bertsmith.recipes.finetuning.trials import Trial, finetune_several

    folder = found(model)
    of_features = sorted(given.values.keys() & setting_names(FeatureTaggerConfig))
    if of_features and feature_based is None:
        raise ConfigError(
            f"{of_features[0]} is of a tagger on frozen features; expected feature_based with it, "
            f"as in --feature-based last-four-concatenated"
        )
    if feature_based is not None:
        others = {"seeds": seeds != 1, "search": search, "resume": resume}
        others["random_weights"] = random_weights
        _refuse_beside_features(task, [name for name, is_given in others.items() if is_given])
        return _on_features(given, train, folder, out, dev, feature_based)
    run = given.stage(FinetuneConfig, max_length=usual_max_length(task))
    optimizer = given.stage(OptimizerConfig, learning_rate=usual_learning_rate(folder))
    columns, options = given.stage(ColumnsConfig), given.stage(TaskConfig)
    if seeds != 1 or search:
        trial = Trial(
            "", task, train, folder, run, optimizer, columns, options, dev, None, random_weights
        )
        return finetune_several(
            trial, out, seeds=seeds, search=search, kept=given.values, resume=resume
        )
    return finetune(
        task,
        train,
        folder,
        out,
        run,
        optimizer,
        columns,
        options,
        dev=dev,
        random_weights=random_weights,
        resume=resume,
    )


def _refuse_beside_features(task: str, others: list[str]) -> None:
    if task != "tag":
        raise ConfigError(
            f"feature_based is for the task tag, as in section 5.3 of the paper; found {task}: for "
            f"vectors of texts, `bertsmith embed` or `features`"
        )
    if others:
        raise ConfigError(
            f"{others[0]} is given with feature_based, which is one run from its beginning to its "
            f"end; expected it without"
        )


def _on_features(
    given: Given,
    train: Path,
    model: Path,
    out: Path,
    dev: Path | None,
    feature_based: FeatureBased,
) -> Result:
    from bertsmith.recipes.feature_tagger import FEATURE_EPOCHS, FEATURE_OPTIMIZER
    from bertsmith.recipes.finetuning.frozen import finetune_frozen

    return finetune_frozen(
        train,
        model,
        out,
        given.stage(FinetuneConfig, epochs=FEATURE_EPOCHS),
        given.stage(FeatureTaggerConfig, **PAPERS_FEATURES[feature_based]),
        given.stage(OptimizerConfig, **FEATURE_OPTIMIZER.to_mapping()),
        given.stage(ColumnsConfig),
        given.stage(TaskConfig),
        dev=dev,
        feature_based=feature_based,
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
    from bertsmith.recipes.finetuning.crossval import crossval
    from bertsmith.recipes.finetuning.finetune import usual_learning_rate, usual_max_length
    from bertsmith.recipes.finetuning.trials import Trial

    folder = found(model)
    trial = Trial(
        "",
        task,
        train,
        folder,
        given.stage(FinetuneConfig, max_length=usual_max_length(task)),
        given.stage(OptimizerConfig, learning_rate=usual_learning_rate(folder)),
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


def evaluate(
    given: Given,
    model: Model,
    data: Annotated[list[str], Help("raw text, or a labelled file for a fine-tuned model")],
) -> Result:
    """Measures a model: losses on raw text, or a fine-tuned one's scores on labelled rows."""
    from bertsmith.recipes.evaluate import evaluate

    corpus, columns = given.stage(CorpusConfig), given.stage(ColumnsConfig)
    return evaluate(found(model), data, corpus, columns, inference=given.stage(InferenceConfig))


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

    engine, columns = given.stage(InferenceConfig).to_mapping(), given.stage(ColumnsConfig)
    loaded = load(model, **engine, sample=data, columns=columns)
    return predict_file(loaded, data, out, columns, like=like, excel_safe=excel_safe)


COMMANDS = (
    (doctor, (ColumnsConfig, TaskConfig)),
    (finetune, (FinetuneConfig, OptimizerConfig, TaskConfig, ColumnsConfig, FeatureTaggerConfig)),
    (crossval, (FinetuneConfig, OptimizerConfig, TaskConfig, ColumnsConfig)),
    (evaluate, (CorpusConfig, ColumnsConfig, InferenceConfig)),
    (predict, (ColumnsConfig, InferenceConfig)),
)
