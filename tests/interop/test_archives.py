"""Archives become model folders; what would do anything else is refused, without a trace."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.test_folder import PIECES, SMALL, randomized, same_weights

from bertsmith import TextClassifier, load
from bertsmith.config import CasingConfig
from bertsmith.errors import CheckpointError
from bertsmith.folder import load_model, save_model
from bertsmith.interop import archives
from bertsmith.interop.google import write_google_checkpoint
from bertsmith.interop.sources import model_folder
from bertsmith.lab.inspection import account
from bertsmith.model.heads import BertForPreTraining
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

Entry = tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(Vocabulary(PIECES), CasingConfig())
    save_model(tmp_path / "model", randomized(BertForPreTraining(SMALL)), tokenizer, {})
    return tmp_path / "model"


def find(source: Path) -> Path:
    return model_folder(source, say=lambda _: None)


def zipped(path: Path, entries: list[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def tarred(path: Path, entries: list[Entry]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix.lower().endswith("z") else "w") as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


WRITERS: list[tuple[str, Callable[[Path, list[Entry]], Path]]] = [
    ("a.zip", zipped),
    ("a.tar", tarred),
    ("a.tar.gz", tarred),
    ("A.TGZ", tarred),
]


def entries_of(folder: Path, prefix: str) -> list[Entry]:
    return [(f"{prefix}{path.name}", path.read_bytes()) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("prefix", ["", "uncased_L-2/", "./there/"])
def test_a_model_is_read_from_its_archive(
    name: str, write: Callable[[Path, list[Entry]], Path], prefix: str, folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / name, [*entries_of(folder, prefix), ("__MACOSX/._x", b"x")])
    same_weights(load_model(find(path)).model, load_model(folder).model)
    assert find(path) == find(path)


def test_an_archive_is_inspected_and_begun_with_as_a_folder_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(tmp_path / "good.zip", entries_of(folder, ""))
    monkeypatch.chdir(tmp_path)
    assert account("good.zip")["parameters"] == account(str(folder))["parameters"]
    texts, labels = ["a b", "b a"] * 10, ["x", "y"] * 10
    classifier = TextClassifier("good.zip", epochs=1, max_length=16).fit(texts, labels)
    assert set(classifier.predict(texts)) <= {"x", "y"}
    assert classifier.get_params()["model"] == "good.zip"


def test_googles_archive_is_read_and_unpacked_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_google_checkpoint(load_model(folder), tmp_path / "google")
    path = zipped(tmp_path / "uncased.zip", entries_of(tmp_path / "google", "uncased_L-2/"))
    before = load(folder).fill_mask("a [MASK]")
    assert load(path).fill_mask("a [MASK]") == before
    monkeypatch.setattr(archives, "_unpack", None)
    assert load(path).fill_mask("a [MASK]") == before


@pytest.mark.parametrize(("name", "write"), WRITERS[:3])
@pytest.mark.parametrize(
    "inside",
    [
        *("../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil", "a\\evil", "c:evil"),
        *("a/b/c/d/e/f/g", "x" * 201, "a/.."),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(
    name: str,
    write: Callable[[Path, list[Entry]], Path],
    inside: str,
    folder: Path,
    tmp_path: Path,
    cache: Path,
) -> None:
    path = write(tmp_path / name, [*entries_of(folder, "m/"), (inside, b"evil")])
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="expected names below the archive's own folder"):
        find(path)
    assert sorted(tmp_path.rglob("*")) == there and not any(cache.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path, cache: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("m/config.json")
        member.type, member.linkname = kind, "../../evil"
        archive.addfile(member)
    with pytest.raises(CheckpointError, match=r"'m/config.json' in it is a link or a device"):
        find(tmp_path / "a.tar")
    assert not any(cache.iterdir())


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("m/config.json")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(CheckpointError, match="is a link or a device"):
        find(tmp_path / "a.zip")


@pytest.mark.parametrize(("name", "write"), [WRITERS[0], WRITERS[2]])
def test_what_fills_the_disk_is_refused_before_it_is_written(
    name: str, write: Callable[[Path, list[Entry]], Path], tmp_path: Path, cache: Path
) -> None:
    path = write(tmp_path / name, [("m/config.json", bytes(3 * archives.ALWAYS_ALLOWED))])
    with pytest.raises(CheckpointError, match="as weights do not shrink"):
        find(path)
    assert not any(cache.iterdir())


def test_headers_that_unpack_to_too_much_are_refused(tmp_path: Path, cache: Path) -> None:
    headers = {"comment": "x" * (2 * archives.ALWAYS_ALLOWED)}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", pax_headers=headers) as archive:
        archive.addfile(tarfile.TarInfo("m/config.json"))
    with pytest.raises(CheckpointError, match="far more bytes than it has"):
        find(tmp_path / "a.tar.gz")
    assert not any(cache.iterdir())


def test_too_many_files_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    many = [(f"m/{number}", b"") for number in range(archives.MOST_FILES + 1)]
    with pytest.raises(CheckpointError, match="holds more than 1,000 files"):
        find(tarred(tmp_path / "a.tar", many))
    with pytest.raises(CheckpointError, match="holds 'm/b' twice"):
        find(tarred(tmp_path / "b.tar", [("m/b", b"1"), ("m/b", b"2")]))


@pytest.mark.parametrize(("name", "write"), WRITERS[:3])
def test_a_damaged_archive_is_refused(
    name: str, write: Callable[[Path, list[Entry]], Path], folder: Path, tmp_path: Path, cache: Path
) -> None:
    path = write(tmp_path / name, entries_of(folder, "m/"))
    content = path.read_bytes()
    for cut in (0, 1, 200, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=f"{name}: "):
            find(path)
        assert not any(cache.iterdir())


def test_an_archive_without_a_model_or_with_two_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model; expected one folder with config"):
        find(zipped(tmp_path / "a.zip", [("readme.txt", b"hello")]))
    two = [*entries_of(folder, "m/"), *entries_of(folder, "n/")]
    with pytest.raises(CheckpointError, match="holds models in m, n; expected one folder"):
        find(zipped(tmp_path / "b.zip", two))
