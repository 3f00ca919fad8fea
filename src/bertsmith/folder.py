"""The model folder: what everything before it writes and everything after it reads.

    config.json             keys of the published formats
    model.safetensors       names as `transformers` has them
    vocab.txt  tokenizer.json  tokenizer_config.json  special_tokens_map.json
    bertsmith.json          format version, facts, library versions, SHA-256 of every other file
    README.md               a model card made from the same facts

`transformers` opens it as it is, and folders that `transformers` wrote are read here. A folder is
built beside its place and renamed, so that it is there whole or not at all.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bertsmith
from bertsmith.config import BertConfig, setting_names
from bertsmith.errors import (
    CheckpointError,
    MissingInputError,
)
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.names import from_published, has_next_sentence, has_pooler, to_published
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
    OnFirsts,
    TaskModel,
)
from bertsmith.storage import read_json, replacing, sha256_of, write_json
from bertsmith.text.tokenizer_files import (
    TOKENIZER_FILES,
    read_tokenizer,
    write_tokenizer_files,
)
from bertsmith.text.wordpiece import Tokenizer

FORMAT_VERSION = 1
MODEL_FILES = ("config.json", "model.safetensors", *TOKENIZER_FILES, "README.md")
FACTS_FILE = "bertsmith.json"

LAST_TOKEN = "bert-left-to-right"  # the model_type of what `transformers` has no class for

AnyModel = Bert | BertForPreTraining | TaskModel

# Our classes and the published ones, for which a folder says what it holds.
ARCHITECTURES: dict[type[AnyModel], str] = {
    Bert: "BertModel",
    BertForClassification: "BertForSequenceClassification",
    BertForRegression: "BertForSequenceClassification",
    BertForTagging: "BertForTokenClassification",
    BertForAnswering: "BertForQuestionAnswering",
    BertForChoice: "BertForMultipleChoice",
}
# Published classes that read left to right where `is_decoder` says so, and agree with ours.
_MAY_READ_LEFT_TO_RIGHT = ("BertModel", "BertForTokenClassification", "BertForQuestionAnswering")


@dataclass(frozen=True)
class Loaded:
    """What a model folder holds."""

    model: AnyModel  # in evaluation mode
    tokenizer: Tokenizer
    config: BertConfig
    facts: dict[str, Any]  # of a foreign folder: the labels alone, where it has some


def save_model(
    folder: Path, model: AnyModel, tokenizer: Tokenizer, facts: Mapping[str, Any]
) -> None:
    """Writes a model folder, in place of an older one if that is what stands there.

    Args:
        folder: where it is to stand.
        model: what `architectures` and the weights are taken from.
        tokenizer: the one that the model was trained with.
        facts: whatever is to be remembered and JSON can hold: `task`, `labels` (their order is
            that of the model's outputs), `settings`, `scores` and so on.

    Raises:
        FolderInUseError: something else stands there.
        StorageError: it cannot be written; what stood there still stands.
    """
    from safetensors.torch import save_file

    with replacing(folder, known={*MODEL_FILES, FACTS_FILE}) as building:
        write_json(building / "config.json", _published_config(model, tokenizer, facts))
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in to_published(model.state_dict()).items()
        }
        save_file(tensors, building / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer_files(building, tokenizer, model.config.max_position_embeddings)
        versions = {
            "bertsmith": bertsmith.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        (building / "README.md").write_text(_card(model, facts, versions), encoding="utf-8")
        sums = {name: sha256_of(building / name) for name in MODEL_FILES}
        known = {"format_version": FORMAT_VERSION, **facts, "versions": versions, "files": sums}
        write_json(building / FACTS_FILE, known)


def load_model(folder: Path) -> Loaded:
    """Returns the model, with exactly the heads that the folder says it has, and its tokenizer.

    Raises:
        MissingInputError: the folder or a file of it is not there.
        CheckpointError: a file was altered, or weights are missing, left over or of other shapes.
        ConfigError: a setting in config.json cannot be.
    """
    facts = _verified_facts(folder)
    published = read_json(folder / "config.json")
    config = _config_of(published, folder / "config.json")
    tensors = _read_tensors(folder / "model.safetensors")
    with torch.device("meta"):  # no memory is taken before shapes are known to agree
        model, found = _model_of(published, config, tensors, folder / "config.json")
    _fill(model, tensors, folder / "model.safetensors", without_heads=False)
    return Loaded(model.eval(), _fitting_tokenizer(folder, config), config, facts or found)


def load_encoder(folder: Path, dropout: float | None = None) -> Loaded:
    """Returns the encoder alone of whatever model the folder holds, for a new head to stand on.

    The encoder has a pooler if the folder has one, and in training the rate of `dropout` if that is
    given, in place of the folder's rates.

    Raises:
        MissingInputError, CheckpointError, ConfigError: as for `load_model`.
    """
    facts = _verified_facts(folder)
    config = _config_of(read_json(folder / "config.json"), folder / "config.json")
    if dropout is not None:
        config = replace(config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    tensors = _read_tensors(folder / "model.safetensors")
    with torch.device("meta"):
        model = Bert(config, with_pooler=has_pooler(tensors))
    _fill(model, tensors, folder / "model.safetensors", without_heads=True)
    return Loaded(model.eval(), _fitting_tokenizer(folder, config), config, facts or {})


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes a folder that holds a vocabulary and its casing, in place of an older one.

    Raises:
        FolderInUseError: something else stands there.
        StorageError: it cannot be written; what stood there still stands.
    """
    with replacing(folder, known={*MODEL_FILES, FACTS_FILE}) as building:
        write_tokenizer_files(building, tokenizer, None)


# ---------------------------------------------------------------------------------- config.json


def _published_config(
    model: AnyModel, tokenizer: Tokenizer, facts: Mapping[str, Any]
) -> dict[str, Any]:
    published: dict[str, Any] = {"architectures": [_architecture(model)], "model_type": "bert"}
    if model.config.is_decoder and isinstance(model, OnFirsts):
        published["model_type"] = LAST_TOKEN
    published |= model.config.to_mapping()
    published |= {
        "pad_token_id": tokenizer.vocabulary.pad_id,
        "position_embedding_type": "absolute",
    }
    if isinstance(model, BertForClassification | BertForTagging):
        numbers = range(model.num_labels)
        labels = [str(label) for label in facts.get("labels", [])] or [
            f"LABEL_{n}" for n in numbers
        ]
        assert len(labels) == model.num_labels, "there is one label for each of the model's outputs"
        published["id2label"] = {str(number): label for number, label in enumerate(labels)}
        published["label2id"] = {label: number for number, label in enumerate(labels)}
    if isinstance(model, BertForTagging) and model.num_intents:
        intents = [str(intent) for intent in facts["intents"]]
        assert len(intents) == model.num_intents, "there is one name for each intent"
        published["id2intent"] = {str(number): intent for number, intent in enumerate(intents)}
    if isinstance(model, BertForClassification):
        several = "multi" if model.several else "single"
        published["problem_type"] = f"{several}_label_classification"
    if isinstance(model, BertForRegression):
        published |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        published["problem_type"] = "regression"
    return published


def _architecture(model: AnyModel) -> str:
    if isinstance(model, BertForPreTraining) and model.config.is_decoder:
        return "BertLMHeadModel"
    if isinstance(model, BertForPreTraining):
        return "BertForMaskedLM" if model.next is None else "BertForPreTraining"
    return ARCHITECTURES[type(model)]


def _config_of(published: Mapping[str, Any], where: Path) -> BertConfig:
    """Returns the encoder's settings; keys that do not change its answers are passed over."""
    name = (published.get("architectures") or [None])[0]
    directions: tuple[bool | None, ...] = (False, None)
    if name == "BertLMHeadModel" or published.get("model_type") == LAST_TOKEN:
        directions = (True,)
    elif name in _MAY_READ_LEFT_TO_RIGHT:
        directions = (False, None, True)
    expected = {
        "model_type": ("bert", None, LAST_TOKEN),
        "position_embedding_type": ("absolute", None),
        "is_decoder": directions,
        "add_cross_attention": (False, None),
    }
    for key, allowed in expected.items():
        if published.get(key) not in allowed:
            raise CheckpointError(
                f"{where}: {key} is {published[key]!r}; expected {allowed[0]!r}, "
                f"as in a BERT encoder"
            )
    known = {name: published[name] for name in setting_names(BertConfig) if name in published}
    return BertConfig.from_mapping(known, where=str(where))


def _model_of(
    published: Mapping[str, Any], config: BertConfig, tensors: Mapping[str, Tensor], where: Path
) -> tuple[AnyModel, dict[str, Any]]:
    """Returns the model that config.json names, and the labels that it remembers."""
    architectures = published.get("architectures") or [None]
    name = architectures[0]
    if name == "BertModel":
        return Bert(config, with_pooler=has_pooler(tensors)), {}
    if name == "BertLMHeadModel":
        return BertForPreTraining(config, next_sentence=False), {}
    if name in ("BertForPreTraining", "BertForMaskedLM"):
        # Published folders call themselves BertForMaskedLM and hold both heads.
        both = name == "BertForPreTraining" or has_next_sentence(tensors)
        return BertForPreTraining(config, next_sentence=both), {}
    if name == "BertForQuestionAnswering":
        return BertForAnswering(config), {"task": "answer"}
    if name == "BertForMultipleChoice":
        return BertForChoice(config), {"task": "choose"}
    if name == "BertForTokenClassification":
        labels = _labels_of(published, where)
        intents = _labels_of(published, where, "id2intent") if "id2intent" in published else []
        tagger = BertForTagging(config, len(labels), num_intents=len(intents))
        return tagger, {"task": "tag", "labels": labels} | ({"intents": intents} if intents else {})
    if name != "BertForSequenceClassification":
        pretrained = {"BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel"}
        known = sorted({*pretrained, *ARCHITECTURES.values()})
        raise CheckpointError(
            f"{where}: architectures is {architectures!r}; expected one of {', '.join(known)}"
        )
    labels = _labels_of(published, where)
    kind = published.get("problem_type") or ("regression" if len(labels) == 1 else None)
    if kind == "regression" and len(labels) == 1:
        return BertForRegression(config), {"task": "regress"}
    if kind not in (None, "single_label_classification", "multi_label_classification"):
        raise CheckpointError(
            f"{where}: problem_type is {kind!r} with {len(labels)} labels; "
            f"expected one label of several, several labels, or regression of one number"
        )
    several = kind == "multi_label_classification"
    model = BertForClassification(config, len(labels), several=several)
    options = {"options": {"multi_label": True}} if several else {}
    return model, {"task": "classify", "labels": labels, **options}


def _labels_of(published: Mapping[str, Any], where: Path, key: str = "id2label") -> list[str]:
    names = published.get(key, {"0": "LABEL_0", "1": "LABEL_1"})  # two where none is named
    try:
        return [str(names[str(number)]) for number in range(len(names))]
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{where}: {key} is {names!r}; expected a name for each of the numbers from 0"
        ) from None


