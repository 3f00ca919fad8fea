"""A stand-in for the part of Ray that is used here, for machines where Ray is not installed.

Tasks run in this process, on copies of what they are given and give, made by pickling; the next
result is made when it is asked for. It stands in for the names and the order of calls; whether Ray
itself does what its documentation says, only a test with Ray can tell.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any


class RayError(Exception):
    """What Ray's own errors derive from."""


class RayTaskError(RayError):
    """What a task raised, in Ray's wrapping."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a task raised {cause!r}")
        self.cause = cause


class _Reference:
    def __init__(self, value: Any) -> None:
        self.content = pickle.dumps(value)


class _Results:
    """The references that a generator task has given; all of them stand ready."""

    def __init__(self, values: Iterator[Any]) -> None:
        self._values = values

    def __next__(self) -> Any:
        try:
            return _Reference(next(self._values))
        except StopIteration:
            raise
        except Exception as error:
            return error


class _Task:
    def __init__(self, function: Callable[..., Iterator[Any]], ray: StandIn) -> None:
        self._function = function
        self._ray = ray

    def remote(self, *arguments: Any) -> _Results:
        self._ray.tasks += 1
        values = [
            pickle.loads(
                argument.content if isinstance(argument, _Reference) else pickle.dumps(argument)
            )
            for argument in arguments
        ]
        return _Results(self._function(*values))


class StandIn(ModuleType):
    """The module; `tasks` counts those begun, and `ready` says whether any gives a result."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.tasks = 0
        self.cancelled = 0
        self.ready = True
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self._is_initialized = False

    def is_initialized(self) -> bool:
        return self._is_initialized

    def init(self, *, log_to_driver: bool) -> None:
        self._is_initialized = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, function: Callable[..., Iterator[Any]]) -> _Task:
        return _Task(function, self)

    def put(self, value: Any) -> _Reference:
        return _Reference(value)

    def wait(self, waited: list[_Results], *, timeout: float) -> tuple[list[_Results], Any]:
        return (waited, []) if self.ready else ([], waited)

    def get(self, reference: Any) -> Any:
        if isinstance(reference, RayError):
            raise reference
        if isinstance(reference, Exception):
            raise RayTaskError(reference)
        return pickle.loads(reference.content)

    def cancel(self, _: _Results, *, force: bool = False) -> None:
        self.cancelled += 1
