"""An export's page: what it says, and that its own lines of NumPy read the adapter."""

import sys

import numpy as np
import pytest

from mmjax import trees
from mmjax.runs import model_card
from mmjax.runs.adapter_files import export_adapter, read_card, save_adapter

PARAMS = {"head": {"kernel": np.arange(4, dtype=np.float32).reshape(2, 2), "bias": np.ones(2, "f")}}


@pytest.fixture
def exported(tmp_path, whole_card):
    save_adapter(tmp_path / "adapter", PARAMS, whole_card())
    card = read_card(tmp_path / "adapter")
    export_adapter(tmp_path / "export", PARAMS, card)
    (tmp_path / "export" / "README.md").write_text(model_card.model_card(card))
    return tmp_path / "export"


def test_twenty_lines_of_numpy_read_it(exported, monkeypatch):
    page = (exported / "README.md").read_text()
    (_, code) = page.rsplit("```python\n", 1)
    monkeypatch.chdir(exported)
    for name in [m for m in sys.modules if m.partition(".")[0] in ("mmjax", "jax", "safetensors")]:
        monkeypatch.setitem(sys.modules, name, None)
    names: dict = {}
    exec(code.partition("```")[0], names)
    assert len(code.partition("```")[0].splitlines()) <= 24
    monkeypatch.undo()
    for path, leaf in trees.named_leaves(PARAMS):
        np.testing.assert_array_equal(names["adapter"][path], leaf)


def test_the_page_names_the_frozen_models_and_what_was_measured(whole_card):
    hub = {"source": "hf:org/clip@v1", "fingerprint": "a" * 64, "preprocess_fingerprint": "b" * 64}
    page = model_card.model_card(whole_card(encoders={"image": hub, "text": hub}))
    head, _, rest = page.removeprefix("---\n").partition("\n---\n")
    assert head.splitlines()[:2] == ["library_name: mmjax", "tags:"]
    assert 'base_model:\n- "org/clip"' in head
    assert '- "zh"' in head
    assert "a" * 64 in rest
    assert "| mR | 0.5 |" in rest


def test_names_of_others_start_no_markup(whole_card):
    page = model_card.model_card(whole_card(recipe="a\n# b <script> | [x](y)"))
    assert "# a b script" in page
    assert "<script>" not in page
