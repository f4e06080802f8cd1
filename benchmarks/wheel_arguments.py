"""The command line of an engine, read out of its wheel: options with the types and choices of their values.

Nothing of a wheel is run, since importing an engine takes its whole set of libraries. Its argument definitions are
parsed: vLLM makes options from the annotations of configuration classes (``get_kwargs`` in vllm/engine/arg_utils.py),
SGLang from annotated fields (``add_cli_args_from_dataclass`` in sglang/srt/arg_groups/arg_utils.py).
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Option:
    """What an option takes. ``kinds`` are of "int", "float", "str", "json", "size" (an int or 4k); none is a switch.

    ``choices`` empty: any value. ``many``: one value or more.
    """

    kinds: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()
    many: bool = False


Options = Mapping[str, Option]
_Found = tuple[set[str], tuple[str, ...], bool]  # kinds, choices, whether a list
_SWITCH = Option()
_TEXT = Option(frozenset({"str"}))


def refused(words: Sequence[str], options: Options, positional: int) -> list[str]:
    """Return what is wrong with a command line, nothing if the engine's parser would take it."""
    wrong: list[str] = []
    taken = 0
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") and not re.match(r"-[a-z]", word):
            taken += 1
            if taken > positional:
                wrong.append(f"{word}: one argument too many")
            continue
        name, equals, value = word.partition("=")
        option = options.get(name.replace("_", "-"))
        if option is None:
            wrong.append(f"{name}: no such option")
            while rest and not rest[0].startswith("-"):
                rest.pop(0)
            continue
        values = [value] if equals else []
        if option.kinds and not equals:
            while rest and not rest[0].startswith("--") and (option.many or not values):
                values.append(rest.pop(0))
        wrong += [f"{name} {value}: {reason}" for value in values if (reason := _refusal(value, option))]
        if bool(values) != bool(option.kinds):
            wrong.append(f"{name}: {'takes a value' if option.kinds else 'takes no value'}")
    return wrong


def _refusal(value: str, option: Option) -> str | None:
    if option.choices:
        return None if value in option.choices else f"not one of {', '.join(option.choices)}"
    return None if any(_reads(value, kind) for kind in option.kinds) else f"is no {' or '.join(sorted(option.kinds))}"


def _reads(value: str, kind: str) -> bool:
    try:
        match kind:
            case "int":
                int(value)
            case "float":
                float(value)
            case "json":
                json.loads(value)
            case "size":
                return re.fullmatch(r"-1|auto|\d+(\.\d+)?[kKmMgGtT]?", value) is not None
    except ValueError:
        return False
    return True


