"""Work on the files of a corpus as tasks of a Ray cluster, its results in the order of the files.

What a task yields depends on its files alone, and results come in the order of the text, so that
what is made of them has the same bytes as on one machine. Every machine must see the files under
the same names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from bertsmith.errors import BertsmithError, MissingInputError

Part = TypeVar("Part")
Result = TypeVar("Result")


def map_parts(
    work: Callable[[Part], Iterator[Result]],
    parts: Iterable[Part],
    name_of: Callable[[Part], str],
    timeout_seconds: float,
) -> Iterator[Result]:
    """Yields what `work` yields for each part, part after part.

    Twice as many tasks as the cluster has cores are under way or wait to be taken, and none waits
    for those before it: what it yields lies in Ray's object store, which moves to disk what memory
    cannot hold. `work` is sent once. A task whose machine is lost is begun again by Ray itself.

    Raises:
        MissingInputError: Ray is not installed.
        BertsmithError: what the work raised; or a task was lost for good, or gave nothing for
            `timeout_seconds`, and then the message names its part.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # RAY_ADDRESS names the cluster; without it, this machine
    at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    task = ray.remote(_results)
    shared = ray.put(work)
    running: deque[tuple[str, Any]] = deque()
    try:
        for part in parts:
            running.append((name_of(part), task.remote(shared, part)))
            if len(running) >= at_once:
                yield from _taken(ray, *running[0], timeout_seconds)
                running.popleft()
        while running:
            yield from _taken(ray, *running[0], timeout_seconds)
            running.popleft()
    finally:
        for _, results in running:
            ray.cancel(results)


def _results(work: Callable[[Part], Iterator[Result]], part: Part) -> Iterator[Result]:
    yield from work(part)


def _taken(ray: Any, name: str, results: Any, timeout_seconds: float) -> Iterator[Any]:
    """Yields the results of one task as they come."""
    while True:
        ready, _ = ray.wait([results], timeout=timeout_seconds)
        if not ready:
            ray.cancel(results, force=True)
            raise BertsmithError(
                f"{name}: a task of Ray gave nothing for {timeout_seconds:g} seconds and was "
                f"ended; nothing was written: try again, with a longer --worker-timeout"
            )
        try:
            result = ray.get(next(results))
        except StopIteration:
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BertsmithError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise BertsmithError(
                f"{name}: a task of Ray was lost ({error}); nothing was written: try again"
            ) from None
        yield result


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingInputError(
            "engine is ray, which is not installed; pip install 'bertsmith[ray]', or leave out "
            "--engine for the processes of this machine"
        ) from None
    return ray
