"""Tests of a solution, in a process that the solution has never been in.

Tests name the solution's functions and classes as they would if it were imported; what they get is
a stand-in that asks the other process, by way of the server. So the solution sees the arguments of
calls and nothing else of the tests, and cannot touch what compares its results. Rules:

- Builtin values are copied both ways; a list, dict, set or bytearray that a call changed is changed
  here too.
- An object of the solution's own class is compared by the solution with another one of its objects
  only. Beside a value of the tests it equals what builtin value it is, if any, and no ``__eq__``,
  ``__sub__`` or ``__lt__`` of it is asked, unless the tests say that they trust its operators.
- An exception arrives as the builtin class above it, or as a subclass made here with its name;
  those that would end or skip a test are not among them.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.abc
import importlib.machinery
import json
import sys
import traceback
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final

from .values import pack, unpack
from .worker import Interrupted

__all__ = ["count_units", "examine"]

_FORBIDDEN: Final = ("KeyboardInterrupt", "GeneratorExit", "BaseException", "BaseExceptionGroup")
_ARITHMETIC: Final = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift"
_PLAIN: Final = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(list, tuple, set, frozenset, dict),
)


class TimeIsUp(BaseException):
    """Raised in a test whose time is up."""


class _Link:
    """The way to the solution's process."""

    def __init__(
        self, ask: Callable[..., Any], say: Callable[[str], None], operators: bool
    ) -> None:
        self.operators = operators
        self._ask_server, self._say = ask, say
        self._known: dict[str, Any] = {}
        self._callbacks: list[Callable[..., Any]] = []

    def ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Have something done there; raises what it raised."""
        packed = [self._packed(each) for each in args]
        named = {name: self._packed(each) for name, each in kwargs.items()}
        answer = self._ask_server({"verb": verb, "args": packed, "kwargs": named})
        while "callback" in answer:
            answer = self._ask_server({"resume": self._called(*answer["callback"])})
        self._say(answer.get("stdout", ""))
        if "late" in answer:
            raise TimeIsUp(answer["late"])
        if "lost" in answer:
            raise RuntimeError(f"the solution's interpreter ended: {answer['lost']}")
        found = json.loads(answer["text"])
        if "raised" in found:
            raise self._exception(found["raised"])
        for place, changed in found.get("changed", {}).items():
            _change(args[int(place)], unpack(changed, self._find))
        return unpack(found["value"], self._find)

    def _called(self, number: int, args: list[Any], kwargs: dict[str, Any]) -> str:
        try:
            values = [unpack(each, self._find) for each in args]
            named = {name: unpack(each, self._find) for name, each in kwargs.items()}
            return json.dumps([self._packed(self._callbacks[number](*values, **named)), None])
        except Exception as exc:
            return json.dumps([type(exc).__name__, str(exc)])

    def _packed(self, value: Any) -> Any:
        return pack(value, self._keep)

    def _keep(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return {"object": object.__getattribute__(value, "_remote_name")}
        if isinstance(value, type) and (name := getattr(value, "_remote_name", "")):
            return {"object": name}
        if callable(value):
            self._callbacks.append(value)
            return {"callback": len(self._callbacks) - 1}
        raise TypeError(f"a {type(value).__name__} of the tests cannot be given to the solution")

    def _find(self, kind: str, body: Any) -> Any:
        if kind == "missing":
            return NotImplemented
        if kind == "exception":
            return self._exception_class(body)
        name, cls, awaitable = body
        found = self._known.get(name)
        if found is None:
            made = _Awaitable if awaitable else Remote
            found = self._known[name] = made(self, str(name), str(cls))
        return found

    def _exception(self, raised: dict[str, Any]) -> BaseException:
        cls = self._exception_class(raised["lineage"])
        args = unpack(raised["args"], self._find)
        try:
            exc = cls(*args)
        except Exception:  # a class whose constructor wants something else
            exc = Exception(raised["text"])
        for name, value in raised["attributes"].items():
            with contextlib.suppress(Exception):
                setattr(exc, str(name), unpack(value, self._find))
        return exc

    def _exception_class(self, lineage: list[list[str]]) -> type[BaseException]:
        name, shown = lineage[0]
        if not name:
            cls = getattr(builtins, shown, None)
            if shown in _FORBIDDEN or not isinstance(cls, type):
                return Exception
            return cls if issubclass(cls, BaseException) else Exception
        found: type[BaseException] | None = self._known.get(name)
        if found is None:
            base = self._exception_class(lineage[1:]) if lineage[1:] else Exception
            namespace = {"_remote_name": name, "__str__": Exception.__str__}
            found = self._known[name] = type(str(shown), (base,), namespace)
        return found


def _change(mine: Any, new: Any) -> None:
    """Let a value of the tests be as the call left it."""
    if type(mine) is not type(new):
        return
    if isinstance(mine, list | bytearray):
        mine[:] = new
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(new)


def _binary(name: str, swapped: bool = False) -> Callable[[Any, Any], Any]:
    def operation(self: Remote, other: Any) -> Any:
        link: _Link = object.__getattribute__(self, "_remote_link")
        if not isinstance(other, Remote) and not link.operators:
            return NotImplemented
        return link.ask(name, other, self) if swapped else link.ask(name, self, other)

    return operation


def _forwarded(verb: str) -> Callable[..., Any]:
    def method(self: Remote, *args: Any, **kwargs: Any) -> Any:
        link: _Link = object.__getattribute__(self, "_remote_link")
        return link.ask(verb, self, *args, **kwargs)

    return method


class Remote:
    """The stand-in for an object of the solution."""

    __slots__ = ("_remote_class", "_remote_link", "_remote_name")

    def __init__(self, link: _Link, name: str, cls: str) -> None:
        for key, value in (("link", link), ("name", name), ("class", cls)):
            object.__setattr__(self, f"_remote_{key}", value)

    def __getattr__(self, name: str) -> Any:
        hidden = name.startswith("__") and name not in ("__name__", "__doc__", "__dict__")
        if hidden or name in ("pytestmark", "_pytestfixturefunction"):
            raise AttributeError(name)
        return self._remote_link.ask("attr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote_link.ask("setattr", self, name, value)

    def __eq__(self, other: object) -> bool:
        return self._equal("eq", other)

    def __ne__(self, other: object) -> bool:
        if isinstance(other, Remote) or self._remote_link.operators:
            return self._equal("ne", other)
        return not self._equal("eq", other)

    def _equal(self, verb: str, other: object) -> bool:
        if isinstance(other, Remote) or self._remote_link.operators:
            return self._remote_link.ask(verb, self, other) is True
        if type(other) not in _PLAIN:
            return False
        mine = self._remote_link.ask("plain", self)
        return not isinstance(mine, Remote) and mine is not NotImplemented and mine == other

    def __hash__(self) -> int:
        return hash(self._remote_name)

    def __repr__(self) -> str:
        return str(self._remote_link.ask("repr", self))

    def __str__(self) -> str:
        return str(self._remote_link.ask("str", self))

    def __bool__(self) -> bool:
        return self._remote_link.ask("bool", self) is True

    def __len__(self) -> int:
        return int(self._remote_link.ask("len", self))

    def __iter__(self) -> Any:
        return self._remote_link.ask("iter", self)

    def __contains__(self, item: Any) -> bool:
        return self._remote_link.ask("contains", self, item) is True

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and self._remote_link.ask("isinstance", instance, self)

    def __subclasscheck__(self, cls: Any) -> bool:
        return isinstance(cls, Remote) and self._remote_link.ask("issubclass", cls, self)

    for _verb in ("call", "next", "getitem", "setitem", "delitem", "enter", "exit", "reversed"):
        locals()[f"__{_verb}__"] = _forwarded(_verb)
    for _verb in ("neg", "pos", "invert", "abs"):
        locals()[f"__{_verb}__"] = _forwarded(_verb)
    for _verb in ("lt", "le", "gt", "ge"):
        locals()[f"__{_verb}__"] = _binary(_verb)
    for _verb in _ARITHMETIC.split():
        locals()[f"__{_verb.strip('_')}__"] = _binary(_verb)
        locals()[f"__r{_verb.strip('_')}__"] = _binary(_verb, swapped=True)


class _Awaitable(Remote):
    """The stand-in for a coroutine: it runs there when it is awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, Any]:
        yield from ()
        return self._remote_link.ask("await", self)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports of the solution's modules, after all others were looked for."""

    def __init__(self, link: _Link, modules: Sequence[str], names: Sequence[str]) -> None:
        self._link, self._modules, self._names = link, modules, names

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__

        def get(attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return self._link.ask("get", name, attribute)

        self._link.ask("get", name, "")
        vars(module).update(__getattr__=get, __all__=list(self._names))


# -- assertions -----------------------------------------------------------------------------


def _asserts(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Assert) for each in ast.walk(node))


