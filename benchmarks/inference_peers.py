"""Other systems that make vectors of sentences, as their own documentation would have them used.

Each is a function from a model folder and a number of threads to a function from texts to vectors
of length one, [N, H]: the mean over all pieces. Those that are given pieces get them from
`tokenizers`, sorted by length, as many sequences at a time as suit them best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertsmith.storage import cache_folder

LONGEST = 512  # pieces
Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # texts to vectors of length one, [N, H]
# Padded ids and what is used of them, int64 [B, L] twice, to states, [B, L, H].
States = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def transformers_sdpa(folder: Path, threads: int) -> Embed:
    """Returns `transformers` as one would write it by hand: sorted by length, eight at a time."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(str(folder), attn_implementation="sdpa").eval()

    def states(ids: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(used))
        return found.last_hidden_state.numpy()

    return in_batches(folder, states, 8)


def sentence_transformers(folder: Path, threads: int) -> Embed:
    """Returns `sentence-transformers` as it comes, but for texts of up to 512 pieces."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = LONGEST
    return lambda texts: model.encode(list(texts), normalize_embeddings=True)


def onnxruntime(folder: Path, threads: int) -> Embed:
    """Returns onnxruntime with the graph that its own optimizer has fused."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    path = made(folder, "fused.onnx", _fuse)
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def states(ids: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = {"input_ids": ids, "attention_mask": used, "token_type_ids": np.zeros_like(ids)}
        return session.run(["last_hidden_state"], inputs)[0]

    return in_batches(folder, states, 8)


def openvino(folder: Path, threads: int) -> Embed:
    """Returns OpenVINO, which reads the graph as it was exported."""
    import openvino as runtime

    core = runtime.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1})
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(core.read_model(made(folder, "plain.onnx", _export)), "CPU")
    request = compiled.create_infer_request()

    def states(ids: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = {"input_ids": ids, "attention_mask": used, "token_type_ids": np.zeros_like(ids)}
        found = request.infer(inputs)
        return next(iter(found.values()))

    return in_batches(folder, states, 8)


def ctranslate2(folder: Path, threads: int) -> Embed:
    """Returns CTranslate2 with the weights that its own converter has written."""
    import ctranslate2 as runtime

    place = made(folder, "ctranslate2", _convert)
    encoder = runtime.Encoder(str(place), inter_threads=1, intra_threads=threads)

    def states(ids: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.float32]:
        lengths = used.sum(axis=1).astype(np.int32)
        pieces = runtime.StorageView.from_array(ids.astype(np.int32))
        found = encoder.forward_batch(pieces, runtime.StorageView.from_array(lengths))
        return np.asarray(found.last_hidden_state)

    return in_batches(folder, states, 32)


def in_batches(folder: Path, states: States, size: int) -> Embed:
    """Returns what cuts texts into pieces, pads `size` of like length, and takes their means."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [each.ids for each in tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        parts = []
        for start in range(0, len(order), size):
            few = [rows[place] for place in order[start : start + size]]
            ids = np.zeros((len(few), len(few[0])), np.int64)
            used = np.zeros_like(ids)
            for number, row in enumerate(few):
                ids[number, : len(row)] = row
                used[number, : len(row)] = 1
            mask = used[:, :, None].astype(np.float32)  # [B, L, 1]
            mean = (states(ids, used) * mask).sum(axis=1) / mask.sum(axis=1)  # [B, H]
            parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        vectors = np.concatenate(parts)
        found = np.empty_like(vectors)
        found[order] = vectors
        return found

    return embed


def made(folder: Path, name: str, make: Callable[[Path, Path], Any]) -> Path:
    """Returns what `make` makes of a model folder, made once and kept in the cache."""
    from bertsmith.storage import sha256_of

    place = cache_folder() / "benchmarks" / sha256_of(folder / "model.safetensors")[:16] / name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        make(folder, place)
    return place


def _export(folder: Path, out: Path) -> None:
    """Writes a graph by torch's older exporter: onnxruntime fuses no attention of the newer one."""
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(str(folder), attn_implementation="eager")

        def forward(
            self, ids: torch.Tensor, used: torch.Tensor, segments: torch.Tensor
        ) -> torch.Tensor:
            return self.model(ids, attention_mask=used, token_type_ids=segments)[0]

    names, outputs = ["input_ids", "attention_mask", "token_type_ids"], ["last_hidden_state"]
    torch.onnx.export(
        States().eval(),
        tuple(torch.ones((2, 7), dtype=torch.int64) for _ in names),
        str(out),
        input_names=names,
        output_names=outputs,
        dynamic_axes={name: {0: "batch", 1: "length"} for name in (*names, *outputs)},
        opset_version=17,
        dynamo=False,
    )


def _fuse(folder: Path, out: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    from bertsmith.storage import read_json

    config = read_json(folder / "config.json")
    fused = optimize_model(
        str(made(folder, "plain.onnx", _export)),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
    )
    fused.save_model_to_file(str(out))
    print(f"onnxruntime has fused {fused.get_fused_operator_statistics()}", flush=True)


def _convert(folder: Path, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(out))
