"""First on PYTHONPATH of a test's processes: at a chosen point a process ends as by SIGKILL from outside, once.

$KILL_POINTS is a JSON list of [function, when, given, action]: "module:qualname", "before" or "after" its call, words each of
which an argument must hold, and "kill" (this process dies) or "stop" (it stands still until the test kills it together with
others). $KILL_MARKS is the folder where point N leaves the file N when it is reached, so that it is reached once. Nothing of
the platform knows of this: functions are wrapped as their modules load.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import Any

Point = tuple[int, str, str, Sequence[str], str]


def reached(number: int, action: str) -> None:
    """Leave the mark and end, unless the point was reached before, here or in another process."""
    try:
        mark = os.open(f"{os.environ['KILL_MARKS']}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    os.write(mark, str(os.getpid()).encode())
    os.close(mark)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def given(words: Sequence[str], values: Sequence[object]) -> bool:
    """Whether each word is in one of the texts, paths or bytes among the values."""
    texts = [
        value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for value in values
        if isinstance(value, (str, bytes, PurePath))
    ]
    return all(any(word in text for text in texts) for word in words)


def wrapped(function: Callable[..., Any], points: Sequence[Point]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named_arguments: Any) -> Any:
        values = [*arguments, *named_arguments.values()]
        chosen = [point for point in points if given(point[3], values)]
        for number, _, when, _, action in chosen:
            if when == "before":
                reached(number, action)
        result = function(*arguments, **named_arguments)
        for number, _, when, _, action in chosen:
            if when == "after":
                reached(number, action)
        return result

    return call


def wrap(module: ModuleType, points: Sequence[Point]) -> None:
    for place in {point[1] for point in points}:
        *owners, name = place.partition(":")[2].split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        found = inspect.getattr_static(owner, name)
        mine = [point for point in points if point[1] == place]
        if isinstance(found, (staticmethod, classmethod)):
            setattr(owner, name, type(found)(wrapped(found.__func__, mine)))
        else:
            setattr(owner, name, wrapped(found, mine))


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules with points as they are found anyway, and wraps their functions once they are loaded."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        points = [point for point in self._points if point[1].partition(":")[0] == fullname]
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target) if points else None
        if found is None or found.loader is None:
            return None
        execute = found.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            wrap(module, points)

        found.loader.exec_module = executed  # type: ignore[method-assign]
        return found


if "KILL_POINTS" in os.environ:
    sys.meta_path.insert(
        0,
        Finder(
            [(number, *point) for number, point in enumerate(json.loads(os.environ["KILL_POINTS"]))]
        ),
    )
