"""Pages of the site that are made from the code itself, for mkdocs, which calls `on_files`.

  make docs     # builds the site into site/

Settings, commands, recipes, encoders and adapters are read from where they are declared, so that no
page can say something else than the code.
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.commands import recipes
from mmjax.specs import bounds
from mmjax.specs.adapters import ADAPTERS
from mmjax.specs.recipe import BenchmarksSpec, CheckpointSpec, Recipe, WriterSpec
from mmjax.specs.spec import EncoderSpec, MeshSpec, Stage

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
_TOP = ("name", "seeds", "languages", "evals")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made.

    Args:
      files: mkdocs' files.
      config: of the site.

    Returns:
      The files.
    """
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    for source in sorted(NOTEBOOKS.glob("*.ipynb")):
        path = f"notebooks/{source.stem}.md"
        files.append(File.generated(config, path, content=notebook(source)))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """Names what the theme leaves without a name.

    Args:
      output: a page as it is written.

    Returns:
      The page.
    """
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"', 1)


def attributes(cls: type) -> dict[str, str]:
    """Field -> what a docstring's section `Attributes` says of it."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    descriptions: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        first = re.fullmatch(r"  (\w+): (.*)", line)
        if first is not None:
            name = first[1]
            descriptions[name] = first[2]
        elif line.startswith("    ") and name:
            descriptions[name] += f" {line.strip()}"
        elif line.strip():
            break  # another section
    return descriptions


def settings() -> str:
    """Every setting of a recipe."""
    descriptions = attributes(Recipe)
    lines = [
        "# Settings",
        "",
        "A recipe is a Python file whose `get_config()` returns these settings; every one that it "
        "names may be replaced on the command line: `--config.optim.lr=3e-4`. This page is made "
        "from the dataclasses that check them (`mmjax/specs/`).",
        "",
        "## A recipe",
        "",
        *_head(),
        *(
            f"| `{name}` | {_type(bounds.hints_of(Recipe)[name])} | | {descriptions[name]} |"
            for name in _TOP
        ),
        "| `base` | run folder, or a recipe | `None` | what the task stands on; see the guides |",
        "| `variants` | name -> changes | | baselines: stages with some settings changed |",
        "",
    ]
    sections: list[tuple[str, type]] = [("mesh", MeshSpec), ("checkpoint", CheckpointSpec)]
    sections += [("writer", WriterSpec), ("benchmarks", BenchmarksSpec)]
    sections += [("encoders.ROLE", EncoderSpec)]
    hints = bounds.hints_of(Stage)
    sections += [(n, typing.cast(type, h)) for n, h in hints.items() if dataclasses.is_dataclass(h)]
    for name, cls in sections:
        lines += _section(name, cls)
    return "\n".join(lines)


def _head() -> list[str]:
    return ["| setting | type | default | what it is |", "|---|---|---|---|"]


def _section(name: str, cls: type) -> Iterator[str]:
    """A table of a dataclass's fields, and those of what is within it."""
    descriptions, hints = attributes(cls), bounds.hints_of(cls)
    first = (cls.__doc__ or "").strip().splitlines()[0]
    yield from (f"## {name}", "", first, "", *_head())
    inner: list[tuple[str, type]] = []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            inner.append((f"{name}.{field.name}", hints[field.name]))
            continue
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        what = descriptions.get(field.name, "").replace("|", "\\|")
        yield f"| `{field.name}` | {_type(hints[field.name])} | {default} | {what} |"
    yield ""
    for place, nested in inner:
        yield from _section(place, nested)


def _type(hint: Any) -> str:
    """A type with its bounds, as people say it."""
    limits = bounds.of(hint)
    if limits is not None:
        kind = typing.get_args(hint)[0].__name__
        low = f"{'>' if limits.open_below else '>='} {limits.least:g}"
        also = "".join(f", or {x}" for x in limits.besides)
        return f"{kind} {low}{also}"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin is tuple:
        return f"several: {_type(args[0])}"
    if args and type(None) in args:
        return " or ".join([*(_type(a) for a in args if a is not type(None)), "`None`"])
    return getattr(hint, "__name__", str(hint)).replace("NoneType", "`None`")


