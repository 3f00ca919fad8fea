"""Where the rows of a run's metrics go besides `metrics.jsonl`, for those who look there.

Each place is one function that opens it and returns how to log and how to close; what is not
installed is found out before training, and what fails later is left out and never stops a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bertsmith.errors import MissingInputError

PROJECT = "bertsmith"
NOT_FIGURES = ("step", "tokens")  # numbers of a row that are no curve of their own


@dataclass(frozen=True)
class Sink:
    """An open place for figures."""

    log: Callable[[dict[str, float], int], None]  # figures by name, and their step
    close: Callable[[], None]


def require_sink(name: str | None) -> None:
    """Checks that the package behind a sink is installed.

    Raises:
        MissingInputError: it is not; the message says how to install it.
    """
    if name is not None and find_spec(name) is None:
        raise MissingInputError(
            f"log_to is {name}, but the package {name} is not installed; "
            f"install it with: pip install 'bertsmith[{name}]'"
        )


class Mirror:
    """Sends rows on to a sink, if there is one, until it fails. Use it as a context manager."""

    def __init__(
        self,
        name: str | None,
        run: Path,
        settings: Mapping[str, Any],
        say: Callable[[str], None],
        step: int = 0,
    ) -> None:
        """Opens the sink of that name for a run that goes on after `step`.

        Raises:
            MissingInputError: it cannot be opened.
        """
        require_sink(name)
        self._name = name
        self._say = say
        self._sink: Sink | None = None
        if name is not None:
            try:
                self._sink = OPENERS[name](run, settings, step)
            except Exception as error:  # of a foreign package: anything
                raise MissingInputError(
                    f"log_to is {name}, which cannot be opened ({_short(error)}); mend that, or "
                    f"leave log_to out: {run / 'metrics.jsonl'} holds everything"
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._attempt(lambda sink: sink.close())

    def log(self, row: Mapping[str, Any]) -> None:
        """Sends the figures of one row, as `split/name`."""
        figures = {
            f"{row['split']}/{name}": float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and name not in NOT_FIGURES
        }
        if figures:
            self._attempt(lambda sink: sink.log(figures, row["step"]))

    def _attempt(self, use: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            use(self._sink)
        except Exception as error:  # of a foreign package: anything, and none of it stops a run
            self._sink = None
            self._say(
                f"warning: {self._name} fails ({_short(error)}) and gets no more of this run; "
                f"metrics.jsonl holds everything"
            )


def _tensorboard(run: Path, settings: Mapping[str, Any], step: int) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    # What was logged after the step that a run goes on from is no longer shown.
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Sink(log, writer.close)


def _wandb(run: Path, settings: Mapping[str, Any], step: int) -> Sink:
    import wandb

    opened = wandb.init(
        project=PROJECT, group=run.name, name=run.name, dir=str(run), config=dict(settings)
    )
    return Sink(lambda figures, step: opened.log(figures, step=step), opened.finish)


def _mlflow(run: Path, settings: Mapping[str, Any], step: int) -> Sink:
    import mlflow

    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=run.name)
    mlflow.log_params({name: str(value)[:250] for name, value in settings.items()})
    return Sink(lambda figures, step: mlflow.log_metrics(figures, step=step), mlflow.end_run)


def _trackio(run: Path, settings: Mapping[str, Any], step: int) -> Sink:
    import trackio

    trackio.init(project=PROJECT, name=run.name, config=dict(settings), resume="allow")
    return Sink(lambda figures, step: trackio.log(figures, step=step), trackio.finish)


OPENERS: dict[str, Callable[[Path, Mapping[str, Any], int], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
