"""Folders of sentence-transformers: how they make one vector of a text, in and out.

    modules.json                         what a text goes through: Transformer, Pooling, Normalize
    1_Pooling/config.json                the mean of its pieces' states, or that of [CLS]
    2_Normalize/config.json              where every vector is made one unit long
    sentence_bert_config.json            how many pieces are read of a text (newer folders say
                                         it in tokenizer_config.json)
    config_sentence_transformers.json    what is put before texts; here nothing

They stand in a model folder beside what `transformers` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertsmith.errors import CheckpointError, ConfigError
from bertsmith.folder import Loaded, save_model
from bertsmith.model.published import encoder_in
from bertsmith.storage import read_json, strict_json
from bertsmith.tasks.vectors import Pooling
from bertsmith.text.tokenizer_files import read_tokenizer

_MODULES = "modules.json"
_POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
# Each is one mode of pooling; the keys of published folders and the newer `pooling_mode`.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# What is true of the weights alone goes along with them; a head's own facts do not.
_KEPT_FACTS = ("settings", "corpus", "tokenizer", "steps")
_REFUSAL = "vectors_refused"  # the fact that says why vectors are not made here as they are there


def pooling_facts(folder: Path) -> dict[str, Any]:
    """Returns how a folder makes vectors: `pooling`, `normalize`, and `max_length` if it says so.

    It is empty where there is no modules.json. Where vectors are made in a way that is not known
    here, `vectors_refused` says which; the model serves everything else.

    Raises:
        CheckpointError: a file does not hold what it must, or names one outside the folder.
    """
    path = folder / _MODULES
    if not path.is_file():
        return {}
    kinds, places = _modules_of(path)
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        known = ("Transformer", "Pooling", "Normalize")
        others = [kind for kind in kinds if kind not in known]
        what = f"a module {others[0]}" if others else f"the modules {', '.join(kinds)}"
        return {
            _REFUSAL: f"{path}: has {what}; expected Transformer, Pooling and perhaps Normalize"
        }
    config = folder / places[1] / "config.json"
    modes = _pooling_modes(config)
    if len(modes) != 1 or modes[0] not in _POOLING_KEYS:
        return {_REFUSAL: f"{config}: pools by {' and '.join(modes)}; expected mean or cls"}
    facts: dict[str, Any] = {"pooling": modes[0], "normalize": len(kinds) == 3}
    reading = folder / "sentence_bert_config.json"
    settings = read_json(reading) if reading.is_file() else {}
    if settings.get("do_lower_case") and not read_tokenizer(folder).casing.do_lower_case:
        return {_REFUSAL: f"{reading}: lower-cases texts for a cased vocabulary; expected neither"}
    prompt = _default_prompt(folder / "config_sentence_transformers.json")
    if prompt:
        return {_REFUSAL: f"{folder}: puts {prompt[:60]!r} before every text; expected nothing"}
    longest = _longest(folder, settings, reading)
    return facts if longest is None else facts | {"max_length": longest}


def vector_defaults(facts: Mapping[str, Any]) -> tuple[Pooling, bool]:
    """Returns the pooling, and whether vectors are normalised, where the user says neither.

    Raises:
        ConfigError: the folder makes vectors in a way that is not known here.
    """
    if _REFUSAL in facts:
        raise ConfigError(f"{facts[_REFUSAL]}: its vectors cannot be made here")
    return facts.get("pooling", "mean"), bool(facts.get("normalize", False))


def write_sentence_folder(
    loaded: Loaded, out: Path, *, pooling: Pooling | None = None, normalize: bool | None = None
) -> None:
    """Writes a model folder that `SentenceTransformer` opens, in place of an older one.

    It holds the encoder alone. What is not said is taken from the model's facts, and else is the
    mean, not normalised, as `embed` has it.

    Raises:
        ConfigError: the model reads left to right and is to be pooled by [CLS].
        FolderInUseError: something else stands at `out`.
        StorageError: it cannot be written; what stood there still stands.
    """
    usual, is_normalized = vector_defaults(loaded.facts)
    pooling = pooling or usual
    normalize = is_normalized if normalize is None else normalize
    config = loaded.config
    if config.is_decoder and pooling == "cls":
        raise ConfigError(
            f"{out}: the model reads left to right, so that its [CLS] has read nothing; expected "
            f"pooling mean"
        )
    longest = int(loaded.facts.get("max_length", config.max_position_embeddings))
    facts = {name: loaded.facts[name] for name in _KEPT_FACTS if name in loaded.facts}
    facts |= {"pooling": pooling, "normalize": normalize, "max_length": longest}
    names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    places = ["", "1_Pooling", "2_Normalize"]
    files: dict[str, Any] = {
        _MODULES: [
            {
                "idx": number,
                "name": str(number),
                "path": places[number],
                "type": f"sentence_transformers.models.{name}",
            }
            for number, name in enumerate(names)
        ],
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None},
        "1_Pooling/config.json": {
            "word_embedding_dimension": config.hidden_size,
            **{key: key == _POOLING_KEYS[pooling] for key in _MODES},
        },
    }
    if normalize:
        files["2_Normalize/config.json"] = {}
    contents = {name: f"{json.dumps(value, indent=2)}\n".encode() for name, value in files.items()}
    save_model(out, encoder_in(loaded.model), loaded.tokenizer, facts, sentence_files=contents)


def _longest(folder: Path, settings: Mapping[str, Any], where: Path) -> int | None:
    """Returns how many pieces are read of a text; the newer folders say it of the tokenizer."""
    longest, key = settings.get("max_seq_length"), "max_seq_length"
    if longest is None and (folder / "tokenizer_config.json").is_file():
        where, key = folder / "tokenizer_config.json", "model_max_length"
        longest = read_json(where).get(key)
    if longest is None:
        return None
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 3:
        raise CheckpointError(f"{where}: {key} is {longest!r}; expected 3 or more")
    config = folder / "config.json"
    most = read_json(config).get("max_position_embeddings") if config.is_file() else None
    return int(longest if most is None else min(longest, int(most)))


def _modules_of(path: Path) -> tuple[list[str], list[str]]:
    """Returns what the modules are and in which folders, in their order."""
    expected = "expected a list of modules, each with a type and the name of a folder as its path"
    try:
        modules = strict_json(path.read_bytes())
        rows = [(str(module["type"]).split(".")[-1], module["path"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}; {expected}") from None
    for _, place in rows:
        plain = isinstance(place, str) and not {"/", "\\", "\0", ":"} & set(place)
        if not plain or place.startswith("."):
            raise CheckpointError(f"{path}: has the path {str(place)[:100]!r}; {expected}")
    return [kind for kind, _ in rows], [place for _, place in rows]


def _pooling_modes(path: Path) -> list[str]:
    settings = read_json(path)
    if "pooling_mode" in settings:
        modes = settings["pooling_mode"]
        return [str(mode) for mode in ([modes] if isinstance(modes, str) else modes)]
    return [mode for key, mode in _MODES.items() if settings.get(key)] or ["mean"]


def _default_prompt(path: Path) -> str:
    settings = read_json(path) if path.is_file() else {}
    prompts = settings.get("prompts") or {}
    return str(prompts.get(settings.get("default_prompt_name"), ""))