class Sources:
    """The Python files of a wheel whose paths begin with one of ``folders``: names and classes that they define."""

    def __init__(self, wheel: Path, folders: Sequence[str]) -> None:
        self.version = wheel.name.split("-")[1]
        self.aliases: dict[str, ast.expr] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.modules: dict[str, ast.Module] = {}
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".py") and name.startswith(tuple(folders)):
                    self.modules[name] = module = ast.parse(archive.read(name))
                    self._collect(module)

    def _collect(self, module: ast.Module) -> None:
        for statement in module.body:
            match statement:
                case ast.ClassDef(name=name):
                    self.classes.setdefault(name, statement)
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.aliases.setdefault(name, value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self.aliases.setdefault(name, value)

    def fields(self, class_name: str) -> dict[str, ast.expr]:
        """Return the annotations of a class and its bases, as far as they are in these files."""
        found: dict[str, ast.expr] = {}
        definition = self.classes.get(class_name)
        if definition is None:
            return found
        for base in definition.bases:
            if isinstance(base, ast.Name):
                found |= self.fields(base.id)
        for statement in definition.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found[statement.target.id] = statement.annotation
        return found

    def option(self, annotation: ast.expr, name: str = "") -> Option:
        """Return what a value of ``annotation`` is on a command line, by the rules of vLLM's ``get_kwargs``."""
        kinds, choices, many = self._kinds(annotation)
        if "bool" in kinds and kinds != {"bool", "str"}:
            return _SWITCH
        if choices:
            return Option(frozenset({"str"}), choices, many)  # known values, even where any text would be let in
        kinds = kinds & {"int", "float", "str", "json"} or {"str"}
        if name == "max_model_len" or (kinds == {"int"} and name.startswith("max_num_")) or name.endswith("_bytes"):
            kinds = {"size"}
        return Option(frozenset(kinds), (), many)

    def _kinds(self, node: ast.expr) -> _Found:
        """Return the kinds of an annotation, the choices of its literals, and whether it is a list."""
        found: _Found = ({"other"}, (), False)
        match node:
            case ast.BinOp(left=left, right=right, op=ast.BitOr()):
                found = self._joined(left, right)
            case ast.Constant(value=None):
                found = set(), (), False
            case ast.Constant(value=str(text)):
                found = self._kinds(ast.parse(text, mode="eval").body)
            case ast.Name(id="int" | "float" | "str" | "bool" as kind):
                found = {kind}, (), False
            case ast.Name(id="dict" | "Any" | "Callable") | ast.Attribute(attr="Any"):
                found = {"json", "str"}, (), False
            case ast.Name(id=name) if name in self.aliases:
                found = self._kinds(self.aliases[name])
            case ast.Name(id=name) if name in self.classes:
                found = {"json"}, (), False
            case ast.Subscript(value=ast.Name(id=name), slice=inner):
                found = self._subscripted(name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
        return found

    def _subscripted(self, name: str, inner: Sequence[ast.expr]) -> _Found:
        if name == "Literal":
            return set(), tuple(str(each.value) for each in inner if isinstance(each, ast.Constant)), False
        if name in ("dict", "Dict"):
            return {"json"}, (), False
        kinds, choices, many = self._joined(*inner)
        return kinds, choices, many or name in ("list", "List", "tuple", "set", "Sequence")

    def _joined(self, *nodes: ast.expr) -> _Found:
        found = [self._kinds(node) for node in nodes]
        return (
            set().union(*(kinds for kinds, _, _ in found)),
            tuple(choice for _, choices, _ in found for choice in choices),
            any(many for _, _, many in found),
        )


def vllm_options(wheel: Path) -> tuple[str, Options]:
    """Return the version of a vLLM wheel, and the options of its ``vllm serve``."""
    sources = Sources(wheel, ("vllm/config/", "vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py"))
    options: dict[str, Option] = {}
    for name, annotation in sources.fields("FrontendArgs").items():
        options |= _with_negation(f"--{name.replace('_', '-')}", sources.option(annotation, name))
    for path in ("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py"):
        for function in ast.walk(sources.modules[path]):
            if isinstance(function, ast.FunctionDef) and function.name in ("add_cli_args", "make_arg_parser"):
                options |= _vllm_arguments(sources, function)
    return sources.version, options


def _vllm_arguments(sources: Sources, function: ast.FunctionDef) -> dict[str, Option]:
    """Return the options that a function adds, most of them with ``**kwargs["field"]`` of a configuration class."""
    classes: dict[str, str] = {}
    options: dict[str, Option] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(
                targets=[ast.Name(id=variable)],
                value=ast.Call(func=ast.Name(id="get_kwargs"), args=[ast.Name(id=class_name)]),
            ):
                classes[variable] = class_name
    for call in ast.walk(function):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr != "add_argument":
            continue
        names = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        option = _explicit(call)
        for part in ast.walk(call):
            match part:
                case ast.Subscript(value=ast.Name(id=variable), slice=ast.Constant(value=str(field))) if (
                    variable in classes
                ):
                    option = sources.option(sources.fields(classes[variable])[field], field)
        for name in names:
            options |= _with_negation(name, option)
    return options


def _with_negation(name: str, option: Option) -> dict[str, Option]:
    """Return a switch with its ``--no-`` form (argparse.BooleanOptionalAction)."""
    if option.kinds or not name.startswith("--"):
        return {name: option}
    return {name: option, f"--no-{name[2:]}": option}


def _explicit(call: ast.Call) -> Option:
    """Return the option of an ``add_argument`` with its keywords written out."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    match keywords.get("action"):
        case ast.Constant(value="store_true" | "store_false"):
            return _SWITCH
        case ast.Attribute(attr="BooleanOptionalAction"):
            return _SWITCH
    match keywords.get("type"):
        case ast.Name(id="int" | "float" as kind):
            return Option(frozenset({kind}), (), "nargs" in keywords)
    return Option(frozenset({"str"}), (), "nargs" in keywords)


def sglang_options(wheel: Path) -> tuple[str, Options]:
    """Return the version of an SGLang wheel, and the options of its ``sglang.launch_server``."""
    sources = Sources(wheel, ("sglang/srt/arg_groups/", "sglang/srt/server_args.py"))
    options: dict[str, Option] = {"--config": _TEXT}
    for path, module in sources.modules.items():
        if path.startswith("sglang/srt/arg_groups/fields/"):
            for definition in module.body:
                if isinstance(definition, ast.ClassDef):
                    options |= dict(_sglang_fields(sources, definition))
    for call in ast.walk(sources.modules["sglang/srt/server_args.py"]):
        match call:
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=[ast.Constant(value=str(name)), *_]):
                options.setdefault(name, _explicit(call))
    return sources.version, options


def _sglang_fields(sources: Sources, definition: ast.ClassDef) -> Iterator[tuple[str, Option]]:
    for statement in definition.body:
        match statement:
            case ast.AnnAssign(
                target=ast.Name(id=field),
                annotation=ast.Subscript(value=ast.Name(id="A"), slice=ast.Tuple(elts=[kind, *details])),
            ):
                told = {
                    keyword.arg: keyword.value
                    for detail in details
                    if isinstance(detail, ast.Call)
                    for keyword in detail.keywords
                }
                option = sources.option(kind)
                if "type_parser" in told:
                    parser = ast.unparse(told["type_parser"])
                    option = Option(frozenset({"size" if "human_readable" in parser else "str"}))
                if "action" in told and option.kinds:
                    option = Option(option.kinds, (), many=True)
                choices = _choices(sources, told.get("choices"))
                yield from (
                    (name, Option(option.kinds, choices or option.choices, option.many or "nargs" in told))
                    for name in _names(sources, field, told)
                )


def _names(sources: Sources, field: str, told: Mapping[str | None, ast.expr]) -> list[str]:
    own = told.get("cli_name")
    names = [str(own.value) if isinstance(own, ast.Constant) else f"--{field.replace('_', '-')}"]
    return [*names, *_choices(sources, told.get("aliases"))]


def _choices(sources: Sources, node: ast.expr | None) -> tuple[str, ...]:
    """Return the texts of a list that is written out or named; none where it is computed."""
    if isinstance(node, ast.Name):
        node = sources.aliases.get(node.id)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return tuple(str(element.value) for element in node.elts if isinstance(element, ast.Constant))
    return ()
