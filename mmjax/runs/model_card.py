"""The page beside an exported adapter: for people, and for the hub, which reads its first lines."""

import json
from collections.abc import Mapping
from typing import Any

from mmjax.runs.hub import PREFIX

NAME, CURVES = "README.md", "curves.png"
# Twenty lines that need NumPy alone; the page holds them, and a test runs them without mmjax.
READER = '''\
import json
import numpy as np

def read(path):
    """name -> array of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        data = file.read()
    kinds = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I32": np.int32}
    header.pop("__metadata__", None)
    arrays = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        kind = np.dtype(kinds[tensor["dtype"]]).newbyteorder("<")
        arrays[name] = np.frombuffer(data[begin:end], kind).reshape(tensor["shape"])
    return arrays

adapter = read("adapter.safetensors")
card = json.load(open("adapter_card.json", encoding="utf-8"))
assert sum(array.size for array in adapter.values()) == card["trainable"]["count"]
'''


def model_card(card: Mapping[str, Any], name: str = "", curves: bool = False) -> str:
    """The page.

    Args:
      card: the adapter's card.
      name: what the page calls the adapter; the recipe's name where it is empty.
      curves: whether a picture of the training lies beside it.

    Returns:
      Markdown behind a header in YAML.
    """
    stage, task = card["stage"], card["stage"]["task"]
    name = name or str(card["recipe"])
    sources = list(dict.fromkeys(str(e["source"]) for e in card["encoders"].values()))
    hub = [s.removeprefix(PREFIX).partition("@")[0] for s in sources if s.startswith(PREFIX)]
    head = ["library_name: mmjax", "tags:", *(f"- {t}" for t in ("mmjax", "adapter", _slug(task)))]
    if hub:
        head += ["base_model:", *(f"- {json.dumps(source)}" for source in hub)]
    spoken = [code for code in dict.fromkeys(card["languages"]) if code.isalpha()]
    if spoken:
        head += ["language:", *(f'- "{code}"' for code in spoken)]
    lines = ["---", *head, "---", "", f"# {_inline(name)}", ""]
    lines += [
        f"An adapter of the task `{_inline(task)}`, trained with mmjax: "
        f"{card['trainable']['count']:,} parameters on top of frozen models, which are not in this "
        f"folder. Seed {card['seed']}, step {card['step']} of {stage['train'].get('steps', '?')}.",
        "",
        "| frozen model | role | sha256 over its tensors |",
        "|---|---|---|",
        *(
            f"| `{_inline(str(e['source']))}` | {_inline(role)} | `{e['fingerprint']}` |"
            for role, e in card["encoders"].items()
        ),
        "",
    ]
    measured = {k: v for k, v in card["validation"].items() if isinstance(v, int | float)}
    if measured:
        lines += ["| on validation items | value |", "|---|---|"]
        lines += [f"| {_inline(k)} | {v:.4g} |" for k, v in measured.items()]
        lines += ["", "The step was chosen by these; the test's figures are in the report.", ""]
    if curves:
        lines += [f"![Loss and validation while training]({CURVES})", ""]
    lines += [
        "## Use it",
        "",
        "```python",
        "import mmjax",
        "",
        'adapted = mmjax.load_adapter("path/to/this/folder")',
        "```",
        "",
        "It loads only onto the weights in the table; their hashes are compared.",
        "",
        "## Read it without mmjax",
        "",
        "```python",
        READER.rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _inline(text: str) -> str:
    """A text of somebody's as a part of a line: it starts no markup, ends no table's cell."""
    return " ".join("".join(c for c in text if c not in "`|<>[]*#").split())


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text.rpartition(":")[2]).lower()
