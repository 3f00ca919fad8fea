"""config.json: what a model says of itself, and the model that it describes, in both directions.

Keys are those of the published formats. A folder is of one kind of encoder, told by `model_type`,
and `architectures` names the class of `transformers` that has the same heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bertsmith.config import (
    BertConfig,
    EncoderConfig,
    FeatureTaggerConfig,
    ModernBertConfig,
    setting_names,
)
from bertsmith.errors import CheckpointError, ConfigError
from bertsmith.model.bilstm import BertForFeatureTagging
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.kinds import Encoder, PretrainingModel, WithPieceHead, encoder_of
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.modern_names import MODERN
from bertsmith.model.names import BERT, NameTable, has_next_sentence, has_pooler
from bertsmith.model.rope_settings import rope_settings, settings_of_rope
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
    OnFirsts,
    TaskModel,
)
from bertsmith.model.undrawn import undrawn

AnyModel = Encoder | WithPieceHead | TaskModel


def encoder_in(model: AnyModel | PretrainingModel) -> Encoder:
    """Returns the encoder, whatever stands on it."""
    return model if isinstance(model, Encoder) else model.encoder


# The model_type of what `transformers` has no class for.
LAST_TOKEN = "bert-left-to-right"
FEATURES, MODERN_FEATURES = "bert-features", "modernbert-features"

# Our classes of task models and the published ones, without what tells the kind of encoder.
_TASK_ARCHITECTURES: dict[type[TaskModel], str] = {
    BertForClassification: "BertForSequenceClassification",
    BertForRegression: "BertForSequenceClassification",
    BertForTagging: "BertForTokenClassification",
    BertForFeatureTagging: "BertForFeatureTagging",
    BertForAnswering: "BertForQuestionAnswering",
    BertForChoice: "BertForMultipleChoice",
}
# `model_type`, and how architectures begin.
_KINDS = {"bert": "", LAST_TOKEN: "", FEATURES: "", "modernbert": "Modern"}
_KINDS[MODERN_FEATURES] = "Modern"
# Published classes that read left to right where `is_decoder` says so, and agree with ours.
_MAY_READ_LEFT_TO_RIGHT = (
    *("BertLMHeadModel", "BertModel", "BertForTokenClassification", "BertForQuestionAnswering"),
)
# Its head alone is no pre-training model here, but one that tells two classes of pairs apart.
_NEXT_SENTENCE = "BertForNextSentencePrediction"
_NEXT_SENTENCE_LABELS = ["IsNext", "NotNext"]


def names_of(config: EncoderConfig) -> NameTable:
    """Returns the table of parameter names of the kind of encoder that `config` describes."""
    return BERT if isinstance(config, BertConfig) else MODERN


def architecture_of(model: AnyModel) -> str:
    """Returns the name of the class of `transformers` that has the same heads."""
    if isinstance(model, BertForPreTraining) and model.config.is_decoder:
        return "BertLMHeadModel"
    if isinstance(model, BertForPreTraining):
        return "BertForMaskedLM" if model.next is None else "BertForPreTraining"
    if isinstance(model, ModernBertForPreTraining):
        return "ModernBertForMaskedLM"
    name = "BertModel" if isinstance(model, Encoder) else _TASK_ARCHITECTURES[type(model)]
    return ("" if isinstance(model.config, BertConfig) else "Modern") + name


def published_config(
    model: AnyModel, facts: Mapping[str, Any], special_ids: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the content of a model's config.json.

    Args:
        model: what is described.
        facts: of it the names of `labels` and `intents` are used.
        special_ids: of the pieces `pad`, `cls` and `sep` in its vocabulary.
    """
    config = model.config
    kind = "bert" if isinstance(config, BertConfig) else "modernbert"
    if config.is_decoder and isinstance(model, OnFirsts):
        kind = LAST_TOKEN
    if isinstance(model, BertForFeatureTagging):
        kind = FEATURES if kind == "bert" else MODERN_FEATURES
    published: dict[str, Any] = {"architectures": [architecture_of(model)], "model_type": kind}
    published |= config.to_mapping() | {"pad_token_id": special_ids["pad"]}
    if isinstance(config, BertConfig):
        published["position_embedding_type"] = "absolute"
    else:
        published |= {"tie_word_embeddings": True} | rope_settings(config)
        for name, piece in (("cls", "cls"), ("bos", "cls"), ("sep", "sep"), ("eos", "sep")):
            published[f"{name}_token_id"] = special_ids[piece]
    return published | _labels_published(model, facts)


