"""Google's checkpoints: what google-research/bert publishes, trains and fine-tunes, in and out.

    bert_config.json    vocab.txt
    bert_model.ckpt.index    bert_model.ckpt.data-00000-of-00001

Which heads a checkpoint has is told by its tensors: `cls/predictions` and `cls/seq_relationship`
(pre-training), `output_weights` (run_classifier.py), `cls/squad` (run_squad.py), or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import BertConfig, setting_names
from bertsmith.errors import CheckpointError, ConfigError, MissingInputError
from bertsmith.folder import Loaded, save_model
from bertsmith.interop.bundle import Bundle, write_bundle
from bertsmith.interop.google_names import (
    POOLER,
    check_names,
    expected_shapes,
    from_google,
    google_names,
    is_of_training,
    to_google,
)
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.published import AnyModel, architecture_of, encoder_in
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForClassification,
    BertForRegression,
)
from bertsmith.storage import read_json, replacing, write_json
from bertsmith.text.tokenizer_files import read_tokenizer

PREFIX = "bert_model.ckpt"
GOOGLE_FILES = frozenset(
    {
        "bert_config.json",
        "vocab.txt",
        "tokenizer_config.json",
        f"{PREFIX}.index",
        f"{PREFIX}.data-00000-of-00001",
    }
)
_INDEX = "*.ckpt*.index"
# What modeling.py has no setting for, and the value that it has built in.
_BUILT_IN = {"layer_norm_eps": 1e-12, "is_decoder": False}
_ACTIVATIONS = ("gelu", "relu")

Say = Callable[[str], None]


def is_google_checkpoint(path: Path) -> bool:
    """Returns whether a path is a Google checkpoint: its folder, its prefix, or its index file.

    A folder with a config.json is a model folder, whatever else lies in it.
    """
    if path.is_dir():
        return not (path / "config.json").exists() and any(path.glob(_INDEX))
    return _index_of(path).is_file()


def read_google_checkpoint(path: Path, say: Say | None = None) -> Loaded:
    """Returns the model of a Google checkpoint, with exactly the heads that its tensors are of.

    Args:
        path: its folder, or its prefix, as `--init_checkpoint` takes it.
        say: is told what was passed over or guessed; by default it goes to standard error.

    Raises:
        MissingInputError: a file is not there.
        CheckpointError: one is damaged, or tensors are missing, left over or of other shapes.
        ConfigError: a setting in bert_config.json cannot be.
    """
    say = say or _say
    prefix = prefix_of(path)
    config = _config_in(prefix.parent / "bert_config.json")
    tokenizer = read_tokenizer(prefix.parent)
    if len(tokenizer.vocabulary) > config.vocab_size:
        raise CheckpointError(
            f"{prefix.parent}: the vocabulary holds {len(tokenizer.vocabulary)} pieces but "
            f"vocab_size in bert_config.json is {config.vocab_size}; expected a vector for each"
        )
    bundle = Bundle(prefix)
    shapes = {name: entry.shape for name, entry in bundle.tensors.items()}
    model, facts = _model_of(config, shapes, bundle.index)
    shapes = _weights_among(shapes, model, bundle.index, say)
    wanted = model.state_dict()
    check_names(shapes, expected_shapes(wanted), str(bundle.index))
    state = {}
    for ours in wanted:
        parts = [torch.from_numpy(bundle.read(theirs)) for theirs in google_names(ours)]
        state[ours] = from_google(ours, parts)
    model.load_state_dict(state, assign=True)
    _tell_casing(prefix.parent, tokenizer.casing.do_lower_case, say)
    return Loaded(model.eval(), tokenizer, config, facts)


# What a folder of ours may remember of a model, and theirs cannot.
_NO_PLACE = (
    *("labels", "options", "columns", "settings", "scores", "temperature", "thresholds"),
    *("pooling", "normalize", "max_length"),
)


def write_google_checkpoint(loaded: Loaded, out: Path, say: Say | None = None) -> None:
    """Writes a folder that Google's code takes, in place of an older one; whole or not at all.

    `tokenizer_config.json` is ours: it keeps the casing, which theirs has no place for.

    Raises:
        ConfigError: the model has what their code cannot hold; the message says what.
        FolderInUseError: something else stands at `out`.
        StorageError: it cannot be written; what stood there still stands.
    """
    say = say or _say
    refuse_what_google_cannot_hold(loaded.model)
    lost = [name for name in _NO_PLACE if name in loaded.facts]
    if lost:
        say(f"{out}: a Google checkpoint has no place for {', '.join(lost)}; they are left out")
    config = loaded.config
    with replacing(out, known=GOOGLE_FILES) as building:
        settings = {k: v for k, v in config.to_mapping().items() if k not in _BUILT_IN}
        write_json(building / "bert_config.json", settings)
        loaded.tokenizer.vocabulary.write(building / "vocab.txt")
        write_json(building / "tokenizer_config.json", loaded.tokenizer.casing.to_mapping())
        tensors = ((n, t.float().cpu().numpy()) for n, t in to_google(loaded.model.state_dict()))
        write_bundle(building / PREFIX, tensors)


def refuse_what_google_cannot_hold(model: AnyModel) -> None:
    """Raises ConfigError, with the reason, where a model is not one of Google's code."""
    config = model.config
    reason = ""
    if not isinstance(config, BertConfig):
        reason = "is a modern encoder, with rotary positions and gated blocks"
    elif not isinstance(
        model,
        Bert | BertForPreTraining | BertForClassification | BertForRegression | BertForAnswering,
    ):
        reason = "has a head that none of its programs knows"
    elif isinstance(model, BertForClassification) and model.several:
        reason = "gives several labels at once, where run_classifier.py gives one"
    elif config.hidden_act not in _ACTIVATIONS:
        reason = f"has hidden_act {config.hidden_act!r}, where modeling.py knows gelu and relu"
    else:
        for name, value in _BUILT_IN.items():
            if getattr(config, name) != value:
                reason = f"has {name} {getattr(config, name)}, where modeling.py has {value} in it"
    if reason:
        raise ConfigError(
            f"to tf1: {architecture_of(model)} {reason}; expected a BERT encoder alone, with the "
            f"heads it is pre-trained with, one label or number a text, or answers in a context"
        )


