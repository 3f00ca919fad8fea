"""Scoring streams: what it takes of memory does not grow with the rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from tests.recipes.finetuning.evaluate_program import WINDOW_ROWS
from tests.recipes.finetuning.test_finetune import WORDS, small_tokenizer, write_rows
from tests.recipes.toy_runs import environment

from bertsmith.config import BertConfig
from bertsmith.folder import save_model
from bertsmith.model.task_heads import BertForClassification, BertForTagging

FEW = 4 * WINDOW_ROWS  # more than are there at a time
MANY = 8 * FEW
CONFIG = BertConfig(
    vocab_size=len(small_tokenizer().vocabulary),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=8,
    max_position_embeddings=16,
)


def write_classifier(folder: Path) -> Path:
    facts = {"task": "classify", "labels": ["blame", "praise"], "max_length": 16}
    save_model(folder, BertForClassification(CONFIG, 2), small_tokenizer(), facts)
    return folder


def write_texts(path: Path, count: int) -> Path:
    rng = Random(count)
    return write_rows(
        path,
        [
            {"text": " ".join(rng.choices(WORDS, k=12)), "label": rng.choice(["blame", "praise"])}
            for _ in range(count)
        ],
    )


def write_tagger(folder: Path) -> Path:
    facts = {"task": "tag", "labels": ["O", "B-X", "I-X"], "max_length": 16}
    save_model(folder, BertForTagging(CONFIG, 3), small_tokenizer(), facts)
    return folder


def write_tags(path: Path, count: int) -> Path:
    rng = Random(count)
    path = path.with_suffix(".conll")
    with path.open("w") as file:
        for _ in range(count):
            words = rng.choices(WORDS, k=12)
            file.writelines(f"{word} {rng.choice(['O', 'B-X'])}\n" for word in words)
            file.write("\n")
    return path


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells peaks of memory")
@pytest.mark.parametrize(
    ("write_model", "write_data", "most"),
    # What the allocator grows by at first; with all answers held it is 17 and 56 MB.
    [(write_classifier, write_texts, 9), (write_tagger, write_tags, 30)],
)
def test_scoring_eight_times_the_rows_takes_no_more_memory(
    tmp_path: Path,
    write_model: Callable[[Path], Path],
    write_data: Callable[[Path, int], Path],
    most: float,
) -> None:
    torch.manual_seed(0)
    model = write_model(tmp_path / "model")
    few, many = write_data(tmp_path / "few.csv", FEW), write_data(tmp_path / "many.csv", MANY)
    program = Path(__file__).with_name("evaluate_program.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(model), *[str(few)] * 3, str(many)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.split() for line in ended.stdout.splitlines()]
    assert [int(rows) for rows, _ in told] == [FEW, FEW, FEW, MANY]
    *_, before, after = (float(peak) for _, peak in told)
    assert after - before < most, told
