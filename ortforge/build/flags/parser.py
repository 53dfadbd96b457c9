"""Reads the flags out of a source tree's own argument parser, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ortforge.build.flags.flag import Accepted, Flag, canonical
from ortforge.errors import ConfigurationError

__all__ = ["read_parser"]

_SYSTEMS: Final = frozenset({"linux", "macos", "windows"})
_TESTS: Final[Mapping[str, frozenset[str]]] = {
    "is_linux": frozenset({"linux"}),
    "is_macos": frozenset({"macos"}),
    "is_windows": frozenset({"windows"}),
}
_ENTRY: Final = "parse_arguments"


def read_parser(files: Mapping[str, str]) -> dict[str, Flag]:
    """Return the flags that ``build.py`` has, by name without dashes.

    Follows ``parse_arguments`` through the functions that it calls, under the conditions on the system
    (``if is_windows():``), through loops over literals and through groups of arguments.

    :param files: name to text: ``build.py``, and ``build_args.py`` where there is one (1.22 and newer).
    :raises ConfigurationError: a file is not Python, or no flag is found: this is not ORT's build.py.
    """
    scope = _Scope()
    for name, text in files.items():
        try:
            scope.add(ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigurationError(
                f"the source's {name} cannot be read: {error}.",
                todo="Check that the source is ONNX Runtime's and whole.",
            ) from None
    reader = _Reader(scope)
    if entry := scope.functions.get(_ENTRY):
        reader.walk(entry.body, _SYSTEMS, {}, ())
    if not reader.found:
        raise ConfigurationError(
            f"no flag was found in {', '.join(files) or 'the source'}.",
            meant="ONNX Runtime's tools/ci_build/build.py has a function parse_arguments that lists them.",
            todo="Check that the source is ONNX Runtime's.",
        )
    return dict(sorted(reader.found.items()))


@dataclass(slots=True)
class _Scope:
    """Functions and literal values at the top of the files."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, module: ast.Module) -> None:
        for node in module.body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                _remember(node, self.values)


def _remember(node: ast.Assign | ast.AnnAssign, values: dict[str, Any]) -> None:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if len(targets) == 1 and isinstance(targets[0], ast.Name) and node.value is not None:
        known, value = _literal(node.value, values)
        if known:
            values[targets[0].id] = value
        else:
            values.pop(targets[0].id, None)


def _literal(node: ast.expr, values: Mapping[str, Any]) -> tuple[bool, Any]:
    """Return whether an expression is a literal (names of literals and pieced-together strings included), and which."""
    if isinstance(node, ast.Name) and node.id in values:
        return True, values[node.id]
    if isinstance(node, ast.JoinedStr | ast.FormattedValue):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node.value]
        read = [_literal(part, values) for part in parts]
        return all(known for known, _ in read), "".join(str(value) for _, value in read)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        (left_known, left), (right_known, right) = _literal(node.left, values), _literal(node.right, values)
        if left_known and right_known and type(left) is type(right) and isinstance(left, str | list | tuple):
            return True, left + right
        return False, None
    try:
        return True, ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False, None


