"""LoRA beside live PEFT: the same adapter files give the same logits, in both directions."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import trees
from mmjax.adapters.dora import DoRA
from mmjax.adapters.hooks import LayerAdapter
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.lora import Lora
from mmjax.encoders import LanguageModel, load_encoder
from mmjax.interop.peft import export_lora, import_lora
from tests.parity.small import randomize

pytestmark = [
    pytest.mark.parity,
    # PEFT reads what transformers 5 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SIZES: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
SIZES |= {"intermediate_size": 80, "vocab_size": 60, "num_key_value_heads": 2}
IDS = np.random.default_rng(0).integers(4, 60, (3, 9))


@pytest.fixture
def base(tmp_path, write_tokenizer) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "base"
    randomize(LlamaForCausalLM(LlamaConfig(**SIZES))).save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def torch_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(IDS)).logits.numpy()


def our_logits(model: LanguageModel, lora: LayerAdapter, adapters: Any) -> np.ndarray:
    inputs = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    return np.asarray(jax.jit(model.with_hook(lora).logits)(model.params, inputs, adapters))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "k_proj", "down_proj"]])
def test_files_of_peft_and_files_for_peft(targets, base, tmp_path):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    plain = LlamaForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    adapted: Any = get_peft_model(plain, config)
    adapted.save_pretrained(tmp_path / "theirs")
    model = load_encoder(base)
    assert isinstance(model, LanguageModel)
    lora, adapters = import_lora(tmp_path / "theirs", model.params["layers"])
    expected = torch_logits(adapted)
    assert np.abs(our_logits(model, lora, adapters) - expected).max() < 1e-5

    own = Lora(rank=2, alpha=3.0, targets=("query", "gate", "down"))
    random = np.random.default_rng(1)
    values = jax.tree.map(
        lambda x: random.standard_normal(x.shape).astype(np.float32) * 0.1,
        own.init(jax.random.key(0), model.params["layers"]),
    )
    export_lora(tmp_path / "ours", own, values, str(base))
    fresh: Any = LlamaForCausalLM.from_pretrained(base)
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "ours"))
    assert np.abs(our_logits(model, own, values) - torch_logits(loaded)).max() < 1e-5


def test_ia3_computes_as_peft_does(base):
    import torch
    from peft import IA3Config, get_peft_model
    from transformers import LlamaForCausalLM

    names = {"key": "k_proj", "value": "v_proj", "down": "down_proj"}
    plain = LlamaForCausalLM.from_pretrained(base)
    config = IA3Config(target_modules=list(names.values()), feedforward_modules=["down_proj"])
    adapted: Any = get_peft_model(plain, config)
    model = load_encoder(base)
    assert isinstance(model, LanguageModel)
    ia3 = IA3()
    adapters = ia3.init(jax.random.key(0), model.params["layers"])
    assert set(adapters) == set(names)
    random = np.random.default_rng(2)
    drawn = {place: random.uniform(0.5, 1.5, adapters[place]["scale"].shape) for place in names}
    tensors = dict(adapted.named_parameters())
    for place, values in drawn.items():
        part = "mlp" if place == "down" else "self_attn"
        for layer, vector in enumerate(values):
            name = f"base_model.model.model.layers.{layer}.{part}.{names[place]}.ia3_l.default"
            with torch.no_grad():
                tensors[name].copy_(torch.as_tensor(vector).reshape(tensors[name].shape))
    own = {place: {"scale": jnp.asarray(x, jnp.float32)} for place, x in drawn.items()}
    expected = torch_logits(adapted)
    assert np.abs(our_logits(model, ia3, own) - expected).max() < 1e-5
    assert np.abs(our_logits(model, ia3, adapters) - expected).max() > 1e-2
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == trees.count(own)


def test_dora_and_its_gradients_are_those_of_peft(base):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    plain = LlamaForCausalLM.from_pretrained(base)
    names = {"query": "self_attn.q_proj", "down": "mlp.down_proj"}
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        use_dora=True,
        init_lora_weights=False,
    )
    adapted: Any = get_peft_model(plain, config)
    tensors = dict(adapted.named_parameters())
    random = np.random.default_rng(3)
    model = load_encoder(base)
    assert isinstance(model, LanguageModel)
    dora = DoRA(rank=4, alpha=6.0, targets=tuple(names))
    own = dora.init(jax.random.key(0), model.params["layers"])
    layers = model.params["layers"]

    def theirs(place: str, layer: int, what: str) -> Any:
        return tensors[f"base_model.model.model.layers.{layer}.{names[place]}.lora_{what}"]

    for place in names:
        frozen = (layers["attention"] if place == "query" else layers)[place]["kernel"]
        lengths = np.linalg.norm(np.asarray(frozen), axis=1)
        magnitude = random.normal(0, 0.2, lengths.shape)
        kernels: dict[str, list[np.ndarray]] = {"down": [], "up": []}
        for layer in range(len(lengths)):
            with torch.no_grad():
                moved = torch.as_tensor(lengths[layer] + magnitude[layer])
                theirs(place, layer, "magnitude_vector.default.weight").copy_(moved)
            for name, what in (("down", "A"), ("up", "B")):
                weight = theirs(place, layer, f"{what}.default.weight")
                kernels[name].append(weight.detach().numpy().T)
        stacked = {name: {"kernel": jnp.asarray(np.stack(x))} for name, x in kernels.items()}
        own[place] = {**stacked, "magnitude": jnp.asarray(magnitude, jnp.float32)}

    inputs = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    hooked = model.with_hook(dora)

    @jax.jit
    def ours(adapters: Any) -> tuple[Any, Any]:
        logits = hooked.logits(model.params, inputs, adapters)
        return (logits**2).mean(), logits

    (_, logits), gradients = jax.value_and_grad(ours, has_aux=True)(own)
    found = adapted.eval()(torch.tensor(IDS)).logits
    assert np.abs(np.asarray(logits) - found.detach().numpy()).max() < 1e-5
    (found**2).mean().backward()
    for place, parts in gradients.items():
        for layer in range(len(parts["magnitude"])):
            for mine, what in (
                (parts["down"]["kernel"][layer].T, "A.default.weight"),
                (parts["up"]["kernel"][layer].T, "B.default.weight"),
                (parts["magnitude"][layer], "magnitude_vector.default.weight"),
            ):
                gradient = theirs(place, layer, what).grad.numpy()
                scale = np.abs(gradient).max()
                assert scale > 0
                assert np.abs(np.asarray(mine) - gradient).max() < 1e-4 * scale, (place, what)
