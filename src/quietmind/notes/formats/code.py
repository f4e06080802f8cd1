"""Source code by its definitions: a class, function or method is a section, its comments above it included.

tree-sitter parses it; its lines are those of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from quietmind.base.errors import NotesError
from quietmind.notes.document import Block, Form, Section
from quietmind.notes.formats import GRAMMARS
from quietmind.notes.formats.rendered import Rendered, own_lines

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

# The names that the grammars give to definitions; one that means something else in another grammar is not among them.
_HOLDERS = frozenset(
    {
        "abstract_class_declaration", "class", "class_declaration", "class_definition", "class_specifier",
        "enum_declaration", "impl_item", "interface_declaration", "internal_module", "mod_item", "module",
        "namespace_declaration", "namespace_definition", "record_declaration", "struct_declaration",
        "trait_declaration", "trait_item",
    }
)  # fmt: skip
_LEAVES = frozenset(
    {
        "constructor_declaration", "enum_item", "enum_specifier", "function_declaration", "function_definition",
        "function_item", "generator_function_declaration", "macro_definition", "method", "method_declaration",
        "method_definition", "singleton_method", "struct_item", "struct_specifier", "type_alias_declaration",
        "type_item", "type_spec", "variable_declarator",
    }
)  # fmt: skip
# Definitions stand in these, which are none themselves. A comment before one is of the definition in it.
_AROUND = frozenset(
    {
        "block", "body_statement", "class_body", "compound_statement", "declaration_list", "decorated_definition",
        "enum_body", "enum_body_declarations", "export_statement", "expression_statement", "field_declaration_list",
        "file_scoped_namespace_declaration", "if_statement", "interface_body", "lexical_declaration",
        "linkage_specification", "preproc_else", "preproc_if", "preproc_ifdef", "program", "statement_block",
        "template_declaration", "try_statement", "type_declaration",
    }
)  # fmt: skip
# What begins before the definition in it: decorators, export, template.
_WRAPS = frozenset(
    {"decorated_definition", "export_statement", "lexical_declaration", "template_declaration", "type_declaration"}
)
_ABOVE = frozenset({"attribute_item", "block_comment", "comment", "decorator", "line_comment"})
_FUNCTIONS = frozenset({"arrow_function", "function_expression", "generator_function"})
_NEED_BODY = frozenset({"struct_specifier", "enum_specifier", "class_specifier"})  # else they only name a type
_DEEPEST = 12  # definitions in each other
_LONGEST_NAME = 100
_LONGEST_MEAN = 300  # characters a line: past this it was written by a program


@dataclass(frozen=True)
class _Definition:
    """Lines of the file, comments above included, and the names of what is defined there, outermost first."""

    first_line: int
    last_line: int
    path: tuple[str, ...]


def read(data: bytes, ending: str) -> Rendered:
    """Return a file of source code. Raises NotesError when it is no text, or no one has written it."""
    lines, encoding, repairs = own_lines(data)
    size = sum(map(len, lines))
    if size > _LONGEST_MEAN * max(len(lines), 20):
        raise NotesError(f"is minified or made by a program: {size // max(len(lines), 1):,} characters a line")
    tree = _parser(ending).parse("\n".join(lines).encode("utf-8", "replace"))
    sections = list(_sections(_definitions(tree.root_node), len(lines)))
    return Rendered(
        lines=lines,
        sections=tuple(sections),
        blocks=tuple(block for section in sections for block in _blocks(lines, section)),
        encoding=encoding,
        repairs=repairs,
    )


@cache
def _parser(ending: str) -> Parser:
    import tree_sitter

    module, function = GRAMMARS[ending]
    return tree_sitter.Parser(tree_sitter.Language(getattr(import_module(module), function)()))


def _definitions(root: Node) -> list[_Definition]:
    """Return the definitions, each before those inside of it, in the order of their lines."""
    found: list[_Definition] = []
    waiting: list[tuple[Node, tuple[str, ...], int]] = [(root, (), 0)]  # the line of the comments above; 0 for none
    while waiting:
        parent, path, outer = waiting.pop()
        inner: list[tuple[Node, tuple[str, ...], int]] = []
        # The first line of the comments at hand, and where they end; one beside an opening brace is of no definition.
        above, last = outer, parent.start_point[0] + (parent is not root)
        for child in parent.named_children:
            first = child.start_point[0] + 1
            if child.type in _ABOVE:
                if not above or first > last + 1:
                    above = first if first > last else 0
            else:
                begun = above if first <= last + 1 else 0
                name = _name(child)
                if name is not None and len(path) < _DEEPEST:
                    found.append(_Definition(begun or first, child.end_point[0] + 1, (*path, name)))
                    if child.type in _HOLDERS:
                        inner.append((child, (*path, name), 0))
                elif child.type in _AROUND:
                    inner.append((child, path, (begun or first) if child.type in _WRAPS else 0))
                above = 0
            last = child.end_point[0] + 1
        waiting += inner
    return sorted(found, key=lambda each: (each.first_line, -each.last_line, len(each.path)))


def _name(node: Node) -> str | None:
    """Return what ``node`` defines, None where it defines nothing."""
    if node.type not in _HOLDERS and node.type not in _LEAVES:
        return None
    if node.type in _NEED_BODY and node.child_by_field_name("body") is None:
        return None
    if node.type == "variable_declarator":
        value = node.child_by_field_name("value")
        if value is None or value.type not in _FUNCTIONS:
            return None
    named: Node | None = node.child_by_field_name("type" if node.type == "impl_item" else "name")
    if named is None:
        named = node
        while (inner := named.child_by_field_name("declarator")) is not None:  # C: int *name(int), the name innermost
            named = inner
    if named is node or named.text is None:
        return None
    name = " ".join(named.text.decode("utf-8", "replace").split())
    return name[:_LONGEST_NAME] or None


def _sections(definitions: Sequence[_Definition], count: int) -> Iterator[Section]:
    """Yield sections without gaps: each definition, and what stands around those inside of it, by its own path."""
    following = 1
    open_: list[_Definition] = []

    def until(line: int) -> Iterator[Section]:
        """Yield what goes on up to, not including, ``line``."""
        nonlocal following
        while open_ and open_[-1].last_line < line:
            ended = open_.pop()
            if following <= ended.last_line:
                yield Section(following, ended.last_line, ended.path)
                following = ended.last_line + 1
        if following < line:
            yield Section(following, line - 1, open_[-1].path if open_ else ())
            following = line

    for each in definitions:
        if each.first_line < following or (open_ and each.first_line == open_[-1].first_line):
            continue  # begins on a line that is spoken for: several in one line
        yield from until(each.first_line)
        last = min(each.last_line, open_[-1].last_line if open_ else count, count)
        open_.append(_Definition(each.first_line, last, each.path))
    yield from until(count + 1)


def _blocks(lines: Sequence[str], section: Section) -> Iterator[Block]:
    """Yield the section as one block, to be cut after its blank lines; none where it is all blank."""
    said = [number for number in range(section.first_line, section.last_line + 1) if lines[number - 1].strip()]
    if said:
        cuts = tuple(two for one, two in itertools.pairwise(said) if two > one + 1)
        yield Block(said[0], said[-1], Form.CODE, cuts)
