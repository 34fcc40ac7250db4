"""What torch says of the assets' real weights, for tests/encoders/test_assets.py."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from mmjax import assets
from tools.make_goldens import GOLDENS, picture

TEXTS = {
    "minilm-l6": ["red apple", "This is an example sentence", "grinning face with big eyes", ""],
    "me5-small": ["红苹果", "red apple", "大笑的脸", "a dog, 一只狗"],
}


def write() -> None:
    """Writes all of them."""
    real_texts("minilm-l6")
    real_texts("me5-small")
    real_pictures()
    real_llama()


def real_texts(name: str) -> None:
    """Embeddings of a few texts by an asset's weights in torch, pooled by hand."""
    folder = str(assets.path(name))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    prefix = "query: " if name == "me5-small" else ""
    model: Any = AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS[name]:
        ids = torch.tensor([tokenizer.encode(prefix + text)])
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        rows.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0].numpy())
    path = GOLDENS / f"real_{name}.npz"
    np.savez_compressed(path, texts=np.array(TEXTS[name]), embeddings=np.stack(rows))


def real_llama() -> None:
    """Logits and a greedy answer of the SmolLM2 asset in torch."""
    folder = str(assets.path("smollm2-135m-instruct"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    tokenizer.chat_template = Path(folder, "chat_template.jinja").read_text("utf-8")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt: Any = tokenizer.apply_chat_template(
        question, tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer.encode(prompt)])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(ids).logits[0, -4:, ::16].numpy()
        out = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].numpy()
    path = GOLDENS / "real_smollm2-135m-instruct.npz"
    np.savez_compressed(path, prompt=ids[0].numpy(), logits=logits, answer=out)


def real_pictures() -> None:
    """Class tokens of two pictures by the DINOv2 asset in torch, at 224 and at 112 pixels."""
    folder = str(assets.path("dinov2-small"))
    model: Any = AutoModel.from_pretrained(folder).eval()
    images = [picture(160, 160, 0), picture(120, 200, 1)]
    arrays: dict[str, Any] = {"image_0": images[0], "image_1": images[1]}
    for side, short in ((224, 256), (112, 112)):
        processor = BitImageProcessorPil(
            size={"shortest_edge": short},
            crop_size={"height": side, "width": side},
            resample=3,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        out: Any = processor([Image.fromarray(x) for x in images], return_tensors="pt")
        with torch.no_grad():
            arrays[f"cls_{side}"] = model(out["pixel_values"]).last_hidden_state[:, 0].numpy()
    np.savez_compressed(GOLDENS / "real_dinov2-small.npz", **arrays)