def as_model_folder(path: Path, cache: Path, say: Say | None = None) -> Path:
    """Returns a model folder made of a Google checkpoint, in `cache` under a key of its content.

    One that was made before is taken as it is. The index holds a checksum of every tensor, so that
    the key need not read these.

    Raises:
        As `read_google_checkpoint` and `save_model`.
    """
    prefix = prefix_of(path)
    parts = hashlib.sha256()
    for name in ("bert_config.json", "vocab.txt", "tokenizer_config.json", f"{prefix.name}.index"):
        file = prefix.parent / name
        content = file.read_bytes() if file.is_file() else b""
        parts.update(f"{name} {len(content)}\n".encode() + content)
    folder = cache / f"google-{parts.hexdigest()[:32]}"
    if not (folder / "bertsmith.json").is_file():
        loaded = read_google_checkpoint(path, say)
        save_model(folder, loaded.model, loaded.tokenizer, loaded.facts)
    return folder


def prefix_of(path: Path) -> Path:
    """Returns the prefix of a checkpoint that is given as its folder, its prefix or its index.

    Raises:
        MissingInputError: there is none.
        ConfigError: the folder holds several.
    """
    if not path.is_dir():
        index = _index_of(path)
        if not index.is_file():
            raise MissingInputError(
                f"{index}: there is no such file; expected a checkpoint's index"
            )
        return index.with_name(index.name.removesuffix(".index"))
    found = sorted(path.glob(_INDEX))
    if not found:
        raise MissingInputError(f"{path}: holds no {_INDEX}; expected a Google checkpoint")
    if len(found) > 1:
        raise ConfigError(
            f"{path}: holds {len(found)} checkpoints; give one of them, as in "
            f"{path / found[-1].name.removesuffix('.index')}"
        )
    return found[0].with_name(found[0].name.removesuffix(".index"))


def _index_of(path: Path) -> Path:
    return path if path.name.endswith(".index") else path.with_name(f"{path.name}.index")


def _config_in(path: Path) -> BertConfig:
    published = read_json(path)
    known = {name: published[name] for name in setting_names(BertConfig) if name in published}
    for name, value in _BUILT_IN.items():
        if known.get(name, value) != value:
            raise ConfigError(f"{path}: {name} is {known[name]!r}; modeling.py has {value} in it")
    return BertConfig.from_mapping(known, where=str(path))


def _model_of(
    config: BertConfig, shapes: Mapping[str, tuple[int, ...]], where: Path
) -> tuple[AnyModel, dict[str, Any]]:
    """Returns the model that the tensors are of, without weights, and what is known of it."""
    with torch.device("meta"):  # no memory is taken before shapes are known to agree
        if "cls/predictions/output_bias" in shapes:
            both = "cls/seq_relationship/output_weights" in shapes
            return BertForPreTraining(config, next_sentence=both), {}
        if "cls/squad/output_weights" in shapes:
            return BertForAnswering(config), {"task": "answer"}
        if "output_weights" not in shapes:
            return Bert(config, with_pooler=POOLER[0] in shapes), {}
        shape = shapes["output_weights"]
        held = shapes.get("output_bias", ())
        if len(shape) != 2 or held != shape[:1] or not shape[0] >= 1:
            raise CheckpointError(
                f"{where}: output_weights has the shape {list(shape)} and output_bias "
                f"{list(held)}; expected a row and a number for each label"
            )
        if shape[0] == 1:
            return BertForRegression(config), {"task": "regress"}
        labels = [f"LABEL_{number}" for number in range(shape[0])]
        facts = {"task": "classify", "labels": labels}
        return BertForClassification(config, shape[0]), facts


def _weights_among(
    shapes: Mapping[str, tuple[int, ...]], model: AnyModel, where: Path, say: Say
) -> dict[str, tuple[int, ...]]:
    """Returns the tensors that are weights of the model, and says which others there are."""
    weights = {name: shape for name, shape in shapes.items() if not is_of_training(name)}
    if len(weights) < len(shapes):
        say(
            f"{where}: {len(shapes) - len(weights)} tensors are the optimizer's and its step; "
            f"they are passed over"
        )
    if encoder_in(model).pooler is None and POOLER[0] in weights:  # theirs always makes one
        say(f"{where}: {' and '.join(POOLER)} serve no head of this model; they are passed over")
        weights = {name: shape for name, shape in weights.items() if name not in POOLER}
    return weights


def _tell_casing(folder: Path, lower: bool, say: Say) -> None:
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() or "do_lower_case" not in read_json(settings):
        what = "all lower-case: it is taken as uncased" if lower else "upper-case too: it is cased"
        say(
            f"{folder}: nothing tells the casing, and the pieces of vocab.txt are {what} (a "
            f"tokenizer_config.json with do_lower_case says it for certain)"
        )


def _say(message: str) -> None:
    from bertsmith.progress import ProgressLine  # takes a while to load: not where nothing is said

    ProgressLine().say(message)
