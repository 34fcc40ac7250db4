"""What a fresh clone and a built wheel promise: imports, commands, no traces."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest

import mmjax

PACKAGE = Path(mmjax.__file__).parent
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = {
    ".py",
    ".cfg",
    ".md",
    ".toml",
    ".yaml",
    ".sh",
    ".sbatch",
    ".j2",
    ".tsv",
    ".json",
    ".txt",
    ".ipynb",
}


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(extras=()):
    wanted = list(PROJECT["dependencies"])
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    return {_canonical(re.split(r"[\s\[<>=!~;]", entry, maxsplit=1)[0]) for entry in wanted}


def _imports(folder):
    """Yields (file, line, top-level package) of every absolute import, lazy ones too."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                yield path.relative_to(folder.parent), node.lineno, name.partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        (PACKAGE, ("tensorboard", "sklearn", "drawings", "synthesis", "check", "tracking", "app")),
        (ROOT / "benchmarks", ("bench", "sklearn")),
        (ROOT / "configs", ()),
        (ROOT / "tests", ("test", "parity", "browser")),
        (ROOT / "tools", ("test", "parity", "docs")),
    ],
    ids=["mmjax", "benchmarks", "configs", "tests", "tools"],
)
def test_every_import_is_declared(folder, extras):
    # A distribution that is not installed is taken to be called as its package is.
    distributions = packages_distributions()
    declared = _declared(extras)
    local = {"mmjax", "mmjax_toy", "benchmarks", "configs", "tests", "tools", "conftest"}
    missing = [
        f"{path}:{line}: {package}"
        for path, line, package in _imports(folder)
        if package not in sys.stdlib_module_names
        and package not in local
        and not {_canonical(name) for name in distributions.get(package, [package])} & declared
    ]
    assert not missing, f"not in pyproject.toml ({', '.join(('core', *extras))}): {missing}"


def test_every_declared_dependency_is_imported():
    distributions = packages_distributions()
    used = {
        _canonical(name)
        for folder in (PACKAGE, ROOT / "configs")
        for _, _, package in _imports(folder)
        for name in distributions.get(package, [package])
    }
    unused = _declared() - used
    assert not unused, f"nothing imports {sorted(unused)}"


def test_every_dependency_has_a_floor_and_a_ceiling():
    entries = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        entries += extra
    loose = [entry for entry in entries if not re.search(r"==|>=[^,]+,<", entry)]
    assert not loose


def test_import_is_light():
    # --help and the asset commands must answer at once: the heavy packages come on first use.
    code = (
        "import sys, mmjax, mmjax.errors, mmjax.progress, mmjax.assets, mmjax.chat\n"
        "import mmjax.app.command\n"
        "heavy = {'jax', 'flax', 'transformers', 'tensorflow_datasets', 'matplotlib', 'torch'}\n"
        "heavy.add('gradio')\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_annotations_are_checked_at_run_time():
    from mmjax.report.page import format_bytes

    with pytest.raises(Exception, match="Type-check error"):
        format_bytes("many")  # pyright: ignore[reportArgumentType]


def test_mesh_covers_eight_devices(mesh):
    assert mesh().shape == {"data": 8, "model": 1}
    assert mesh(2, 4).shape == {"data": 2, "model": 4}
    assert np.size(mesh(1).devices) == 1


def _files():
    """Every text file of the project that git would track, here without needing git."""
    skipped = {".git", "runs", "build", "dist", "site", "__pycache__", "node_modules"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if skipped & set(parts) or any(part.startswith(".venv") for part in parts):
            continue
        if any(part.endswith(("_cache", ".egg-info")) for part in parts) or not path.is_file():
            continue
        if path.suffix in TEXT or path.name in {"Makefile", "run", "NOTICE"}:
            yield path


def test_no_file_names_one_machine():
    # Put together here, so that this file does not name one itself.
    names = "|".join(("work", "root", "farm", "home/[a-z]", "Users/[a-z]", "tmp/[a-z]"))
    pattern = re.compile(rf"(?<![\w.~}}-])/(?:{names})(?:/|\b)")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


def test_files_end_in_one_newline():
    wrong = [
        str(path.relative_to(ROOT))
        for path in _files()
        if (text := path.read_text(encoding="utf-8"))
        and (not text.endswith("\n") or text.endswith("\n\n"))
    ]
    assert not wrong


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_documented_commands_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", _code(text))) <= targets
    for module in set(re.findall(r"python -m (mmjax[\w.]*)", text)):
        path = ROOT.joinpath(*module.split("."))
        # The wheel's own copy counts: these tests also run where the source folder is not.
        path = PACKAGE.parent.joinpath(*module.split(".")) if not path.exists() else path
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for config in set(re.findall(r"\bconfigs/\w+\.py\b", text)):
        assert (ROOT / config).exists(), config


def _code(text):
    """Returns what stands in code blocks and between backticks."""
    blocks = re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)
    return "\n".join(blocks)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    missing = [name for name in targets if "://" not in name and not (ROOT / name).exists()]
    assert not missing


def test_data_files_are_packaged():
    assert (PACKAGE / "report" / "templates" / "report.html.j2").is_file()
    assert (PACKAGE / "report" / "templates" / "report.md.j2").is_file()
    assert (PACKAGE / "data" / "builders" / "emoji.tsv").is_file()


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()]


def test_versions_agree():
    assert mmjax.__version__ == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert "language: system" in hooks  # the dev extra's own ruff and pyright, so one version
