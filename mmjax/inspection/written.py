"""A recipe as a file: every setting of it, so that each can be changed there or by a flag."""

import json
import keyword
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 96


def recipe_file(
    title: str, paragraphs: Sequence[str], settings: Mapping[str, Any], tiny: Mapping[str, Any]
) -> str:
    """The text of a recipe's file.

    Args:
      title: first line of its docstring.
      paragraphs: the others.
      settings: of the recipe; `base.pairs` may be left out where it is the same as `pairs`.
      tiny: dotted name -> what it is in the size `tiny`.

    Returns:
      Python.
    """
    body = [title, *paragraphs]
    lines = ['"""' + "\n\n".join(_wrapped(part) for part in body), '"""', ""]
    lines += ["from typing import Any", "", "from ml_collections import ConfigDict", "", ""]
    lines += ['def get_config(size: str = "full") -> ConfigDict:']
    lines += ['    """The recipe; `size` is `full`, or `tiny` for a try in a minute."""']
    lines += ['    if size not in ("full", "tiny"):']
    lines += ["        raise ValueError(f\"size {size!r}; expected 'full' or 'tiny'\")"]
    lines += ["    config: Any = ConfigDict()"]
    for name, value in settings.items():
        lines += [f"    config.{name} = {_value(value, 4)}"]
        shares = isinstance(value, Mapping) and name == "base" and "pairs" not in value
        if shares:
            lines += ["    config.base.pairs = config.pairs  # one object: a flag changes both"]
    lines += ['    if size == "tiny":']
    lines += [f"        config.{name} = {_value(value, 8)}" for name, value in tiny.items()]
    return "\n".join([*lines, "    return config", ""])


def _wrapped(text: str) -> str:
    """A paragraph in lines; one that is made of lines stays as it is."""
    if "\n" in text:
        return text
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line]).replace('"""', "'''").replace("\\", "\\\\")


def _value(value: Any, indent: int) -> str:
    """A setting as Python, on one line where it fits."""
    if isinstance(value, Mapping):
        named = all(name.isidentifier() and not keyword.iskeyword(name) for name in value)
        parts = [
            f"{name}={_value(v, indent + 4)}" if named else f"{name!r}: {_value(v, indent + 4)}"
            for name, v in value.items()
        ]
        first, last = ("dict(", ")") if named else ("{", "}")
        line = f"{first}{', '.join(parts)}{last}"
        if len(line) + indent <= _WIDTH - 20 and "\n" not in line:
            return line
        inner = "".join(f"{' ' * (indent + 4)}{part},\n" for part in parts)
        return f"{first}\n{inner}{' ' * indent}{last}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        inner = ", ".join(_value(v, indent) for v in value)
        return f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)
