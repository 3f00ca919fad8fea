"""Text of a made-up language: small, endless, and with something in it to learn."""

from __future__ import annotations

from pathlib import Path
from random import Random

SUBJECTS = ("the cat", "the dog", "a bird", "my horse", "her fish", "our cow")
VERBS = ("sees", "likes", "follows", "hears", "feeds")
PLACES = ("in the house", "by the river", "on the hill", "near the old mill", "under the tree")


def write_text(path: Path, documents: int, seed: int = 0) -> Path:
    """Writes documents of three to nine sentences, each about one subject."""
    rng = Random(seed)
    lines = []
    for _ in range(documents):
        subject = rng.choice(SUBJECTS)
        for _ in range(rng.randint(3, 9)):
            words = (subject, rng.choice(VERBS), rng.choice(SUBJECTS), rng.choice(PLACES))
            lines.append(" ".join(words).capitalize() + ".")
        lines.append("")
    path.write_text("\n".join(lines))
    return path


def write_vocabulary(folder: Path, *extra: str) -> Path:
    """Writes a vocabulary of every word of the language, and of `extra` pieces."""
    words = sorted({word for part in (*SUBJECTS, *VERBS, *PLACES) for word in part.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*special, ".", *words, *extra]) + "\n")
    return folder
