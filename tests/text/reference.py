"""The independent implementation that pieces must agree with: `tokenizers`, set up as for BERT."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as ReferenceTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from bertsmith.config import CasingConfig
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

# Every pair of a published vocabulary and the casing that it was made for.
PUBLISHED = (
    ("bert-base-uncased-vocab.txt", CasingConfig()),
    ("bert-base-cased-vocab.txt", CasingConfig(do_lower_case=False)),
    ("bert-base-chinese-vocab.txt", CasingConfig()),
)
CASINGS = (
    CasingConfig(),
    CasingConfig(do_lower_case=False),
    CasingConfig(strip_accents=False),
    CasingConfig(do_lower_case=False, strip_accents=True, tokenize_chinese_chars=False),
)


def normalizer(casing: CasingConfig) -> BertNormalizer:
    return BertNormalizer(
        clean_text=True,
        handle_chinese_chars=casing.tokenize_chinese_chars,
        strip_accents=casing.strip_accents,
        lowercase=casing.do_lower_case,
    )


def words(text: str, casing: CasingConfig) -> list[str]:
    normal = normalizer(casing).normalize_str(text)
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normal)]


def reference(vocabulary: Vocabulary, casing: CasingConfig) -> ReferenceTokenizer:
    tokenizer = ReferenceTokenizer(
        WordPiece(vocabulary.ids, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizer(casing)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def both(path: Path, casing: CasingConfig) -> tuple[Tokenizer, ReferenceTokenizer]:
    vocabulary = Vocabulary.read(path)
    return Tokenizer(vocabulary, casing), reference(vocabulary, casing)


def differing(ours: Tokenizer, theirs: ReferenceTokenizer, texts: list[str]) -> list[str]:
    """Returns the texts whose pieces differ; lone surrogates are taken out for `theirs` alone."""
    ids, starts = ours.encode_many(texts)
    sent = [text.encode("utf-8", "ignore").decode("utf-8") for text in texts]
    encoded = theirs.encode_batch_fast(sent, add_special_tokens=False)
    return [
        text
        for text, start, end, encoding in zip(texts, starts, starts[1:], encoded, strict=False)
        if ids[start:end].tolist() != encoding.ids
    ]
