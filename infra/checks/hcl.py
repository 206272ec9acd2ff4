"""A Terraform file, evaluated for given variables without a cloud."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import hcl2
from lark import Token, Tree

Block = dict[str, Any]


class Unknown(str):
    """The address of a value that is known only after `terraform apply`."""

    __slots__ = ()


class Plan(NamedTuple):
    """What Terraform would create: bodies by address, without those with a count of 0."""

    settings: Block
    variables: dict[str, Block]
    resources: dict[str, Block]
    faults: list[str]


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "&&": lambda left, right: left and right,
    "||": lambda left, right: left or right,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "trimspace": lambda text: text.strip(),
    "trimprefix": lambda text, prefix: text.removeprefix(prefix),
}
KINDS = ("resource", "data", "module")
ADDRESSED = {"path", "each", "terraform"}  # other beginnings of a reference


def plan(text: str, given: Mapping[str, Any]) -> Plan:
    """Evaluate *text* with the variables *given*; others have their defaults.

    Faults: references to undeclared names, or to resources that these variables do not create.
    Raises: a lark error for invalid HCL, ValueError for what is not evaluated here.
    """
    found: dict[str, list[tuple[list[str], Tree[Token]]]] = {}
    for kind, labels, body in _blocks(_parse(text)):
        found.setdefault(kind, []).append((labels, body))
    variables = {labels[0]: _body(body, {}, []) for labels, body in found.get("variable", [])}
    values = {
        name: given.get(name, body.get("default", Unknown(f"var.{name}")))
        for name, body in variables.items()
    }
    used: list[str] = []
    resources: dict[str, Block] = {}
    declared: set[str] = set()
    for kind in KINDS:
        for labels, body in found.get(kind, []):
            address = ".".join([*([] if kind == "resource" else [kind]), *labels])
            declared.add(address)
            seen: list[str] = []
            made = _body(body, {"var": values}, seen)
            if made.get("count") != 0:
                resources[address] = made
                used += seen
    for _, body in found.get("output", []):
        _body(body, {"var": values}, used)
    faults = [*_dangling(used, values, declared, resources)]
    settings = [_body(body, {}, []) for _, body in found.get("terraform", [])]
    return Plan(settings[0] if settings else {}, variables, resources, faults)


@cache
def _parse(text: str) -> Tree[Token]:
    body: Tree[Token] = hcl2.parses_to_tree(text).children[0]
    return body


def _dangling(
    used: list[str], values: Block, declared: set[str], resources: Mapping[str, Block]
) -> Iterator[str]:
    for reference in sorted(set(used)):
        parts = reference.replace("[", ".").split(".")
        address = ".".join(parts[: 3 if parts[0] == "data" else 2])
        if parts[0] == "var" and parts[1] not in values:
            yield f"{reference}: there is no such variable"
        elif parts[0] in ADDRESSED | {"var"} or "[*]" in reference:
            continue
        elif address not in declared:
            yield f"{reference}: nothing of that name is declared"
        elif address not in resources:
            yield f"{reference}: it is not made, as its count is 0"


def _blocks(body: Tree[Token]) -> Iterator[tuple[str, list[str], Tree[Token]]]:
    for node in body.children:
        if isinstance(node, Tree) and node.data == "block":
            kind, *labels = [
                _text(child) for child in _trees(node) if child.data in ("identifier", "string")
            ]
            yield kind, labels, next(child for child in _trees(node) if child.data == "body")


def _body(body: Tree[Token], scope: Block, used: list[str]) -> Block:
    """Evaluate a block's arguments, and its nested blocks as lists of bodies by type."""
    made = _arguments(body, scope, used)
    for kind, labels, inner in _blocks(body):
        if kind != "dynamic":
            made.setdefault(kind, []).append(_body(inner, scope, used))
            continue
        content = next(part for name, _, part in _blocks(inner) if name == "content")
        for value in _arguments(inner, scope, used)["for_each"]:
            here = {**scope, labels[0]: {"value": value}}
            made.setdefault(labels[0], []).append(_body(content, here, used))
    return made


def _arguments(body: Tree[Token], scope: Block, used: list[str]) -> Block:
    made: Block = {}
    for node in _trees(body):
        if node.data == "attribute":
            name, value = _trees(node)
            waits = _text(name) == "depends_on"  # on resources that a count of 0 may remove
            made[_text(name)] = _value(value, scope, [] if waits else used)
    return made


def _value(node: Tree[Token], scope: Block, used: list[str]) -> Any:
    """Evaluate an expression."""
    parts = _trees(node)

    def of(part: Tree[Token]) -> Any:
        return _value(part, scope, used)

    match node.data:
        case "expr_term":
            return of(parts[0])
        case "int_lit" | "float_lit":
            return float(_text(node)) if "." in _text(node) else int(_text(node))
        case "literal_value":
            return {"true": True, "false": False, "null": None}[_text(node)]
        case "string":
            return _string(parts, of)
        case "tuple":
            return [of(part) for part in parts]
        case "object":
            return dict(_pair(part, of) for part in parts)
        case "conditional":
            return of(parts[1] if of(parts[0]) else parts[2])
        case "unary_op":
            return not of(parts[0]) if "!" in node.children else -of(parts[0])
        case "binary_op":
            sign, right = _trees(parts[1])
            return OPERATORS[_text(sign)](of(parts[0]), of(right))
        case "function_call":
            return _call(parts, of)
        case _:
            return _reference(node, scope, used)


def _string(parts: list[Tree[Token]], of: Callable[[Tree[Token]], Any]) -> str:
    """Join a string's parts; a single unknown part stays unknown."""
    read = [of(_trees(inner[0])[0]) if (inner := _trees(part)) else _plain(part) for part in parts]
    if len(read) == 1 and isinstance(read[0], Unknown):
        return read[0]
    return "".join(f"${{{item}}}" if isinstance(item, Unknown) else str(item) for item in read)


def _pair(element: Tree[Token], of: Callable[[Tree[Token]], Any]) -> tuple[str, Any]:
    key, value = _trees(element)
    inner = _trees(_trees(key)[0])[0]
    return _text(inner) if inner.data == "identifier" else of(inner), of(value)


def _call(parts: list[Tree[Token]], of: Callable[[Tree[Token]], Any]) -> Any:
    name = _text(parts[0])
    given = [of(part) for part in _trees(parts[1])] if len(parts) > 1 else []
    if any(isinstance(value, Unknown) for value in given):
        return Unknown(f"{name}({', '.join(map(str, given))})")
    if name not in FUNCTIONS:
        raise ValueError(f"the function {name} is not evaluated here")
    return FUNCTIONS[name](*given)


def _reference(node: Tree[Token], scope: Block, used: list[str]) -> Any:
    """Look up a variable or the iterator of a dynamic block; others are known after apply."""
    address = _text(node)
    first, _, rest = address.partition(".")
    held = scope.get(first, {})
    if rest in held:
        return held[rest]
    used.append(address)
    return Unknown(address)


def _plain(part: Tree[Token]) -> str:
    text = "".join(map(str, part.children))
    return text.replace('\\"', '"').replace("\\n", "\n").replace("$${", "${")


def _trees(node: Tree[Token]) -> list[Tree[Token]]:
    return [
        child
        for child in node.children
        if isinstance(child, Tree) and child.data != "new_line_or_comment"
    ]


def _text(node: Tree[Token]) -> str:
    """Return the text of a node, without the quotes of a string."""
    return "".join(str(token) for token in node.scan_values(lambda _: True)).strip('" ')
