"""What a tagger learns of its training sentences: tags and their scheme, intents, documents."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from bertsmith.config import TaskConfig
from bertsmith.data.tagged import TaggedSentence
from bertsmith.errors import ConfigError, DataError
from bertsmith.tasks.schemes import Recognised, Scheme, recognise, respelt, split_tag


def tags_in(example: TaggedSentence) -> tuple[str, ...]:
    """Returns the tags of a sentence that was read with tags, as the file spells them."""
    assert example.tags is not None, "sentences for training and scoring are read with tags"
    return example.tags


def intent_in(example: TaggedSentence) -> str:
    """Returns the intent of a sentence of a file that has intents.

    Raises:
        DataError: it has none.
    """
    if not example.intent:
        raise DataError(f"{example.where}: has no intent; expected one, as other sentences have")
    return example.intent


def spelt(example: TaggedSentence, scheme: Scheme | None) -> Sequence[str]:
    """Returns the tags of a sentence in another scheme, or as they are where they have none.

    Raises:
        DataError: a tag is of no scheme; its word is named.
    """
    tags = tags_in(example)
    if scheme is None:
        return tags
    for word, tag in enumerate(tags):
        try:
            split_tag(tag)
        except ValueError:
            raise DataError(
                f"{example.where_of(word)}: the tag {tag[:40]!r} of {example.words[word][:40]!r} "
                f"names no entity as the others do; expected O, or one such as 'B-LOC'"
            ) from None
    return respelt(tags, scheme)


def kind_of(tag: str, scheme: Scheme | None) -> str:
    """Returns what a model must have seen to give a tag: its type, or else the tag."""
    return split_tag(tag)[1] if scheme else tag


def check_kinds(
    example: TaggedSentence, tags: Sequence[str], scheme: Scheme | None, labels: AbstractSet[str]
) -> None:
    """Refuses a sentence with a tag that a model could never give.

    Args:
        example: the sentence.
        tags: its tags as the model learns them.
        scheme: in which these are; None where tags name no entities.
        labels: the tags that occur in training, in that scheme.

    Raises:
        DataError: a tag's type does not occur in training; its word is named.
    """
    if labels >= set(tags):
        return
    word = next(word for word, tag in enumerate(tags) if tag not in labels)
    known = sorted({kind_of(label, scheme) for label in labels} - {""}) or sorted(labels)
    shown = ", ".join(map(repr, known[:20])) + (", .." if len(known) > 20 else "")
    raise DataError(
        f"{example.where_of(word)}: the {'type of the ' if scheme else ''}tag "
        f"{tags_in(example)[word][:40]!r} of {example.words[word][:40]!r} does not occur in "
        f"training; known: {shown}: spell tags alike in both files, or drop the sentence"
    )


def recognised(examples: Sequence[TaggedSentence], options: TaskConfig) -> Recognised:
    """Returns the scheme that is chosen, or else that of the tags themselves.

    Raises:
        DataError: a tag is of no scheme, and others are of one; its word is named.
    """
    if options.tag_scheme == "plain":
        return Recognised(None)
    if options.tag_scheme:
        for example in examples:
            spelt(example, options.tag_scheme)
        return Recognised(options.tag_scheme)
    try:
        return recognise(tags_in(example) for example in examples)
    except ValueError as error:
        odd = error.args[0]
    example = next(example for example in examples if odd in tags_in(example))
    word = tags_in(example).index(odd)
    raise DataError(
        f"{example.where_of(word)}: the tag {odd[:40]!r} of {example.words[word][:40]!r} names no "
        f"entity as others do; expected O, or one such as 'B-LOC': mend it, name the right column "
        f"with --label-column, or keep tags as they are with --tag-scheme plain"
    )


def intents_of(examples: Sequence[TaggedSentence]) -> tuple[str, ...]:
    """Returns the intents of the training sentences, sorted; none where none has one.

    Raises:
        DataError: some have none, or all have the same.
    """
    if all(example.intent is None for example in examples):
        return ()
    intents = sorted({intent_in(example) for example in examples})
    if len(intents) == 1:
        raise DataError(
            f"all {len(examples)} training sentences have the intent {intents[0]!r}; "
            f"expected two or more: take the intents away to learn the tags alone"
        )
    return tuple(intents)


def check_documents(examples: Sequence[TaggedSentence]) -> None:
    """Raises ConfigError where a file does not tell which sentences are of one document."""
    documents = {example.document for example in examples}
    if len(documents) < 2 or None in documents:
        raise ConfigError(
            "document_context is given, but the training file marks no documents; expected "
            "-DOCSTART- lines between them, or a document_id in every JSON row"
        )
