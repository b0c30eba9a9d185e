"""Reads the attributes of a model file without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file's docstring and the attributes of its class `HuggingAdapter`.

    Attributes:
        summary: the first paragraph of the docstring, in one line; "" where there is none.
        attributes: by name; those that need an import to evaluate are missing.
        unknown: names of attributes that need an import to evaluate.
    """

    summary: str
    attributes: dict[str, Any]
    unknown: frozenset[str]

    @property
    def model_name(self) -> str | None:
        """Hub id or local folder of the weights; None where the configuration names it."""
        name = self.attributes.get("model_name")
        return None if name is None else str(name)

    @property
    def task(self) -> str:
        """What the model does: "generate" or "embed"; "server" where a server does it."""
        if dict(self.attributes.get("defaults") or {}).get("backend") == "endpoint":
            return "server"
        return str(self.attributes.get("task", "generate"))

    @property
    def size(self) -> str | None:
        """The number of parameters that the docstring tells, as "1.7 B"."""
        found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?) ?([MB])\b", self.summary)
        return f"{found[1]} {found[2]}" if found else None


def read(path: Path) -> ModelFile:
    """Reads a model file.

    Raises:
        OSError, SyntaxError, ValueError: it cannot be read, or is no Python.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree) or ""
    attributes: dict[str, Any] = {}
    unknown = set()
    for name, value in _assignments(tree):
        try:
            # The file's own code, which loading the model would run as well.
            code = compile(ast.Expression(value), str(path), "eval")
            attributes[name] = eval(code, {"Path": Path, "__file__": str(path)})  # noqa: S307
        except Exception:  # It needs the names of an import, say.
            unknown.add(name)
    return ModelFile(docstring.split("\n\n")[0].replace("\n", " "), attributes, frozenset(unknown))


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "HuggingAdapter":
            for line in node.body:
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                    yield line.targets[0].id, line.value
                elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
                    yield line.target.id, line.value
