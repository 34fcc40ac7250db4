"""Every Python snippet of the site runs as it stands, on small stand-ins for what it names.

A block behind `<!-- needs data -->` is read by Python, and not run: it shows files that only a
reader has.
"""

import ast
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmjax import assets

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(<!-- needs data -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = {
    page: BLOCK.findall(page.read_text("utf-8"))
    for page in sorted(DOCS.rglob("*.md"))
    if "```python" in page.read_text("utf-8")
}
RUN = [page for page, found in SNIPPETS.items() if not all(needs for needs, _ in found)]
TEMPLATE = "{% for m in messages %}w5 {{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, write_folder) -> dict[str, Path]:
    """Encoders of a few kilobytes in place of those that mmjax brings."""
    folder = tmp_path_factory.mktemp("stand_ins")
    names = {
        "dinov2-small": "dinov2_tiny",
        "minilm-l6": "bert_tiny",
        "smollm2-135m-instruct": "llama_tiny",
    }
    for name, kind in names.items():
        write_folder(folder / name, kind)
    (folder / "smollm2-135m-instruct" / "chat_template.jinja").write_text(TEMPLATE)
    return {name: folder / name for name in names}


def test_pages_are_found():
    assert len(RUN) >= 5
    for page, found in SNIPPETS.items():
        for _, code in found:
            ast.parse(code, str(page))


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_snippets_run(page, finished, toy, stand_ins, tmp_path, monkeypatch):
    real = assets.path
    monkeypatch.setattr(assets, "path", lambda name: stand_ins.get(name) or real(name))
    monkeypatch.setenv("MMJAX_CACHE", str(toy.cache))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in (1, 2):
        shutil.copyfile(toy.folder / f"{i:02d}.png", f"photos/{i:04d}.png")
    Path("runs").mkdir()
    Path("runs/language_emoji").symlink_to(finished.absolute(), target_is_directory=True)
    names = SimpleNamespace(__name__="__page__").__dict__
    for needs, code in SNIPPETS[page]:
        if not needs:
            exec(compile(code, str(page), "exec"), names)
