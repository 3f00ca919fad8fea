"""The files of a tokenizer, as `transformers` and the published vocabularies have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertsmith.config import CasingConfig, setting_names
from bertsmith.errors import DataError, MissingInputError
from bertsmith.storage import read_json, write_json
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def write_tokenizer_files(
    folder: Path, tokenizer: Tokenizer, longest: int | None, *, with_segments: bool = True
) -> None:
    """Writes the files of a tokenizer into a folder.

    `longest` is the most pieces that its model takes; None where there is no model yet. Without
    `with_segments` other libraries are told to give the model ids and a mask alone.
    """
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
    }
    tokenizer.vocabulary.write(folder / "vocab.txt")
    _fast_tokenizer(tokenizer).save(str(folder / "tokenizer.json"))
    settings = tokenizer.casing.to_mapping() | special
    if with_segments:
        settings["tokenizer_class"] = "BertTokenizer"
    else:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["model_input_names"] = ["input_ids", "attention_mask"]
    if longest is not None:
        settings["model_max_length"] = longest
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer of a model folder or of a folder that holds a vocabulary alone.

    The vocabulary is vocab.txt, or else that of tokenizer.json; the casing that of
    tokenizer_config.json, or else that of tokenizer.json. Where neither file tells, a vocabulary
    with upper-case letters in its pieces is a cased one.

    Raises:
        MissingInputError: there is no vocabulary.
        DataError: a file does not hold what it must.
    """
    table, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    told = read_json(settings) if settings.is_file() else {}
    has_vocabulary = (folder / "vocab.txt").is_file()
    is_told = has_vocabulary and told.keys() >= set(setting_names(CasingConfig))
    fast = {} if is_told or not table.is_file() else read_json(table)  # large, and slow to read
    if has_vocabulary:
        vocabulary = Vocabulary.read(folder / "vocab.txt")
    elif fast:
        vocabulary = _vocabulary_of(fast, table)
    else:
        raise MissingInputError(
            f"{folder}: holds neither vocab.txt nor tokenizer.json; expected a folder that "
            f"`bertsmith vocab` wrote, or a model folder"
        )
    casing: dict[str, Any] = {}
    normalizer = fast.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        casing = {
            "do_lower_case": normalizer.get("lowercase"),
            "strip_accents": normalizer.get("strip_accents"),
            "tokenize_chinese_chars": normalizer.get("handle_chinese_chars"),
        }
    casing |= told
    if not isinstance(casing.get("do_lower_case"), bool):
        pieces = (piece for piece in vocabulary.pieces if not piece.startswith("["))
        casing["do_lower_case"] = all(piece == piece.lower() for piece in pieces)
    known = {name: casing[name] for name in setting_names(CasingConfig) if name in casing}
    return Tokenizer(vocabulary, CasingConfig.from_mapping(known, where=str(settings)))


def _fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """Returns the same tokenizer in the `tokenizers` library, which writes tokenizer.json."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    casing, vocabulary = tokenizer.casing, tokenizer.vocabulary
    fast = tokenizers.Tokenizer(models.WordPiece(vocabulary.ids, unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=casing.tokenize_chinese_chars,
        strip_accents=casing.strip_accents,
        lowercase=casing.do_lower_case,
    )
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    fast.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(piece, vocabulary.ids[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    return fast


def _vocabulary_of(fast: Mapping[str, Any], where: Path) -> Vocabulary:
    model = fast.get("model")
    kind = model.get("type", "WordPiece") if isinstance(model, dict) else None
    if kind != "WordPiece":
        raise DataError(
            f"{where}: model.type is {kind!r}; expected 'WordPiece', the one kind of vocabulary "
            f"that is read"
        )
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
        raise DataError(f"{where}: model.vocab does not number WordPieces from 0 without gaps")
    return Vocabulary(tuple(sorted(ids, key=ids.__getitem__)))