def commands() -> str:
    """What each command takes."""
    from mmjax.commands import cli

    lines = ["# Commands", "", "```text", (cli.__doc__ or "").strip(), "```", ""]
    for _, module in cli.FLAGS.values():
        about = (importlib.import_module(module).__doc__ or "").strip()
        if f"## {module}" not in lines:
            lines += [f"## {module}", "", "```text", about, "```", ""]
    for name, module in cli.PROGRAMS.items():
        door = importlib.import_module(module)
        make = getattr(door, "parser", None)
        if make is None:
            about = (door.__doc__ or "").strip()
            lines += [f"## mmjax {name}", "", about, ""]
            continue
        parser: argparse.ArgumentParser = make()
        parser.prog = f"mmjax {name}"
        lines += [f"## mmjax {name}", "", "```text", parser.format_help().strip(), "```", ""]
    return "\n".join(lines)


def recipe_table() -> str:
    """Each recipe that mmjax brings, as its file describes itself."""
    lines = ["# Recipes", "", "`mmjax train NAME`; `NAME:tiny` is a try of minutes at most.", ""]
    for name in recipes.names():
        about = importlib.import_module(f"configs.{name}").__doc__ or ""
        first, _, rest = about.strip().partition("\n")
        lines += [f"## {name}", "", first, "", "```text", rest.strip("\n"), "```", ""]
    return "\n".join(lines)