# ------------------------------------------------------------------------------------- weights


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingInputError(
            f"{path}: there is no such file; expected weights in the safetensors format "
            f"(older files may hold code and are not opened)"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}; the file is cut short or altered") from None


def _fill(
    model: AnyModel, tensors: Mapping[str, Tensor], where: Path, *, without_heads: bool
) -> None:
    state = from_published(
        tensors, model.state_dict(), where=str(where), without_heads=without_heads
    )
    model.load_state_dict(state, assign=True)


def _fitting_tokenizer(folder: Path, config: BertConfig) -> Tokenizer:
    tokenizer = read_tokenizer(folder)
    pieces = len(tokenizer.vocabulary.pieces)
    if pieces > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the vocabulary holds {pieces} pieces but vocab_size in config.json is "
            f"{config.vocab_size}; expected a vector for every piece"
        )
    return tokenizer


# ------------------------------------------------------------------------------- facts and card


def _verified_facts(folder: Path) -> dict[str, Any] | None:
    """Returns what bertsmith.json remembers once every file is as it says; None if not ours."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: there is no such folder; expected a model folder")
    path = folder / FACTS_FILE
    if not path.is_file():
        return None
    facts = read_json(path)
    version, sums = facts.get("format_version"), facts.get("files")
    if version != FORMAT_VERSION or not isinstance(sums, dict):
        raise CheckpointError(
            f"{path}: format_version is {version!r}; this bertsmith reads {FORMAT_VERSION}"
        )
    if sums.keys() != set(MODEL_FILES):
        raise CheckpointError(
            f"{path}: lists the files {sorted(sums)}; expected {sorted(MODEL_FILES)}"
        )
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: is missing; {FACTS_FILE} lists it")
        if sha256_of(folder / name) != expected:
            raise CheckpointError(
                f"{folder / name}: its SHA-256 is not the one in {FACTS_FILE}; it was altered or "
                f"cut short since it was written: restore it, or write the folder anew"
            )
    return facts


def _card(model: AnyModel, facts: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Returns a model card: facts alone, as a table and as the JSON that they came from."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = {
        "architecture": _architecture(model),
        "layers": config.num_hidden_layers,
        "hidden size": config.hidden_size,
        "attention heads": config.num_attention_heads,
        "vocabulary": f"{config.vocab_size:,} pieces",
        "longest text": f"{config.max_position_embeddings:,} pieces",
        "parameters": f"{parameters:,}",
    } | {name: str(version) for name, version in versions.items()}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        "---\nlibrary_name: transformers\ntags: [bert, bertsmith]\n---\n\n"
        f"# {_architecture(model)} of {parameters:,} parameters\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"```json\n{json.dumps(dict(facts), indent=2, ensure_ascii=False)}\n```\n"
    )
