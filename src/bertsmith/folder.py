"""The model folder: what everything before it writes and everything after it reads.

    config.json             keys of the published formats
    model.safetensors       names as `transformers` has them
    vocab.txt  tokenizer.json  tokenizer_config.json  special_tokens_map.json
    bertsmith.json          format version, facts, library versions, SHA-256 of every other file
    README.md               a model card made from the same facts
    modules.json  1_Pooling  and so on, where it is a folder of sentence-transformers, too

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
from bertsmith.config import BertConfig, EncoderConfig
from bertsmith.errors import (
    CheckpointError,
    MissingInputError,
)
from bertsmith.model.kinds import encoder_of
from bertsmith.model.names import from_published, has_pooler, to_published
from bertsmith.model.published import (
    AnyModel,
    architecture_of,
    config_of,
    heads_as_here,
    model_of,
    names_of,
    published_config,
)
from bertsmith.model.undrawn import undrawn
from bertsmith.storage import read_json, replacing, sha256_of, write_json, write_synced
from bertsmith.text.tokenizer_files import (
    TOKENIZER_FILES,
    read_tokenizer,
    write_tokenizer_files,
)
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.weights_files import read_weights

FORMAT_VERSION = 1
MODEL_FILES = ("config.json", "model.safetensors", *TOKENIZER_FILES, "README.md")
FACTS_FILE = "bertsmith.json"
# What a folder of sentence-transformers has besides; see `interop.sentence_transformers`.
SENTENCE_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
)
_ENTRIES = frozenset(
    {*MODEL_FILES, FACTS_FILE, *(name.partition("/")[0] for name in SENTENCE_FILES)}
)


@dataclass(frozen=True)
class Loaded:
    """What a model folder holds."""

    model: AnyModel  # in evaluation mode
    tokenizer: Tokenizer
    config: EncoderConfig
    facts: dict[str, Any]  # of a foreign folder: the labels alone, where it has some

    @property
    def left_out(self) -> str:
        """Returns a clause for messages on what was trained and is not in the folder, or ""."""
        if self.facts.get("settings", {}).get("objective") != "rtd":
            return ""
        return (
            " (of a model pre-trained with --objective rtd the encoder alone is kept: the "
            "generator, which fills masks, and the detection are in the checkpoints of its run)"
        )


def save_model(
    folder: Path,
    model: AnyModel,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    *,
    sentence_files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a model folder, in place of an older one if that is what stands there.

    Args:
        folder: where it is to stand.
        model: what `architectures` and the weights are taken from.
        tokenizer: the one that the model was trained with.
        facts: whatever is to be remembered and JSON can hold: `task`, `labels` (their order is
            that of the model's outputs), `settings`, `scores` and so on.
        sentence_files: the content of those of `SENTENCE_FILES` that the folder is to have.

    Raises:
        FolderInUseError: something else stands there.
        StorageError: it cannot be written; what stood there still stands.
    """
    from safetensors.torch import save_file

    with replacing(folder, known=_ENTRIES) as building:
        write_config(building, model, tokenizer, facts)
        state = model.state_dict()
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in to_published(state, names_of(model.config)).items()
        }
        save_file(tensors, building / "model.safetensors", metadata={"format": "pt"})
        longest = model.config.max_position_embeddings
        has_segments = isinstance(model.config, BertConfig)
        write_tokenizer_files(building, tokenizer, longest, with_segments=has_segments)
        versions = {
            "bertsmith": bertsmith.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        (building / "README.md").write_text(_card(model, facts, versions), encoding="utf-8")
        for name, content in (sentence_files or {}).items():
            (building / name).parent.mkdir(exist_ok=True)
            write_synced(building / name, content)
        names = (*MODEL_FILES, *(sentence_files or ()))
        sums = {name: sha256_of(building / name) for name in names}
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
    config = config_of(published, str(folder / "config.json"))
    tensors, where = read_weights(folder)
    model, found = model_of(published, config, tensors, str(folder / "config.json"))
    _fill(model, heads_as_here(published, tensors), where, without_heads=False)
    return Loaded(model.eval(), _fitting_tokenizer(folder, config), config, facts or found)


def load_encoder(folder: Path, dropout: float | None = None) -> Loaded:
    """Returns the encoder alone of whatever model the folder holds, for a new head to stand on.

    The encoder has a pooler if the folder has one, and in training the rate of `dropout` if that is
    given, in place of the folder's rates.

    Raises:
        MissingInputError, CheckpointError, ConfigError: as for `load_model`.
    """
    facts = _verified_facts(folder)
    config = config_of(read_json(folder / "config.json"), str(folder / "config.json"))
    if dropout is not None:
        config = replace(config, **config.with_dropout(dropout))  # type: ignore[arg-type]
    tensors, where = read_weights(folder)
    with undrawn():
        model = encoder_of(config, with_pooler=has_pooler(tensors, names_of(config)))
    _fill(model, tensors, where, without_heads=True)
    return Loaded(model.eval(), _fitting_tokenizer(folder, config), config, facts or {})


def write_config(
    folder: Path, model: AnyModel, tokenizer: Tokenizer, facts: Mapping[str, Any]
) -> None:
    """Writes the config.json of a model into a folder, as `transformers` reads it."""
    names = ("pad", "cls", "sep")
    ids = {name: tokenizer.vocabulary.ids[f"[{name.upper()}]"] for name in names}
    write_json(folder / "config.json", published_config(model, facts, ids))


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes a folder that holds a vocabulary and its casing, in place of an older one.

    Raises:
        FolderInUseError: something else stands there.
        StorageError: it cannot be written; what stood there still stands.
    """
    with replacing(folder, known={*MODEL_FILES, FACTS_FILE}) as building:
        write_tokenizer_files(building, tokenizer, None)


# ------------------------------------------------------------------------------------- weights


def _fill(
    model: AnyModel, tensors: Mapping[str, Tensor], where: Path, *, without_heads: bool
) -> None:
    state = from_published(
        tensors,
        model.state_dict(),
        where=str(where),
        without_heads=without_heads,
        table=names_of(model.config),
    )
    model.load_state_dict(state, assign=True)


def _fitting_tokenizer(folder: Path, config: EncoderConfig) -> Tokenizer:
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
    if not set(MODEL_FILES) <= sums.keys() <= {*MODEL_FILES, *SENTENCE_FILES}:
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
        "architecture": architecture_of(model),
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
        f"# {architecture_of(model)} of {parameters:,} parameters\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"```json\n{json.dumps(dict(facts), indent=2, ensure_ascii=False)}\n```\n"
    )