def _labels_published(model: AnyModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    published: dict[str, Any] = {}
    if isinstance(model, BertForClassification | BertForTagging | BertForFeatureTagging):
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
    if isinstance(model, BertForTagging) and model.crf is not None:
        published["crf"] = True
    if isinstance(model, BertForFeatureTagging):
        shape = model.tagger_config.to_mapping() | {"layers": ",".join(map(str, model.layers))}
        published["feature_tagger"] = shape
    if isinstance(model, BertForClassification):
        several = "multi" if model.several else "single"
        published["problem_type"] = f"{several}_label_classification"
    if isinstance(model, BertForRegression):
        published |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        published["problem_type"] = "regression"
    return published


def config_of(published: Mapping[str, Any], where: str) -> EncoderConfig:
    """Returns the encoder's settings; keys that do not change its answers are passed over.

    Raises:
        CheckpointError: it is of another kind, or does what our encoders do not.
        ConfigError: a setting cannot be.
    """
    if published.get("model_type") in ("modernbert", MODERN_FEATURES):
        _require(published, {"tie_word_embeddings": (True, None)}, where, "a modern encoder")
        given = {**published, **settings_of_rope(published, where)}
        known = {name: given[name] for name in setting_names(ModernBertConfig) if name in given}
        return ModernBertConfig.from_mapping(known, where=where)
    name = (published.get("architectures") or [None])[0]
    directions: tuple[bool | None, ...] = (False, None)
    if published.get("model_type") == LAST_TOKEN:
        directions = (True,)
    elif name in _MAY_READ_LEFT_TO_RIGHT or published.get("model_type") == FEATURES:
        directions = (False, None, True)
    expected = {
        "model_type": ("bert", None, LAST_TOKEN, FEATURES),
        "position_embedding_type": ("absolute", None),
        "is_decoder": directions,
        "add_cross_attention": (False, None),
    }
    _require(published, expected, where, "a BERT encoder")
    known = {name: published[name] for name in setting_names(BertConfig) if name in published}
    return BertConfig.from_mapping(known, where=where)


def _require(
    published: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]], where: str, what: str
) -> None:
    for key, allowed in expected.items():
        if published.get(key) not in allowed:
            known = "'bert' or 'modernbert'" if key == "model_type" else repr(allowed[0])
            raise CheckpointError(
                f"{where}: {key} is {published[key]!r}; expected {known}, as in {what}"
            )


def heads_as_here(
    published: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Returns the tensors of a folder, a head that serves as another here under that one's name."""
    if (published.get("architectures") or [None])[0] != _NEXT_SENTENCE:
        return tensors
    there, here = "cls.seq_relationship.", "classifier."
    return {
        here + name.removeprefix(there) if name.startswith(there) else name: tensor
        for name, tensor in tensors.items()
    }


def model_of(
    published: Mapping[str, Any],
    config: EncoderConfig,
    tensors: Mapping[str, Tensor],
    where: str,
) -> tuple[AnyModel, dict[str, Any]]:
    """Returns the model that config.json names, of no weights, and the labels that it remembers.

    Raises:
        CheckpointError: it names none that is known, or its labels are not numbered.
    """
    architectures = published.get("architectures") or [None]
    name = str(architectures[0]).removeprefix(_KINDS[published.get("model_type") or "bert"])
    with undrawn():  # no memory is taken before shapes are known to agree
        if name == "BertModel":
            return encoder_of(config, with_pooler=has_pooler(tensors, names_of(config))), {}
        if name == "BertLMHeadModel" and isinstance(config, BertConfig):
            return BertForPreTraining(config, next_sentence=False), {}
        if name in ("BertForPreTraining", "BertForMaskedLM"):
            if isinstance(config, ModernBertConfig):
                return ModernBertForPreTraining(config), {}
            # Published folders call themselves BertForMaskedLM and hold both heads.
            both = name == "BertForPreTraining" or has_next_sentence(tensors)
            return BertForPreTraining(config, next_sentence=both), {}
        if name == _NEXT_SENTENCE:
            facts = {"task": "classify", "labels": _NEXT_SENTENCE_LABELS}
            return BertForClassification(config, len(_NEXT_SENTENCE_LABELS)), facts
        if name not in _TASK_ARCHITECTURES.values():
            known = ["BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel", "BertModel"]
            known.append(_NEXT_SENTENCE)
            known = sorted({*known, *_TASK_ARCHITECTURES.values()})
            raise CheckpointError(
                f"{where}: architectures is {architectures!r}; expected one of {', '.join(known)}"
            )
        return _task_model_of(name, published, config, where)


def _task_model_of(
    name: str, published: Mapping[str, Any], config: EncoderConfig, where: str
) -> tuple[TaskModel, dict[str, Any]]:
    if name == "BertForQuestionAnswering":
        return BertForAnswering(config), {"task": "answer"}
    if name == "BertForMultipleChoice":
        return BertForChoice(config), {"task": "choose"}
    labels = _labels_of(published, where)
    if name == "BertForFeatureTagging":
        return _feature_tagger_of(published, config, labels, where), {
            "task": "tag",
            "labels": labels,
        }
    if name == "BertForTokenClassification":
        intents = _labels_of(published, where, "id2intent") if "id2intent" in published else []
        crf = published.get("crf") is True
        tagger = BertForTagging(config, len(labels), num_intents=len(intents), crf=crf)
        facts: dict[str, Any] = {"task": "tag", "labels": labels}
        facts |= {"intents": intents} if intents else {}
        return tagger, facts | ({"options": {"crf": True}} if crf else {})
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


def _feature_tagger_of(
    published: Mapping[str, Any], config: EncoderConfig, labels: list[str], where: str
) -> BertForFeatureTagging:
    shape = published.get("feature_tagger")
    if not isinstance(shape, dict):
        raise CheckpointError(f"{where}: feature_tagger is {shape!r}; expected its settings")
    try:
        tagger = FeatureTaggerConfig.from_mapping(shape, where=where)
        layers = [int(layer) for layer in tagger.layers.split(",")]
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{where}: feature_tagger cannot be read ({error})") from None
    if not all(0 <= layer <= config.num_hidden_layers for layer in layers):
        raise CheckpointError(
            f"{where}: feature_tagger reads the layers {tagger.layers}; expected numbers from 0 to "
            f"{config.num_hidden_layers}, as the encoder has them"
        )
    return BertForFeatureTagging(config, len(labels), layers, tagger)


def _labels_of(published: Mapping[str, Any], where: str, key: str = "id2label") -> list[str]:
    names = published.get(key, {"0": "LABEL_0", "1": "LABEL_1"})  # two where none is named
    try:
        return [str(names[str(number)]) for number in range(len(names))]
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{where}: {key} is {names!r}; expected a name for each of the numbers from 0"
        ) from None
