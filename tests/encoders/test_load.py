"""`load_encoder`: sources and misuse."""

import pytest

import mmjax
from mmjax.encoders import load_encoder
from mmjax.errors import MmjaxError


def test_public_name_and_what_an_encoder_knows(folder):
    encoder = mmjax.load_encoder(str(folder("bert_tiny")) + "/")
    assert (encoder.name, encoder.family, encoder.modality) == ("bert_tiny", "bert", "text")
    assert encoder.hidden_size == 32
    assert len(encoder.fingerprint) == 64
    assert "embedding" not in repr(encoder).split("config=")[0]  # no weights in the repr


def test_a_source_that_is_nothing(tmp_path):
    with pytest.raises(MmjaxError, match=r'is not a folder; give .* or "hf:ORG/NAME"'):
        load_encoder(str(tmp_path / "nothing"))
    with pytest.raises(MmjaxError, match=r"config\.json does not exist"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{,")
    with pytest.raises(MmjaxError, match=r"config\.json is not readable JSON"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(MmjaxError, match="holds a JSON list"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(MmjaxError, match=r"config\.json lacks 'hidden_size'"):
        load_encoder(str(tmp_path))


def test_the_hub_without_a_network_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("MMJAX_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MmjaxError, match="cannot get hf:no/such from the Hugging Face hub") as info:
        load_encoder("hf:no/such")
    assert "\n" not in str(info.value)


def test_arguments_of_the_other_modality(folder):
    with pytest.raises(MmjaxError, match=r"image_size is given, but .* is a text encoder"):
        load_encoder(folder("bert_tiny"), image_size=112)
    with pytest.raises(MmjaxError, match=r"pooling is given, but .* is a picture encoder"):
        load_encoder(folder("dinov2_tiny"), pooling="cls")
    with pytest.raises(MmjaxError, match="unknown pooling 'median'"):
        load_encoder(folder("bert_tiny"), pooling="median")
    with pytest.raises(MmjaxError, match="dtype float16 is not supported"):
        load_encoder(folder("bert_tiny"), dtype="float16")
