"""BERTs with poolers and projections, RoBERTa and ViT, beside Hugging Face's torch classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmjax.encoders import bert_heads, load_encoder
from tests.parity import small

pytestmark = pytest.mark.parity


def folder_of(model: Any, folder: Path, write_tokenizer: Any) -> Path:
    """A small random model's folder."""
    return small.save(small.randomize(model), folder, write_tokenizer)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("Roberta", "cls"), ("Roberta", "pooler"), ("XLMRoberta", "pooler"), ("Bert", "pooler")],
)
def test_pooler_variants(kind, pooling, tmp_path, write_tokenizer):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**small.TEXT)
    model = getattr(transformers, f"{kind}Model")(config)
    folder_of(model, tmp_path, write_tokenizer)
    ids, mask = small.padded_ids(49, config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask}
    hidden, pooled = small.torch_outputs(model, None, **inputs)
    expected = pooled if pooling == "pooler" else hidden[:, 0]
    encoder = load_encoder(tmp_path, pooling=pooling)
    assert max(small.differences(encoder, hidden, expected, inputs)) <= small.TOLERANCE


def test_taiyi(tmp_path, write_tokenizer):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    labels: dict[str, Any] = {"num_labels": 24}
    model = BertForSequenceClassification(BertConfig(**small.TEXT, **labels))
    folder_of(model, tmp_path, write_tokenizer)
    ids, mask = small.padded_ids(49, 0)
    with torch.no_grad():
        output = model(torch.tensor(ids), torch.tensor(mask), output_hidden_states=True)
    hidden, pooled = output.hidden_states[-1].numpy(), output.logits.numpy()
    encoder = load_encoder(tmp_path, pooling="classifier")
    inputs = {"input_ids": ids, "attention_mask": mask}
    assert max(small.differences(encoder, hidden, pooled, inputs)) <= small.TOLERANCE
    assert encoder.embed_dim == 24


def test_m_clip(tmp_path, write_tokenizer, monkeypatch):
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    class MultilingualCLIP(torch.nn.Module):
        """What M-CLIP's package builds: a transformer, its mean token, a linear map."""

        def __init__(self) -> None:
            super().__init__()
            self.transformer = XLMRobertaModel(XLMRobertaConfig(**small.TEXT))
            self.LinearTransformation = torch.nn.Linear(32, 24)

    model: Any = small.randomize(MultilingualCLIP())
    sizes = model.transformer.config.to_dict()
    monkeypatch.setitem(bert_heads.M_CLIP_BASES, "xlm-roberta-large", sizes)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    config = {"model_type": "M-CLIP", "modelBase": "XLM-Roberta-Large", "numDims": 24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path / "tokenizer.json")
    ids, mask = small.padded_ids(49, 1)
    with torch.no_grad():
        states = model.transformer(torch.tensor(ids), torch.tensor(mask)).last_hidden_state
        weights = torch.tensor(mask)[..., None]
        pooled = model.LinearTransformation((states * weights).sum(1) / weights.sum(1))
    inputs = {"input_ids": ids, "attention_mask": mask}
    found = small.differences(load_encoder(tmp_path), states.numpy(), pooled.numpy(), inputs)
    assert max(found) <= small.TOLERANCE


@pytest.mark.parametrize("act", ["Tanh", "Identity"])
def test_dense_module_of_sentence_transformers(act, tmp_path, write_tokenizer):
    import torch
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**small.TEXT))
    folder_of(model, tmp_path, write_tokenizer)
    linear = small.randomize(torch.nn.Linear(32, 12, bias=act == "Tanh"))
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}" if i else ""}
        for i, kind in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for i, kind in ((1, "Pooling"), (2, "Dense")):
        (tmp_path / f"{i}_{kind}").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    torch.save({f"linear.{k}": v for k, v in linear.state_dict().items()}, tmp_path / "d.bin")
    (tmp_path / "d.bin").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    dense = {"out_features": 12, "bias": act == "Tanh"}
    dense["activation_function"] = f"torch.nn.modules.activation.{act}"
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(dense))
    encoder = load_encoder(tmp_path)
    batch = encoder.preprocess(["w5 w6 w7", "w8"])
    hidden, _ = small.torch_outputs(
        model, None, input_ids=batch.input_ids, attention_mask=batch.attention_mask
    )
    with torch.no_grad():
        pooled = getattr(torch.nn, act)()(linear(torch.tensor(hidden[:, 0])))
        expected = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    assert_allclose(encoder.embed_texts(["w5 w6 w7", "w8"]), expected, atol=small.TOLERANCE)


@pytest.mark.parametrize("side", [20, 28])
def test_vit(side, tmp_path, write_tokenizer):
    import torch
    from transformers import ViTConfig, ViTModel

    model: Any = ViTModel(ViTConfig(**small.VISION))
    folder_of(model, tmp_path, write_tokenizer)
    pixels = np.random.default_rng(2).standard_normal((2, side, side, 3), np.float32)
    with torch.no_grad():
        nchw = torch.tensor(pixels).permute(0, 3, 1, 2)
        hidden = model(nchw, interpolate_pos_encoding=True).last_hidden_state.numpy()
    encoder = load_encoder(tmp_path, image_size=side)
    inputs = {"pixel_values": pixels}
    assert max(small.differences(encoder, hidden, hidden[:, 0], inputs)) <= small.TOLERANCE


def test_pictures_are_prepared_as_for_vit_and_chinese_clip(tmp_path):
    from PIL import Image
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import (
        ChineseCLIPImageProcessorPil,
    )
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    from mmjax.encoders.image_preprocess import load_image_preprocess

    square: Any = {"size": {"height": 28, "width": 28}}
    picture = np.random.default_rng(0).integers(0, 255, (40, 61, 3), np.uint8)
    for processor in (
        ViTImageProcessorPil(**square),
        ChineseCLIPImageProcessorPil(**square, do_center_crop=False),
    ):
        processor.save_pretrained(tmp_path)
        path = tmp_path / "preprocessor_config.json"
        config = json.loads(path.read_text())
        # The names that published files have.
        config["image_processor_type"] = config["image_processor_type"].replace("Pil", "")
        path.write_text(json.dumps(config))
        expected: Any = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"]
        ours = load_image_preprocess(tmp_path, None)([picture])
        assert_allclose(ours.transpose(0, 3, 1, 2), expected, atol=1e-5)