class _Reader:
    """Walks the statements that run while the parser is filled, and notes the flags."""

    def __init__(self, scope: _Scope) -> None:
        self.scope = scope
        self.found: dict[str, Flag] = {}

    def walk(
        self, body: list[ast.stmt], systems: frozenset[str], local: dict[str, Any], calling: tuple[str, ...]
    ) -> None:
        """Walk statements that run on some systems."""
        for node in body:
            if isinstance(node, ast.If):
                yes, no = _when(node.test, systems)
                self.walk(node.body, yes, local, calling)
                self.walk(node.orelse, no, local, calling)
            elif isinstance(node, ast.For):
                self._loop(node, systems, local, calling)
            elif isinstance(node, ast.With | ast.Try):
                self.walk(node.body, systems, local, calling)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                _remember(node, local)
                self._calls(node, systems, local, calling)
            elif isinstance(node, ast.Expr | ast.Return):
                self._calls(node, systems, local, calling)

    def _loop(self, node: ast.For, systems: frozenset[str], local: dict[str, Any], calling: tuple[str, ...]) -> None:
        known, items = _literal(node.iter, {**self.scope.values, **local})
        for item in items if known and isinstance(items, list | tuple | set) else ():
            self.walk(node.body, systems, {**local, **_bound(node.target, item)}, calling)

    def _calls(self, node: ast.stmt, systems: frozenset[str], local: dict[str, Any], calling: tuple[str, ...]) -> None:
        if not systems:
            return
        for call in _own_calls(node):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
                self._note(call, systems, {**self.scope.values, **local})
            elif (
                isinstance(call.func, ast.Name) and call.func.id in self.scope.functions and call.func.id not in calling
            ):
                self.walk(self.scope.functions[call.func.id].body, systems, {}, (*calling, call.func.id))

    def _note(self, call: ast.Call, systems: frozenset[str], values: Mapping[str, Any]) -> None:
        options = [value for known, value in (_literal(arg, values) for arg in call.args) if known]
        told = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        for option in options:
            if not isinstance(option, str) or not option.startswith("--"):
                continue
            name = canonical(option)
            before = self.found[name].platforms or _SYSTEMS if name in self.found else frozenset()
            everywhere = systems | before
            self.found[name] = Flag(
                name=name,
                option=option,
                action=_text(told.get("action"), values) or "store",
                nargs=_text(told.get("nargs"), values) or "",
                choices=_choices(told.get("choices"), values),
                default=_text(told.get("default"), values),
                const=_text(told.get("const"), values),
                type=_text(told.get("type"), values) or "",
                required=_text(told.get("required"), values) == "True",
                platforms=frozenset() if everywhere == _SYSTEMS else everywhere,
                accepted=self._accepted(told.get("type")),
            )

    def _accepted(self, node: ast.expr | None) -> Accepted | None:
        """Read the values that a checking function compares its argument with."""
        function = self.scope.functions.get(node.id) if isinstance(node, ast.Name) else None
        if function is None or not function.args.args:
            return None
        return _compared(function)


def _compared(function: ast.FunctionDef) -> Accepted | None:
    asked = function.args.args[0].arg
    lists: dict[str, Any] = dict(_assigned(function))
    values: list[str] = []
    prefixes: list[str] = []
    devices: list[str] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            known, held = _literal(node.comparators[0], lists)
            if known and isinstance(held, list | tuple) and isinstance(node.left, ast.Name):
                (values if node.left.id == asked else devices).extend(map(str, held))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            known, held = _literal(node.args[0], lists) if node.args else (False, None)
            marks = held if isinstance(held, tuple) else (held,)
            prefixes += [mark[:-1] for mark in marks if known and isinstance(mark, str) and mark.endswith(":")]
    if not values:
        return None
    once = [tuple(dict.fromkeys(each)) for each in (values, prefixes, devices)]
    return Accepted(once[0], once[1], once[2])


def _assigned(function: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            known, value = _literal(node.value, {})
            if known:
                yield node.targets[0].id, value


def _own_calls(node: ast.stmt) -> Iterator[ast.Call]:
    """Yield the calls of a statement in the order in which they stand."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    yield from sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _bound(target: ast.expr, item: Any) -> dict[str, Any]:
    if isinstance(target, ast.Name):
        return {target.id: item}
    if isinstance(target, ast.Tuple) and isinstance(item, list | tuple) and len(item) == len(target.elts):
        return {name.id: part for name, part in zip(target.elts, item, strict=True) if isinstance(name, ast.Name)}
    return {}


def _when(test: ast.expr, systems: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the systems on which a condition may hold, and on which it may not; any other condition may do both."""
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name):
        meant = _TESTS.get(test.func.id.lower())
        return (systems, systems) if meant is None else (systems & meant, systems - meant)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yes, no = _when(test.operand, systems)
        return no, yes
    if isinstance(test, ast.BoolOp):
        each = [_when(value, systems) for value in test.values]
        yeses, noes = [yes for yes, _ in each], [no for _, no in each]
        if isinstance(test.op, ast.And):
            return frozenset.intersection(*yeses), frozenset.union(*noes)
        return frozenset.union(*yeses), frozenset.intersection(*noes)
    return systems, systems


def _text(node: ast.expr | None, values: Mapping[str, Any]) -> str | None:
    if node is None:
        return None
    known, value = _literal(node, values)
    if not known:
        return ast.unparse(node)
    return None if value is None else str(value)


def _choices(node: ast.expr | None, values: Mapping[str, Any]) -> tuple[str, ...]:
    known, value = _literal(node, values) if node is not None else (False, None)
    return tuple(map(str, value)) if known and isinstance(value, list | tuple | set) else ()
