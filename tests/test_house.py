"""How mmjax is laid out: who imports whom, how long files are, and where tasks are asked for."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import mmjax

ROOT = Path(mmjax.__file__).parent
LONGEST_CHAIN = 14  # imports from the command to the deepest module
MOST_MODULES, MOST_LINES = 20, 400


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def parsed(name: str) -> ast.Module:
    """A module's statements."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imported(name: str, lazily: bool) -> set[str]:
    """The modules of the package that a module imports; for type checkers alone counts nothing."""

    def statements(node: ast.AST) -> Iterator[ast.stmt]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazily:
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from statements(other)
                continue
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child
            yield from statements(child)

    found = set()
    for statement in statements(parsed(name)):
        if isinstance(statement, ast.ImportFrom):
            whole = (f"{statement.module}.{alias.name}" for alias in statement.names)
            found |= {one if one in MODULES else str(statement.module) for one in whole}
        elif isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
    return (found & MODULES.keys()) - {name}


@functools.cache
def chain(name: str) -> tuple[str, ...]:
    """The longest chain of imports below a module; a circle has no end and fails."""
    below = (chain(other) for other in sorted(imported(name, lazily=name == "mmjax.main")))
    return name, *max(below, key=len, default=())


def test_a_stranger_gets_from_the_command_to_any_module_in_few_steps():
    # `main` imports jax and what needs it only once its flags are good: its own imports all count.
    found = chain("mmjax.main")
    assert len(found) - 1 <= LONGEST_CHAIN, " > ".join(found)


def test_no_module_imports_itself_by_a_detour():
    for name in MODULES:
        try:
            chain(name)
        except RecursionError:
            raise AssertionError(f"{name} is part of a circle, or stands above one") from None


def test_the_top_is_small_and_no_file_is_long():
    top = sorted(path.name for path in ROOT.glob("*.py") if path.name != "__init__.py")
    assert len(top) <= MOST_MODULES, top
    lines = {str(p.relative_to(ROOT)): p.read_text("utf-8").count("\n") for p in MODULES.values()}
    assert not {path: count for path, count in lines.items() if count > MOST_LINES}


def test_nobody_outside_tasks_asks_which_task_it_is():
    asks = re.compile(r"\.task (==|in|!=)|task_name ==")
    outside = (path for path in MODULES.values() if ROOT / "tasks" not in path.parents)
    found = [f"{path}: {line}" for path in outside for line in path.open() if asks.search(line)]
    assert not found


def test_every_public_class_has_a_name_of_its_own():
    places: dict[str, list[str]] = {}
    for name in MODULES:
        for statement in parsed(name).body:
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                places.setdefault(statement.name, []).append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}
