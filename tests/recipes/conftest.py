"""A small vocabulary, a small corpus and a finished run, each made once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.recipes.finetuning.test_finetune import FAST, opinions, write_encoder, write_rows
from tests.recipes.toy_runs import PREPARE, SETTINGS
from tests.recipes.toy_text import write_text, write_vocabulary

from bertsmith.config import CorpusConfig, FinetuneConfig
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.text.tokenizer_files import read_tokenizer


@pytest.fixture(scope="session")
def toy_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab")


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory, toy_vocabulary: Path) -> Path:
    """Returns a corpus of about five steps' tokens, so that runs pass several epochs."""
    folder = tmp_path_factory.mktemp("corpus")
    text = write_text(folder / "text.txt", 20)
    tokenizer = read_tokenizer(toy_vocabulary)
    prepare([str(text)], tokenizer, folder / "corpus", CorpusConfig(), PREPARE)
    return folder / "corpus"


@pytest.fixture(scope="session")
def unbroken_run(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    pretrain([str(toy_corpus)], out, SETTINGS)
    return out


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a fine-tuning run that has learnt; beside it stands dev.csv."""
    folder = tmp_path_factory.mktemp("finetuned")
    encoder = write_encoder(folder / "encoder")
    train = write_rows(folder / "train.csv", opinions(300, 0))
    dev = write_rows(folder / "dev.csv", opinions(100, 1))
    config = FinetuneConfig(epochs=4, batch_size=16, max_length=24, threads=1)
    finetune("classify", train, encoder, folder / "run", config, FAST, dev=dev)
    return folder / "run"
