"""Dataclass fields as griffe reads them: `metadata={"help": ...}` is as good as a docstring."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, Extension, ObjectNode


class FieldHelp(Extension):
    """Makes the help of PEFT's configuration fields their docstrings."""

    def on_attribute_instance(
        self, *, node: ast.AST | ObjectNode, attr: Attribute, **_: Any
    ) -> None:
        if not isinstance(node, ast.AnnAssign) or attr.docstring is not None:
            return
        for part in ast.walk(node):
            if isinstance(part, ast.Dict):
                for key, value in zip(part.keys, part.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "help":
                        attr.docstring = Docstring(ast.literal_eval(value), parent=attr)
