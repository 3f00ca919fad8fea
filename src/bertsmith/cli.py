"""The command line: every command, and how each of them ends.

Results go to standard output, progress to standard error.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from cyclopts import App, CycloptsError

from bertsmith import __version__
from bertsmith.commands import conversion, corpus, labelled, models, pretraining
from bertsmith.errors import BUG_EXIT_CODE, BertsmithError, DataError, MissingInputError
from bertsmith.flags import add_command
from bertsmith.show import show

COMMANDS = (
    *corpus.COMMANDS,
    *pretraining.COMMANDS,
    *labelled.COMMANDS,
    *models.COMMANDS,
    *conversion.COMMANDS,
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the arguments name; returns its exit status, as in `errors.py`."""
    app = App(name="bertsmith", help="Makes BERTs, from raw text on.", version=__version__)
    for command, stages in COMMANDS:
        add_command(app, command, stages, show)
    try:
        result = app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return 2  # cyclopts has said what is wrong
    except BertsmithError as error:
        if not error.is_said:
            _complain(f"bertsmith: {error}")
        return error.exit_code
    except BrokenPipeError:  # the reader of the result has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return _is_a_bug()
        _complain(f"bertsmith: {str(error.filename)[:80]}...: {_TOO_LONG}")
        return MissingInputError.exit_code
    except KeyboardInterrupt:
        _complain("bertsmith: stopped; nothing was written")
        return 130
    except Exception:
        return _is_a_bug()
    is_unsound = isinstance(result, dict) and result.get("ok") is False  # as `doctor` may find
    return DataError.exit_code if is_unsound else 0


_TOO_LONG = "no file system here takes so long a name; expected the name of a file, folder or model"


def _is_a_bug() -> int:
    """Shows the error that is being handled, with its traceback; returns the exit status."""
    sys.excepthook(*sys.exc_info())
    _complain("bertsmith: this is a bug; please report what stands above")
    return BUG_EXIT_CODE


def _complain(message: str) -> None:
    """Prints a message on standard error; where that is closed, the exit status says it alone."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)
