"""The objects of a solution, for tests that run in another process.

A request is a verb with packed arguments; ``answer`` gives JSON: ``value`` or ``raised``, and
``changed``, the arguments that the call changed, by their index.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import json
import operator
import types
from collections.abc import Callable
from typing import Any, Final

from .values import pack, plain, unpack

__all__ = ["Objects"]

_MOST: Final = 100_000
"""Objects that are kept: tests end long before."""
_TEXT: Final = 2000
_CHANGING: Final = (list, dict, set, bytearray)

_OPERATIONS: Final = """
add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift eq ne lt le gt ge neg pos
invert abs contains getitem setitem delitem
"""
_VERBS: Final[dict[str, Callable[..., Any]]] = {
    **{name: getattr(operator, name) for name in _OPERATIONS.split()},
    "attr": getattr,
    "setattr": setattr,
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "len": len,
    "iter": iter,
    "next": next,
    "bool": bool,
    "str": str,
    "repr": repr,
    "float": float,
    "int": int,
    "round": round,
    "reversed": reversed,
    "isinstance": isinstance,
    "issubclass": issubclass,
    "enter": lambda it: type(it).__enter__(it),
    "exit": lambda it, *args: type(it).__exit__(it, *args),
}


class Objects:
    """The objects of a module.

    Args:
        main: the module ``__main__``.
        callback: calls a function of the tests: its number and packed arguments.
        awaited: runs a coroutine.
    """

    def __init__(
        self, main: types.ModuleType, callback: Callable[..., Any], awaited: Callable[[Any], Any]
    ) -> None:
        self._main = main
        self._callback = callback
        self._awaited = awaited
        self._kept: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def answer(self, request: dict[str, Any]) -> str:
        """Do what a request says."""
        verb, args = request["verb"], request["args"]
        found: dict[str, Any] = {}
        try:
            values = [unpack(each, self._find) for each in args]
            kwargs = {k: unpack(v, self._find) for k, v in request["kwargs"].items()}
            found["value"] = self._packed(self._done(verb, values, kwargs))
            changed = {
                str(place): packed
                for place, value in enumerate(values)
                if type(value) in _CHANGING and (packed := self._packed(value)) != args[place]
            }
            if changed:
                found["changed"] = changed
        except Exception as exc:
            found = {"raised": self._raised(exc)}
        except SystemExit as exc:
            found = {"raised": self._raised(exc)}
        return json.dumps(found)

    def _done(self, verb: str, values: list[Any], kwargs: dict[str, Any]) -> Any:
        if verb == "get":
            return self._named(*values)
        if verb == "await":
            return self._awaited(*values)
        if verb == "plain":
            return plain(*values)
        return _VERBS[verb](*values, **kwargs)

    def _named(self, module: str, name: str) -> Any:
        """A module of the solution, or a name in it, under which it is known from now on."""
        owner = self._main if module == "solution" else importlib.import_module(module)
        value = getattr(owner, name) if name else owner
        self._names.setdefault(id(value), f"{module}:{name}")
        self._kept[self._names[id(value)]] = value
        return value

    def _packed(self, value: Any) -> Any:
        return pack(value, self._keep)

    def _keep(self, value: Any) -> Any:
        if value is NotImplemented:
            return {"missing": None}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"exception": self._lineage(value)}
        return {"object": [self._name(value), type(value).__name__, inspect.isawaitable(value)]}

    def _name(self, value: Any) -> str:
        name = self._names.get(id(value))
        if name is None:
            if len(self._kept) >= _MOST:
                raise MemoryError(f"the tests hold more than {_MOST} objects of the solution")
            name = self._names[id(value)] = str(len(self._kept))
        self._kept[name] = value
        return name

    def _find(self, kind: str, body: Any) -> Any:
        if kind == "exception":
            return self._find("object", body[0])
        if kind == "callback":
            return self._calling(body)
        if body in self._kept:
            return self._kept[body]
        module, _, name = body.partition(":")
        if name or module == "solution":
            return self._named(module, name)  # in a new interpreter
        raise LookupError("the object is gone with its interpreter")

    def _calling(self, number: int) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            packed = [self._packed(each) for each in args]
            named = {name: self._packed(each) for name, each in kwargs.items()}
            value, error = json.loads(self._callback(number, packed, named))
            if error is not None:
                cls = getattr(builtins, value, None)
                if isinstance(cls, type) and issubclass(cls, Exception):
                    raise cls(error)
                raise RuntimeError(f"{value}: {error}")
            return unpack(value, self._find)

        return function

    def _lineage(self, cls: type[BaseException]) -> list[list[str]]:
        """The name of a class of exceptions, and of those above it that are not builtin."""
        found = []
        for each in cls.__mro__:
            if getattr(builtins, each.__name__, None) is each:
                found.append(["", each.__name__])
                break
            found.append([self._name(each), each.__name__])
        return found

    def _raised(self, exc: BaseException) -> dict[str, Any]:
        try:
            text, args = str(exc)[:_TEXT], self._packed(list(exc.args))
            attributes = {k: self._packed(v) for k, v in vars(exc).items() if k.isidentifier()}
        except Exception:  # of the code's own classes
            text, args, attributes = "", [], {}
        return {
            "lineage": self._lineage(type(exc)),
            "text": text,
            "args": args,
            "attributes": attributes,
        }
