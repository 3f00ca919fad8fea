"""Models of the hub: the files that are read here, fetched once, verified every time.

`huggingface_hub` does the fetching, so that its cache, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`
and its going on after a broken connection are those of every program that uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bertsmith.errors import BertsmithError, CheckpointError, MissingInputError, StorageError
from bertsmith.folder import FACTS_FILE
from bertsmith.storage import sha256_of
from bertsmith.text.tokenizer_files import TOKENIZER_FILES
from bertsmith.weights_files import (
    INDEX_FILE,
    PICKLE_FILE,
    PICKLE_INDEX_FILE,
    WEIGHTS_FILE,
    index_shards,
)

CONFIG_FILE = "config.json"
# What a model folder may hold besides config.json and weights; each may be absent.
SMALL_FILES = (
    *TOKENIZER_FILES,
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)

Say = Callable[[str], None]


def fetch_model(name: str, say: Say) -> Path:
    """Returns the folder in the hub's cache that holds the newest version of a model.

    Only what is read here is fetched, weights last, so that a folder with all its weights has all
    the rest. Where the hub cannot be reached a version that was fetched whole is taken.

    Raises:
        MissingInputError: the hub has no such model, does not give it, or cannot be reached.
        CheckpointError: a file is not what the hub says it is.
        StorageError: the cache cannot be written.
    """
    from huggingface_hub import constants

    say(
        f"{name}: no folder here is called so; takes the model of that name at {constants.ENDPOINT}"
    )
    with _hub_errors(name):
        config = _newest_config(name, say)
    if config is None:
        raise MissingInputError(
            f"{name}: the model of that name at the hub has no {CONFIG_FILE}; expected a BERT in "
            f"the format of transformers"
        )
    folder = config.parent
    version = folder.name
    facts = _fetched(name, FACTS_FILE, version)
    others = ("README.md",) if facts else ()
    files = [config, *(_fetched(name, file, version) for file in (*SMALL_FILES, *others)), facts]
    for file in [*files, *_weights(name, version)]:
        if file is not None:
            _verify(file, name)
    return folder


def _newest_config(name: str, say: Say) -> Path | None:
    """Returns the newest config.json of a model, or that fetched before where the hub gives none.

    The hub is asked once before anything is fetched: fetching tries for half a minute to reach it,
    and most names that are no model are mistyped paths.
    """
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_url,
        is_offline_mode,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # one is of its client
        HTTPError,
        RemoteEntryNotFoundError,
    )

    try:
        get_hf_file_metadata(
            hf_hub_url(name, CONFIG_FILE, revision="main"), timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except RemoteEntryNotFoundError:
        return None
    except (HTTPError, OSError):
        cached = try_to_load_from_cache(name, CONFIG_FILE, revision="main")
        if not isinstance(cached, str):
            raise
        if not is_offline_mode():
            say(f"{name}: the hub does not give it now; takes the version that was fetched before")
        return Path(cached)
    return _fetch(name, CONFIG_FILE, "main")


def _weights(name: str, version: str) -> Iterator[Path]:
    """Yields the files of the first of the formats of weights that a model has."""
    for kind in (WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE, PICKLE_INDEX_FILE):
        found = _fetched(name, kind, version)
        if found is None:
            continue
        yield found
        if kind in (INDEX_FILE, PICKLE_INDEX_FILE):
            for shard in sorted(index_shards(found)):
                part = _fetched(name, shard, version)
                if part is None:
                    raise MissingInputError(f"{name}: the hub has no {shard}, which {kind} lists")
                yield part
        return
    raise MissingInputError(
        f"{name}: the hub has no weights of it that are read here; expected {WEIGHTS_FILE} or "
        f"{PICKLE_FILE}"
    )


def _fetched(name: str, file: str, version: str) -> Path | None:
    """Returns a file of one version of a model; None where that version has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, revision=version)
    if cached is _CACHED_NO_EXIST:
        return None
    if isinstance(cached, str):
        return Path(cached)
    with _hub_errors(name):
        return _fetch(name, file, version)


def _fetch(name: str, file: str, version: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=version))
    except RemoteEntryNotFoundError:
        return None


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turns what the hub's library raises in its body into one sentence."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its client

    try:
        yield
    except BertsmithError:
        raise
    except (OSError, HTTPError, ValueError, RuntimeError) as error:
        raise _explained(name, error) from None


def _explained(name: str, error: Exception) -> BertsmithError:
    from huggingface_hub import constants, is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    place = constants.ENDPOINT
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if is_offline_mode():
        return MissingInputError(
            f"{name}: there is no such folder here, nor all of a model of that name in the hub's "
            f"cache, and HF_HUB_OFFLINE forbids to fetch it; unset that, or check the path"
        )
    if isinstance(cause, GatedRepoError):
        return MissingInputError(
            f"{name}: the hub gives it only to those who have accepted its terms; do so at "
            f"{place}/{name} and set HF_TOKEN to a token of yours"
        )
    if isinstance(cause, RepositoryNotFoundError):
        return MissingInputError(
            f"{name}: there is no such folder here, and no model of that name at {place} that you "
            f"may see; check the spelling, or set HF_TOKEN where it is a private one"
        )
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status in (401, 403):
            return MissingInputError(
                f"{name}: {place} refuses the token that it was given (status {status}); set "
                f"HF_TOKEN to one that holds"
            )
        return MissingInputError(
            f"{name}: there is no such folder here, and {place} answers with status {status}; "
            f"try again later"
        )
    if isinstance(cause, OSError) and cause.errno is not None and cause.filename is not None:
        return StorageError(f"{cause.filename}: cannot be written ({cause.strerror})")
    reason = (str(cause or error).strip() or type(cause or error).__name__).split("\n")[0][:200]
    return MissingInputError(
        f"{name}: there is no such folder here, and a model of that name cannot be fetched from "
        f"{place} ({reason}); check the network, or give a folder"
    )


def _verify(file: Path, name: str) -> None:
    """Checks a cached file against the checksum that the hub calls it by.

    The cache names a file's content by SHA-256 where it is large, and else as git does.
    """
    content = file.resolve()
    said = content.name
    if len(said) == 64:
        found = sha256_of(content)
    elif len(said) == 40:
        found = _git_sha1(content)
    else:
        return  # a mirror with checksums of its own
    if found != said:
        content.unlink()
        file.unlink(missing_ok=True)
        raise CheckpointError(
            f"{name}: {file.name} is not what the hub says it is (its checksum is {found[:16]} and "
            f"not {said[:16]}); it was removed: run the same command again to fetch it anew"
        )


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
