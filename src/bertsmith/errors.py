"""Every error that bertsmith raises on purpose, and the exit status that each gives.

    BertsmithError
    ├── ConfigError        2   a setting or a flag that cannot be, or settings that contradict
    ├── DataError         65   what was read is not what its format, vocabulary or model allows
    │   └── CheckpointError 65  a checkpoint or model folder that does not verify
    ├── MissingInputError 66   a file, column, checkpoint or extra that is not there
    ├── RanksError        69   another rank of the run has gone, or does not answer
    ├── SelfCheckError    70   the arithmetic of this installation is not what it must be
    ├── NotFiniteError    71   a loss or gradient became NaN or infinite
    ├── DivergedError     71   the loss rose to a multiple of its running median
    ├── FolderInUseError  73   the output folder belongs to another run, or holds something else
    ├── StorageError      74   the disk is full, read-only or failing
    └── StoppedError      75   stopped on request; all is saved and the same command goes on

A bug (an exception of any other class) ends a command with 70. Status 0 is success. `doctor`
prints all that it finds, and ends with 65 where an error is among it. The numbers are those of
BSD's sysexits.h where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

BUG_EXIT_CODE = 70


class BertsmithError(Exception):
    """Something that the user can mend; the message says where, what, and how."""

    exit_code = BUG_EXIT_CODE
    is_said = False  # whether another rank of the run prints it


class ConfigError(BertsmithError):
    """A setting is unknown, out of its range, or contradicts another."""

    exit_code = 2


class TooLargeError(ConfigError):
    """A model does not fit into the memory of this machine."""


class DataError(BertsmithError):
    """Input that was found and read does not hold what it must."""

    exit_code = 65


class CheckpointError(DataError):
    """A checkpoint or a model folder is cut short, altered, or of another shape."""


class MissingInputError(BertsmithError):
    """A file, a column, a checkpoint or an installed extra is not there."""

    exit_code = 66


class RanksError(BertsmithError):
    """Another rank of the run has gone, does not answer, or failed of what is no error of ours."""

    exit_code = 69


class NotFiniteError(BertsmithError):
    """A loss or a gradient norm is NaN or infinite; the weights were not touched by it."""

    exit_code = 71


class DivergedError(BertsmithError):
    """The loss is a multiple of what it was, and the run was asked to stop there."""

    exit_code = 71


class SelfCheckError(BertsmithError):
    """A check before the first step found that the model does not compute what it must."""

    exit_code = BUG_EXIT_CODE


class FolderInUseError(BertsmithError):
    """The output folder is held by a running process, or holds something that must not be lost."""

    exit_code = 73


class StorageError(BertsmithError):
    """Writing failed: no space, no permission, a failing disk. What stood before still stands."""

    exit_code = 74


class StoppedError(BertsmithError):
    """The run was asked to stop, saved its state, and goes on when the command is run again."""

    exit_code = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the known name closest to `name`, or the list of them."""
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}"
