"""A model as ONNX, which other runtimes compute: encoders, vectors of sentences, every head.

    model.onnx     inputs and outputs named as `transformers` names them, any batch and length
    config.json  vocab.txt  tokenizer.json  ...    as in the model folder

What is written is computed by onnxruntime and held to our own answers before it takes its place.

Shapes:  S sequences   B rows of a batch   C choices   L longest sequence   T tokens   H hidden size
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import BertConfig
from bertsmith.data.framing import Framed, frame
from bertsmith.data.packing import PackedBatch, pack_texts
from bertsmith.errors import CheckpointError, ConfigError, MissingInputError
from bertsmith.folder import Loaded, write_config
from bertsmith.interop.padded import Padded
from bertsmith.model.bilstm import BertForFeatureTagging
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.kinds import Encoder
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.published import AnyModel
from bertsmith.model.task_heads import BertForAnswering, BertForChoice, BertForTagging
from bertsmith.storage import replacing
from bertsmith.tasks.vectors import Pooling
from bertsmith.text.tokenizer_files import TOKENIZER_FILES, write_tokenizer_files

FARTHEST = 1e-4  # what onnxruntime computes may be this far from ours, as a share of the largest
_FILES = ("model.onnx", "model.onnx.data", "config.json", *TOKENIZER_FILES)
_OPERATORS = 18  # version of ONNX's operators
_SENTENCES = (
    "The river rose three feet in one night.",
    "Who wrote the letter, and why was it never sent?",
    "No.",
    "In 1903 the two brothers, who mended bicycles for a living, flew for twelve seconds; few of "
    "those who read of it the next morning believed a word, and the editor had not sent anyone.",
    "A hundred and twelve voted for it, ninety against.",
    "“Come back tomorrow,” she said.",
)


def write_onnx(loaded: Loaded, out: Path, pooling: Pooling | None = None) -> dict[str, Any]:
    """Writes a model as a folder of ONNX, whole or not at all.

    Args:
        loaded: a model with any head, or an encoder alone.
        out: where it is to stand.
        pooling: of an encoder alone: what one vector for each text is made of.

    Returns:
        `out`, `inputs` and `outputs` by name, `max_abs_difference` from our own answers, and
        `bytes` of the model.

    Raises:
        MissingInputError: ONNX is not installed.
        CheckpointError: what onnxruntime computes is not what we do.
        ConfigError: a model with a head is to be pooled, or the model tags by several layers.
        FolderInUseError, StorageError: see `storage.replacing`.
    """
    _check_installed()
    if isinstance(loaded.model, BertForFeatureTagging):
        raise ConfigError(
            f"{out}: the model tags by states of several layers with a BiLSTM, for which there is "
            f"no graph here; expected another kind of model, or keep the model folder"
        )
    if pooling and not isinstance(loaded.model, Encoder):
        raise ConfigError(
            f"{out}: pooling is {pooling!r}, but the model has a head, which gives its own "
            f"outputs; expected an encoder without a head, or no pooling"
        )
    twin = Padded(loaded.model, pooling)
    with replacing(out, known=set(_FILES)) as building:
        path = building / "model.onnx"
        _export(twin, path)
        difference = _difference(loaded, twin, path)
        if not difference <= FARTHEST:  # also where it is not a number
            raise CheckpointError(
                f"{out}: what onnxruntime computes of the model is {difference:.1e} from what it "
                f"answers here; expected at most {FARTHEST:.0e}, so that nothing is written"
            )
        write_config(building, loaded.model, loaded.tokenizer, loaded.facts)
        has_segments = isinstance(loaded.config, BertConfig)
        longest = loaded.config.max_position_embeddings
        write_tokenizer_files(building, loaded.tokenizer, longest, with_segments=has_segments)
        size = sum(file.stat().st_size for file in building.glob("model.onnx*"))
    return {
        "out": str(out),
        "inputs": list(twin.input_names),
        "outputs": list(twin.output_names),
        "max_abs_difference": difference,
        "bytes": size,
    }


def _check_installed() -> None:
    try:
        for library in ("onnx", "onnxruntime", "onnxscript"):  # torch's exporter reads the last
            import_module(library)
    except ImportError as error:
        raise MissingInputError(
            f"to write ONNX, {error.name} is missing; install it: pip install 'bertsmith[onnx]'"
        ) from None


def _export(twin: Padded, path: Path) -> None:
    """Writes the graph of a model, for batches of any size and length."""
    shape = (2, 2, 5) if isinstance(twin.model, BertForChoice) else (2, 5)
    names = ("batch", "choices", "length") if len(shape) == 3 else ("batch", "length")
    axes = {number: torch.export.Dim(name) for number, name in enumerate(names)}
    # Each a tensor of its own: one that came twice would be traced as one input.
    inputs = tuple(torch.ones(shape, dtype=torch.int64) for _ in twin.input_names)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            twin,
            inputs,
            input_names=list(twin.input_names),
            output_names=list(twin.output_names),
            dynamic_shapes=tuple(axes for _ in inputs),
            opset_version=_OPERATORS,
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "the exporter by torch.export returns its program"
    num_bytes = sum(weight.numel() * 4 for weight in twin.parameters())
    program.save(str(path), external_data=num_bytes >= 2**31 - 2**20)  # one file holds no more


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the exporter says of its own workings from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# ------------------------------------------------------------------------------- verification


def _difference(loaded: Loaded, twin: Padded, path: Path) -> float:
    """Returns how far onnxruntime's answers are from ours, as a share of the largest or of 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    batch = pack_texts(_rows(loaded))
    inputs, used = _padded(batch, twin)
    found = session.run(list(twin.output_names), inputs)
    farthest = 0.0
    for name, values, expected in zip(
        twin.output_names, found, _expected(loaded.model, twin, batch), strict=True
    ):
        ours = expected.numpy()
        is_per_token = ours.shape[0] == int(used.sum()) and values.shape[:2] == used.shape
        theirs = values[used] if is_per_token else values.reshape(ours.shape)
        assert theirs.shape == ours.shape, f"{name} has the shape of our own answers"
        distance = float(np.abs(theirs - ours).max()) / max(1.0, float(np.abs(ours).max()))
        farthest = max(farthest, distance) if np.isfinite(distance) else distance
    return farthest


