"""What is said where memory runs out: how much was wanted, and what to change.

Nothing is tried again with another batch: that would be another run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bertsmith.config import EncoderConfig, PretrainConfig
from bertsmith.errors import ConfigError, TooLargeError
from bertsmith.model.accounting import count_parameters, memory_bytes, on_paper
from bertsmith.model.kinds import PretrainingModel
from bertsmith.model.memory import available_bytes
from bertsmith.train.loop import Run

# The CPU's allocator raises a plain RuntimeError, and so do threads and maps that find no room.
SIGNS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc", "out of memory")

BYTES_TRAINED = 16  # of a weight: itself, its gradient and AdamW's two means, in fp32


@contextmanager
def explained_lack_of_memory(
    run: Run, model: PretrainingModel, config: PretrainConfig, sequence_length: int
) -> Iterator[None]:
    """Turns a lack of memory in its body into an error that says what to change.

    Args:
        run: whose step is told.
        model: what is trained.
        config: of the run.
        sequence_length: of its longest examples.

    Raises:
        ConfigError: memory ran out; the message gives batch, sequence length and an estimate.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_lack_of_memory(error):
            raise
        part = -(-config.tokens_per_batch // config.accumulate)
        needed = memory_bytes(model, sequence_length=sequence_length, tokens_per_batch=part)
        raise ConfigError(
            f"step {run.step + 1:,}: memory ran out with tokens_per_batch "
            f"{config.tokens_per_batch:,} in {config.accumulate} part(s) and sequences of up to "
            f"{sequence_length:,} pieces, which take about {needed['training'] / 1e9:,.1f} GB by "
            f"formula; {available_bytes() / 1e9:,.1f} GB of this machine are free: give "
            f"--accumulate {2 * config.accumulate} (the same batch in smaller parts), "
            f"fewer --tokens-per-batch, a smaller --sequence-length or "
            f"--long-sequence-length, or a smaller --size"
        ) from error


def refuse_too_large(config: EncoderConfig, size: str) -> None:
    """Refuses an encoder whose weights alone, with what training holds of each, exceed the memory.

    Raises:
        TooLargeError: they do; the message gives both.
    """
    weights = count_parameters(on_paper(config))["total"]
    needed, free = weights * BYTES_TRAINED, available_bytes()
    if needed > free:
        raise TooLargeError(
            f"size {size} has {weights:,} weights, which with their gradients and the "
            f"optimizer's means take {needed / 1e9:,.1f} GB before any text is read; "
            f"{free / 1e9:,.1f} GB of this machine are free: give a smaller --size"
        )


def is_lack_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory, of the machine or of a GPU, has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | TooLargeError):
        return True
    return any(sign in str(error) for sign in SIGNS)
