"""Threads that start with the context of their starter: the only file that patches anything.

``Thread.start`` is where every thread passes, subclasses with a ``run`` of their own included. It
puts a ``run`` on the instance that removes itself before it calls the thread's own, in the context:
it holds no thread, and a patch that others put above or below ours goes on working.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from contextvars import Context, copy_context
from typing import Any, Final, NamedTuple

_HAS_CONTEXT: Final = sys.version_info >= (3, 14)
"""``Thread(context=…)`` is of Python 3.14, and so is ``-X thread_inherit_context``."""

_SERVICE_MODULES: Final = (
    "concurrent.futures.",
    "multiprocessing.",
    "tenantry.pipeline",
    "tenantry.shipper",
)
"""Threads that run code of these serve many callers, and belong to none."""


class _Patch(NamedTuple):
    owner: type
    name: str
    original: Callable[..., Any]
    wrapper: Callable[..., Any]

    def is_reached(self) -> bool:
        """Say whether a call comes to it, be it through patches of others."""
        function: Any = vars(self.owner).get(self.name)
        while function is not None and function is not self.wrapper:
            function = getattr(function, "__wrapped__", None)
        return function is not None


_lock: Final = threading.Lock()
"""Guards the next two."""
_patches: list[_Patch] = []
_active = False


def instrument_threads() -> None:
    """Let every thread that is started from now on run in a copy of the context of its starter.

    All context variables are taken along, by ``threading.Thread`` and its subclasses (``Timer``
    among them), and for each task of a ``ThreadPoolExecutor``. The threads of pools themselves have
    an empty context, so that no task sees the tenant of another. ``Thread(context=…)`` of Python
    3.14 counts for more. Opt-in, process-wide and idempotent; call it where the application starts.

    Pools of processes are left alone; for those, see ``ContextExecutor``.
    """
    global _active  # noqa: PLW0603  # patching is process-wide
    with _lock:
        for owner in (threading.Thread, threading.Timer):
            _put(owner, "start", _wrap_start)  # of Timer only where others have patched that
        _put(futures.ThreadPoolExecutor, "submit", _wrap_submit)
        _active = True


def uninstrument_threads() -> None:
    """Undo `instrument_threads`: what was there before is there again.

    Where another library has patched the same since, its patch stays, and ours beneath it does
    nothing any more.
    """
    global _active  # noqa: PLW0603  # as above
    with _lock:
        _active = False
        for patch in list(_patches):
            if vars(patch.owner).get(patch.name) is patch.wrapper:
                setattr(patch.owner, patch.name, patch.original)
            if not patch.is_reached():
                _patches.remove(patch)


def _put(owner: type, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = vars(owner).get(name)
    if original is None or any(
        patch.owner is owner and patch.name == name and patch.is_reached() for patch in _patches
    ):
        return
    wrapper = functools.wraps(original)(wrap(original))
    _patches.append(_Patch(owner, name, original, wrapper))
    setattr(owner, name, wrapper)


def _wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(self: threading.Thread) -> Any:
        if not _active or (_HAS_CONTEXT and getattr(self, "_context", None) is not None):
            return _bind(original, self)()
        if _serves_many(self):
            # Not of this one, which it would inherit with Python 3.14's flag.
            return Context().run(_bind(original, self))
        instance = vars(self)
        if isinstance(instance.get("run"), _RunInContext):  # a patch of ours above this one
            return _bind(original, self)()
        instance["run"] = carried = _RunInContext(copy_context(), instance.get("run"))
        try:
            return _bind(original, self)()
        except BaseException:
            if instance.get("run") is carried:  # it did not start
                carried.put_back(instance)
            raise

    return start


def _bind(function: Any, instance: object) -> Callable[..., Any]:
    """Give the method as an instance has it: what others have put there may ask which that is."""
    bound: Callable[..., Any] = function.__get__(instance, type(instance))
    return bound


class _RunInContext:
    """Stands for a thread's ``run`` until it is called, in the thread."""

    __slots__ = ("_context", "_own_run")

    def __init__(self, context: Context, own_run: Callable[[], None] | None) -> None:
        self._context = context
        self._own_run = own_run
        """A ``run`` that was on the instance."""

    def put_back(self, instance: dict[str, Any]) -> None:
        if self._own_run is None:
            instance.pop("run", None)
        else:
            instance["run"] = self._own_run

    def __call__(self, *_: object) -> None:  # Sentry hands over the thread, as to a function
        thread = threading.current_thread()
        self.put_back(vars(thread))
        self._context.run(thread.run)


def _serves_many(thread: threading.Thread) -> bool:
    run = getattr(thread, "_target", None) or type(thread).run
    return str(getattr(run, "__module__", "")).startswith(_SERVICE_MODULES)


def _wrap_submit(original: Callable[..., Any]) -> Callable[..., Any]:
    def submit(
        self: futures.ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        if not _active or _is_of_interpreters(self):
            return _bind(original, self)(fn, *args, **kwargs)
        return _bind(original, self)(copy_context().run, fn, *args, **kwargs)

    return submit


def _is_of_interpreters(executor: futures.ThreadPoolExecutor) -> bool:
    """Say whether its tasks go to other interpreters (Python 3.14), where no context can go."""
    return any(kind.__name__ == "InterpreterPoolExecutor" for kind in type(executor).__mro__)