def encoders() -> str:
    """The encoder families, as the catalog, the readers of files and the tests have them."""
    from mmjax.encoders.catalog import FAMILIES

    lines = [
        "# Encoders",
        "",
        "What `mmjax.load_encoder` and a recipe's `encoders.ROLE.source` take: a local folder in "
        "Hugging Face's layout, a file of weights beside its config, `asset:NAME`, or "
        "`hf:org/name`. `model_type` is what config.json says. Files are Hugging Face's, and what "
        "is named beside them. *Sizes* are those whose configs `mmjax plan` knows without a "
        "network. *Parity*: tests hold it to Hugging Face's torch model, 1e-5 in float32, by "
        "arrays that were kept (golden), beside torch itself, or both. "
        '`quantize="int8"` and `"nf4"` keep the dense kernels of every family.',
        "",
        "| model_type | what it is | reads | files beside | sizes | parity | adapters | tasks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sizes, golden = _known_sizes(), _golden_kinds()
    files = (ROOT / "tests" / "parity").glob("*.py")
    beside = _plain("\n".join(path.read_text("utf-8") for path in files))
    for name in FAMILIES.names():
        place = FAMILIES.own.get(name)
        module = place.partition(":")[0] if isinstance(place, str) else ""
        about = _first_line(module) if module else ""
        entry = FAMILIES.find(name, "encoders.family")
        family = entry if isinstance(entry, tuple) else (entry,)
        parity = ["golden"] * (name in golden) + ["torch"] * (_plain(name) in beside)
        cells = (
            *(f"`{name}`", f"{about} `{module}`", " and ".join(_reads(one) for one in family)),
            *(", ".join(_FILES.get(name, ())), ", ".join(sizes.get(name, ()))),
            *(", ".join(parity), _hooks(family[0]), _tasks(family)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


# Files that are no Hugging Face folder, by the family that reads them.
_FILES: Mapping[str, tuple[str, ...]] = {
    "clip": ("open_clip", "OpenAI's .pt"),
    "clip_resnet": ("open_clip", "OpenAI's .pt"),
    "chinese_clip": ("cn_clip's state dict",),
    "bert": ("sentence-transformers",),
    "xlm-roberta": ("sentence-transformers",),
    "llama": ("GGUF", "Meta's shards"),
    "qwen2": ("GGUF",),
    "qwen3": ("GGUF",),
}


def _plain(text: str) -> str:
    """A name as it is in a class of transformers and in model_type alike."""
    return re.sub(r"[^a-z0-9\n]", "", text.lower())


def _known_sizes() -> dict[str, list[str]]:
    """model_type -> published models whose configs come with the package."""
    known: dict[str, dict[str, Any]] = json.loads(
        (ROOT / "mmjax" / "plan" / "known.json").read_text("utf-8")
    )
    sizes: dict[str, list[str]] = {}
    for name, config in known.items():
        sizes.setdefault(config["model_type"], []).append(name)
    return sizes


def _golden_kinds() -> set[str]:
    """The model_types in the configs of kept arrays, towers' own among them."""
    import numpy as np

    kinds = set[str]()
    for path in (ROOT / "tests" / "goldens").glob("*.npz"):
        with np.load(path) as arrays:
            if "config" in arrays.files:
                kinds |= set(re.findall(r'"model_type": "([^"]+)"', str(arrays["config"])))
    return kinds


def _reads(family: Any) -> str:
    from mmjax.encoders.llava import ReadsPictures

    module = family.module
    if isinstance(module, type) and issubclass(module, ReadsPictures):
        return "texts about pictures"
    return {"text": "texts", "image": "pictures"}[family.modality]


def _hooks(family: Any) -> str:
    fields = getattr(family.module, "__dataclass_fields__", {})
    if "vision_hook" in fields:
        return "in both towers"
    return "in its layers" if "hook" in fields else ""


def _tasks(families: tuple[Any, ...]) -> str:
    from mmjax.encoders.llama import Llama
    from mmjax.encoders.llava import ReadsPictures
    from mmjax.encoders.vision import VisionTransformer

    modules = [one.module for one in families if isinstance(one.module, type)]
    if any(issubclass(module, (Llama, ReadsPictures)) for module in modules):
        return "instruct, synthesize"
    joint = "contrastive, domain, language, prompts, projection"
    seeing = any(issubclass(module, VisionTransformer) for module in modules)
    return f"{joint}, instruct" if seeing else joint


def adapters() -> str:
    """The adapters of frozen layers, with their settings."""
    lines = [
        "# Adapters",
        "",
        "Adapters sit in the frozen layers of any encoder. Each is a dataclass: its fields are its "
        "settings, in a recipe and in Python.",
        "",
    ]
    for name, place in ADAPTERS.items():
        module, _, cls = place.partition(":")
        kind = getattr(importlib.import_module(module), cls)
        lines += [f"## {name}", "", f"`{module}.{cls}`", ""]
        lines += [(kind.__doc__ or "").strip().splitlines()[0], ""]
        descriptions, hints = attributes(kind), typing.get_type_hints(kind, include_extras=True)
        lines += _head()
        for field in dataclasses.fields(kind):
            if field.name in ("parent", "name"):
                continue
            default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            what = descriptions.get(field.name, "").replace("|", "\\|")
            lines.append(f"| `{field.name}` | {_type(hints[field.name])} | {default} | {what} |")
        lines.append("")
    return "\n".join(lines)


def _first_line(module: str) -> str:
    doc = importlib.import_module(module).__doc__ or ""
    return doc.strip().splitlines()[0].replace("|", "\\|")


def notebook(source: Path) -> str:
    """An executed notebook as a page."""
    parts: list[str] = []
    for cell in json.loads(source.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        outputs = [o.get("text") or o.get("data", {}).get("text/plain") for o in cell["outputs"]]
        shown = "\n".join("".join(text).rstrip() for text in outputs if text)
        if shown:
            parts.append(f"```text\n{shown}\n```")
    return "\n\n".join(parts) + "\n"


def contributing() -> str:
    """CONTRIBUTING.md as a page."""
    return (ROOT / "CONTRIBUTING.md").read_text("utf-8")


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/commands.md": commands,
    "reference/recipes.md": recipe_table,
    "reference/encoders.md": encoders,
    "reference/adapters.md": adapters,
    "contributing.md": contributing,
}
