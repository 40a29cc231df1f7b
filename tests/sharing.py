"""Which names of graphsurgery a package reaches, read off its source: imports and uses, followed from name to name."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

Name = tuple[str, str]
"""A module, and what one of its own statements defines."""


@dataclass(frozen=True)
class Source:
    """Every module of the package in ``folder``, parsed; ``planted`` are more of them, by name."""

    folder: Path
    planted: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        found = {}
        for path in self.folder.rglob("*.py"):
            parts = path.relative_to(self.folder.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = parse(path.read_text(encoding="utf-8"))
        return found | {name: ast.parse(text) for name, text in self.planted.items()}

    @cached_property
    def defined(self) -> dict[Name, ast.stmt]:
        """Functions, classes and constants of every module."""
        return {
            (module, name): statement
            for module, tree in self.trees.items()
            for statement in tree.body
            for name in _defines(statement)
        }

    @cached_property
    def imported(self) -> dict[Name, Name]:
        """What a module calls a name of another module, and where it comes from."""
        package = self.folder.name
        return {
            (module, alias.asname or alias.name): (node.module, alias.name)
            for module, tree in self.trees.items()
            for node in _imports(tree)
            if node.module and node.module.split(".")[0] == package
            for alias in node.names
        }

    def resolved(self, module: str, name: str, attribute: str | None = None) -> Name | None:
        """Where a name that ``module`` uses is defined; ``attribute`` is what is taken of it, should it be a module."""
        if (module, name) in self.defined:
            return module, name
        origin = self.imported.get((module, name))
        if origin is None:
            return None
        whole = ".".join(origin)
        if whole in self.trees:
            return self.resolved(whole, attribute) if attribute is not None else None
        return self.resolved(*origin, attribute)

    def reached(self, package: str, doors: frozenset[Name] = frozenset()) -> set[Name]:
        """What the modules of ``package`` define and use, directly or through other names, but not through ``doors``."""
        todo = [one for one in self.defined if f"{one[0]}.".startswith(f"{package}.")]
        found: set[Name] = set()
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self._use(one) if one not in doors else ()
        return found

    def _use(self, one: Name) -> list[Name]:
        """What a name uses."""
        if one not in self._used:
            used = (self.resolved(one[0], *use) for use in _uses(self.defined[one]))
            self._used[one] = [name for name in used if name is not None]
        return self._used[one]

    @cached_property
    def _used(self) -> dict[Name, list[Name]]:
        return {}


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


@cache
def parse(text: str) -> ast.Module:
    """Parse a module once for all who ask."""
    return ast.parse(text)


@cache
def _imports(tree: ast.Module) -> tuple[ast.ImportFrom, ...]:
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))


@cache
def _uses(statement: ast.stmt) -> tuple[tuple[str, str | None], ...]:
    """Names that a statement uses, and attributes that it takes of names."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            found.append((node.id, None))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.append((node.value.id, node.attr))
    return tuple(found)
