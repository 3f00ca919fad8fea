"""Vectors of texts and of files: every option, bad input, many texts, and several threads."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from tests.tiny import write_tiny_encoder

from bertsmith.config import ColumnsConfig
from bertsmith.embeddings import embed_file
from bertsmith.errors import ConfigError, DataError
from bertsmith.predict import Model, load
from bertsmith.tasks.whitening import Whitening

WORDS = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklm")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(
        tmp_path_factory.mktemp("models") / "encoder",
        WORDS,
        num_hidden_layers=4,
        initializer_range=0.4,
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder)


def texts_of(count: int, seed: int = 0) -> list[str]:
    rng = Random(seed)
    return [" ".join(rng.choices(WORDS[:26], k=rng.randrange(0, 60))) for _ in range(count)]


def theirs(folder: Path, texts: list[str], max_length: int = 64) -> tuple[Any, NDArray[np.bool_]]:
    """Returns the states of all layers by `transformers`, and where they are no padding."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    encoder = transformers.AutoModel.from_pretrained(str(folder))
    with torch.no_grad():
        states = encoder(**inputs, output_hidden_states=True).hidden_states
    return [layer.numpy() for layer in states], inputs["attention_mask"].bool().numpy()


def mean_of(states: NDArray[np.float32], used: NDArray[np.bool_]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (states * used[:, :, None]).sum(1) / used.sum(1)[:, None]
    return found


@pytest.mark.parametrize(
    ("layers", "numbers"), [("-1", [4]), ("-4:-1", [1, 2, 3, 4]), ("0,3", [0, 3]), (2, [2])]
)
def test_the_mean_of_layers_is_that_of_transformers(
    folder: Path, model: Model, layers: str | int, numbers: list[int]
) -> None:
    texts = texts_of(30)
    states, used = theirs(folder, texts)
    mean = np.mean([states[number] for number in numbers], axis=0)
    found = model.embed(texts, layers=layers)
    np.testing.assert_allclose(found, mean_of(mean, used), atol=1e-5)
    found = model.embed(texts, pooling="cls", layers=layers)
    np.testing.assert_allclose(found, mean[:, 0], atol=1e-5)


def test_texts_are_read_up_to_the_length_that_is_asked_for(folder: Path, model: Model) -> None:
    texts = texts_of(20)
    states, used = theirs(folder, texts, max_length=9)
    found = model.embed(texts, max_length=9)
    np.testing.assert_allclose(found, mean_of(states[-1], used), atol=1e-5)
    with pytest.raises(ConfigError, match="max_length is 65; expected 3 to 64"):
        model.embed(texts, max_length=65)


def test_equal_texts_have_equal_vectors_and_order_is_kept(model: Model) -> None:
    texts = texts_of(40) * 3
    Random(1).shuffle(texts)
    together = model.embed(texts)
    alone = np.stack([model.embed([text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(vector, together[texts.index(text)])


def test_vectors_stream_as_they_are_embedded(model: Model) -> None:
    texts = texts_of(600)
    taken = 0

    def counted() -> Iterator[str]:
        nonlocal taken
        for text in texts:
            taken += 1
            yield text

    stream = model.iter_embed(counted(), normalize=True)
    first = next(stream)
    assert taken < 10_000
    found = np.stack([first, *stream])
    np.testing.assert_allclose(found, model.embed(texts, normalize=True), atol=1e-6)


def test_odd_texts_have_vectors(model: Model) -> None:
    assert model.embed([]).shape == (0, 32)
    assert list(model.iter_embed([])) == []
    empty, surrogate, huge = model.embed(["", "a \ud800 b", "a" * 1_000_000])
    assert np.isfinite([empty, surrogate, huge]).all()
    np.testing.assert_allclose(surrogate, model.embed(["a \ud800 b"])[0], atol=1e-5)
    (long,) = model.embed(["a b c " * 200_000])
    np.testing.assert_allclose(long, model.embed(["a b c " * 30])[0], atol=1e-5)


def test_what_are_no_texts_is_refused(model: Model) -> None:
    with pytest.raises(DataError, match="texts is the one text 'a b'; expected several"):
        model.embed("a b")
    with pytest.raises(DataError, match="text 2: holds '7'; expected a text"):
        model.embed(["a", 7])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="expected -5 to 4"):
        model.embed(["a"], layers="-9:-1")
    with pytest.raises(ConfigError, match="pooling is 'max'; expected mean or cls"):
        model.embed(["a"], pooling="max")  # type: ignore[arg-type]


def test_threads_that_embed_at_once_get_the_same_vectors(model: Model) -> None:
    lots = [texts_of(700, seed) for seed in range(6)]
    expected = [model.embed(texts) for texts in lots]
    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(model.embed, lots), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_texts(tmp_path: Path) -> None:
    model = load(write_tiny_encoder(tmp_path / "encoder", WORDS, num_hidden_layers=1))
    process = psutil.Process()

    def peak(count: int) -> int:
        rng = Random(count)
        texts = (f"{' '.join(rng.choices(WORDS[:26], k=5))} {rng.random()}" for _ in range(count))
        gc.collect()
        most = 0
        for number, _ in enumerate(model.iter_embed(texts)):
            if number % 1000 == 0:
                most = max(most, process.memory_info().rss)
        return most

    peak(10_000)  # memos and the room of the engine are taken
    few, many = peak(10_000), peak(100_000)
    assert many - few < 24 << 20  # the vectors alone would take 12 MB, the texts 10 MB, both more


def test_a_first_answer_waits_for_no_compiler_and_no_library_of_others(folder: Path) -> None:
    """They take seconds to load, and nothing that is asked of a model needs them."""
    program = (
        "import sys\n"
        "from bertsmith import load\n"
        f"load({str(folder)!r}).embed(['a b'])\n"
        "slow = ['torch._dynamo', 'sympy', 'scipy', 'sklearn', 'pandas', 'pyarrow']\n"
        "print([name for name in slow if name in sys.modules])\n"
    )
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert told.stdout == "[]\n"


def test_a_table_becomes_parquet_with_its_ids_and_texts(model: Model, tmp_path: Path) -> None:
    from pyarrow import parquet

    texts = ["a b", "c, d", ""]
    (tmp_path / "a.csv").write_text('id,text,note\nx1,a b,n\nx2,"c, d",n\nx3,,n\n')
    result = embed_file(model, tmp_path / "a.csv", tmp_path / "a.parquet", layers="-2:-1")
    assert (result["rows"], result["dimensions"]) == (3, 32)
    found = parquet.read_table(tmp_path / "a.parquet")
    assert found.column_names == ["id", "text", "vector"]
    assert found["id"].to_pylist() == ["x1", "x2", "x3"]
    assert found["text"].to_pylist() == texts
    assert str(found.schema.field("vector").type) == "fixed_size_list<element: float>[32]"
    vectors = np.array(found["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, model.embed(texts, layers="-2:-1"), atol=1e-6)


def test_plain_lines_become_parquet_without_ids(model: Model, tmp_path: Path) -> None:
    from pyarrow import parquet

    (tmp_path / "a.txt").write_text("a b\nc d\n")
    embed_file(model, tmp_path / "a.txt", tmp_path / "a.parquet")
    assert parquet.read_table(tmp_path / "a.parquet").column_names == ["text", "vector"]
    (tmp_path / "b.csv").write_text("vector\na b\n")
    with pytest.raises(ConfigError, match="the table has a column 'vector'"):
        embed_file(
            model,
            tmp_path / "b.csv",
            tmp_path / "b.parquet",
            ColumnsConfig(text_column="vector"),
        )
    assert not (tmp_path / "b.parquet").exists()


def test_a_file_is_whitened_and_its_queries_after_it(model: Model, tmp_path: Path) -> None:
    texts = texts_of(300)
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\nz\n")
    texts.append("z")
    result = embed_file(model, tmp_path / "a.txt", tmp_path / "a.npy", whitening=True, dimensions=6)
    vectors = np.load(tmp_path / "a.npy")
    assert vectors.shape == (301, 6) and result["dimensions"] == 6
    np.testing.assert_allclose(np.cov(vectors.T, bias=True), np.eye(6), atol=1e-3)
    place = tmp_path / "a.whitening.npz"
    assert result["whitening"] == str(place)
    (tmp_path / "queries.txt").write_text("\n".join(texts[:5]) + "\n")
    embed_file(model, tmp_path / "queries.txt", tmp_path / "q.npy", whitened_by=place)
    np.testing.assert_allclose(np.load(tmp_path / "q.npy"), vectors[:5], atol=1e-4)
    found = model.embed(texts[:5], whitening=Whitening.load(place))
    np.testing.assert_allclose(found, vectors[:5], atol=1e-4)


def test_flags_of_whitening_that_contradict_each_other_are_refused(
    model: Model, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a b\n")
    data, out = tmp_path / "a.txt", tmp_path / "a.npy"
    with pytest.raises(ConfigError, match="whitening and whitened_by are both given"):
        embed_file(model, data, out, whitening=True, whitened_by=tmp_path / "b.npz")
    with pytest.raises(ConfigError, match="dimensions is given without whitening"):
        embed_file(model, data, out, dimensions=3)
    with pytest.raises(ConfigError, match="dimensions is 33; expected 1 to 32"):
        embed_file(model, data, out, whitening=True, dimensions=33)
