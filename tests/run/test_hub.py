"""An adapter goes to a hub and comes back: to a stand-in that speaks the real one's API."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mmjax
from mmjax.commands import push
from mmjax.errors import MmjaxError
from mmjax.runs.hub import download
from tests.run.hub_server import Hub, serving

NAME = "somebody/toy-zh"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path, monkeypatch) as server:
        yield server


def test_what_is_pushed_loads_and_embeds_the_same(hub, finished, toy, cached, capsys):
    assert push.main([str(finished), NAME]) == 0
    assert f'mmjax.load_adapter("hf:{NAME}")' in capsys.readouterr().out
    there = hub.repos[NAME]
    assert set(there) >= {"adapter.safetensors", "adapter_card.json", "README.md", "curves.png"}
    assert {"base/adapter.safetensors", "base/adapter_card.json"} <= set(there)
    page = there["README.md"].decode()
    assert page.startswith("---\nlibrary_name: mmjax\ntags:\n- mmjax\n- adapter\n- language\n")
    assert f"# {NAME}" in page
    assert "![Loss and validation while training](curves.png)" in page
    assert there["curves.png"].startswith(b"\x89PNG")
    loaded = mmjax.load_adapter(f"hf:{NAME}", kind=mmjax.Adapted)
    mine = mmjax.load_adapter(finished, kind=mmjax.Adapted)
    np.testing.assert_array_equal(loaded.embed_texts(["w24 w34"]), mine.embed_texts(["w24 w34"]))
    assert not [path for path in hub.asked if path.endswith((".py", ".bin", ".pkl"))]


def test_all_that_a_chain_stands_on_comes_along_and_no_code(hub):
    links = ["", "base/", "base/base/", "base/base/base/"]
    names = ("adapter.safetensors", "adapter_card.json", "README.md")
    there = {f"{link}{name}" for link in links for name in names}
    hub.repos[NAME] = dict.fromkeys(there | {"code.py", "base/base/base/code.py"}, b"{}")
    folder = download(f"hf:{NAME}")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == there


def test_another_frozen_model_than_the_cards_is_refused(hub, finished, cached):
    push.main([str(finished), NAME])
    card = json.loads(hub.repos[NAME]["adapter_card.json"])
    card["encoders"]["foreign"]["fingerprint"] = "0" * 64
    hub.repos[NAME]["adapter_card.json"] = json.dumps(card).encode()
    with pytest.raises(MmjaxError, match="foreign"):
        mmjax.load_adapter(f"hf:{NAME}")


def test_what_is_not_there_and_who_may_not_write(hub, finished, monkeypatch):
    with pytest.raises(
        MmjaxError, match=r"cannot get hf:no/where from the Hugging Face hub: .*check the name"
    ):
        mmjax.load_adapter("hf:no/where")
    hub.repos["some/model"] = {"config.json": b"{}"}
    with pytest.raises(MmjaxError, match=r"hf:some/model holds no adapter_card\.json"):
        mmjax.load_adapter("hf:some/model")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(MmjaxError, match=r"cannot push to 'somebody/toy-zh': .*HF_TOKEN"):
        push.main([str(finished), NAME])
    assert NAME not in hub.repos