def _units(tree: ast.Module, called: bool) -> list[list[ast.stmt]]:
    """The bodies whose statements are tests: of ``check``, if it is called, else of the module."""
    if called:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "check":
                return [node.body]
    return [tree.body]


def _is_unit(node: ast.stmt) -> bool:
    return not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
        _asserts(node)
    )


def count_units(source: str, called: bool) -> int:
    """The number of tests in assertions: statements that hold one, of a module or of ``check``.

    Raises:
        SyntaxError: it is not Python.
    """
    bodies = _units(ast.parse(source), called)
    return sum(_is_unit(node) for body in bodies for node in body)


def _instrumented(source: str, called: bool) -> tuple[ast.Module, int]:
    """The tests, each in a ``with`` that notes how it went."""
    tree = ast.parse(source)
    number = 0
    for body in _units(tree, called):
        for place, node in enumerate(body):
            if _is_unit(node):
                noted = ast.parse(f"with __unit__({number}): pass").body[0]
                assert isinstance(noted, ast.With)
                noted.body = [node]
                body[place] = ast.copy_location(noted, node)
                number += 1
    return ast.fix_missing_locations(tree), number


def _free_names(tree: ast.AST) -> list[str]:
    """Names that a text reads and neither makes nor finds among the builtins."""
    read, made = set(), set(dir(builtins))
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                made.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                made.add(name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                made.add(name)
            case ast.alias(name=name, asname=renamed):
                made.add(renamed or name.split(".")[0])
    return sorted(read - made)


def _check(job: dict[str, Any], link: _Link, begin: Callable[[str], None], note: Any) -> None:
    tree, _ = _instrumented(job["source"], bool(job["entry_point"]))
    names = [name for name in _free_names(tree) if name != "__unit__"]

    @contextlib.contextmanager
    def unit(number: int) -> Iterator[None]:
        begin(str(number))
        try:
            yield
        except TimeIsUp:
            note(str(number), "Timeout")
        except AssertionError:
            note(str(number), "failed")
        except Interrupted:
            raise
        except BaseException as exc:
            note(str(number), type(exc).__name__)
        else:
            note(str(number), "passed")

    namespace: dict[str, Any] = {"__name__": "tests", "__unit__": unit}
    for name in names:
        with contextlib.suppress(Exception):  # a test that needs it fails by itself
            namespace[name] = link.ask("get", "solution", name)
    exec(compile(tree, "<tests>", "exec", dont_inherit=True), namespace)
    if job["entry_point"] and "check" in namespace:
        namespace["check"](link.ask("get", "solution", job["entry_point"]))


# -- pytest ---------------------------------------------------------------------------------


class _Reports:
    """A plugin of pytest that notes how each test went."""

    def __init__(self, begin: Callable[[str], None], note: Callable[[str, str], None]) -> None:
        self._begin, self._note = begin, note

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self._begin(nodeid)

    def pytest_itemcollected(self, item: Any) -> None:
        self._note(item.nodeid, "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome = report.outcome if report.outcome in ("passed", "failed") else "skipped"
            self._note(report.nodeid, outcome)


def _pytest(job: dict[str, Any], begin: Callable[[str], None], note: Any) -> None:
    import pytest

    options = ["-q", "--capture=sys", "--tb=short", "-p", "no:cacheprovider"]
    options += ["-p", "no:faulthandler", "-p", "no:junitxml", "--rootdir=."]
    pytest.main([*options, *job["files"]], plugins=[_Reports(begin, note)])


def examine(
    ask: Callable[..., Any], begin: Callable[[str], None], note: Any, job: dict[str, Any]
) -> None:
    """Run the tests of a job.

    Args:
        ask: has the server ask the solution's process.
        begin: tells the server which test begins.
        note: tells it how one went.
        job: ``source`` and ``entry_point`` of assertions, or ``files`` of pytest; ``modules`` of
            the solution; ``operators``.
    """

    def say(text: str) -> None:
        sys.stdout.write(text)

    link = _Link(ask, say, job["operators"])
    source = job["source"] or "\n".join(job["texts"])
    try:
        names = _free_names(ast.parse(source))
        sys.meta_path.append(_Finder(link, job["modules"], names))
        if job["files"]:
            _pytest(job, begin, note)
        else:
            _check(job, link, begin, note)
    except Exception:
        traceback.print_exc()