def _rows(loaded: Loaded) -> list[Framed]:
    """Returns texts and pairs of ragged lengths, and pieces from all over the vocabulary."""
    length = min(128, loaded.config.max_position_embeddings)
    vocabulary = loaded.tokenizer.vocabulary
    texts = [loaded.tokenizer.encode(text, max_pieces=length) for text in _SENTENCES]
    everywhere = np.linspace(0, len(vocabulary.pieces) - 1, length, dtype=np.int32)
    rows = [frame(text, None, vocabulary, max_length=length) for text in texts]
    rows.append(frame(everywhere, None, vocabulary, max_length=length))
    return [*rows, frame(texts[0], texts[1], vocabulary, max_length=length)]


def _padded(batch: PackedBatch, twin: Padded) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Returns a batch as the graph takes it, and where its tokens are, [S, L]."""
    lengths = batch.sequence_starts.diff().numpy()
    used = np.arange(lengths.max()) < lengths[:, None]  # [S, L]
    inputs = {"attention_mask": used.astype(np.int64)}
    for name, values in (("input_ids", batch.piece_ids), ("token_type_ids", batch.segment_ids)):
        inputs[name] = np.zeros(used.shape, dtype=np.int64)
        inputs[name][used] = values.numpy()
    if isinstance(twin.model, BertForChoice):
        inputs = {name: values.reshape(-1, 2, used.shape[1]) for name, values in inputs.items()}
    return {name: inputs[name] for name in twin.input_names}, used


def _expected(model: AnyModel, twin: Padded, batch: PackedBatch) -> list[Tensor]:
    """Returns our own answers, packed: of each output, [T, ...] or [S, ...]."""
    inputs = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
    starts = batch.sequence_starts.long()
    names = twin.output_names
    with torch.inference_mode():
        if isinstance(model, Encoder):
            states = model(*inputs)  # [T, H]
            if names[-1] == "pooler_output":
                return [states, model.pool(states[starts[:-1]])]
            if twin.pooling == "cls":
                return [states, states[starts[:-1]]]
            parts = states.split(starts.diff().tolist())
            means = torch.stack([part.mean(0) for part in parts])  # [S, H]
            return [states, means][: len(names)]
        if isinstance(model, BertForPreTraining | ModernBertForPreTraining):
            logits = model.logits(*inputs, torch.arange(batch.num_tokens))  # [T, V]
            if isinstance(model, BertForPreTraining) and model.next is not None:
                return [logits, model.next_logits(*inputs)]
            return [logits]
        logits = model.logits(*inputs)
        if isinstance(model, BertForAnswering):
            return list(logits.unbind(1))
        if isinstance(model, BertForTagging) and model.num_intents:
            return [logits[:, : model.num_labels], logits[starts[:-1], model.num_labels :]]
        return [logits]
