"""Every kind that PEFT has, in every encoder that takes it, beside live PEFT and through its files.

PEFT's folder is read and says the same; one step of gradient descent of either says the same again;
what is written after that step says it in PEFT.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import optim, trees
from mmjax.adapters.dora import DoRA
from mmjax.adapters.ia3 import IA3
from mmjax.adapters.layer_norm import LayerNormTuning
from mmjax.adapters.lora import Lora
from mmjax.adapters.olora import OLoRA
from mmjax.adapters.pissa import PiSSA
from mmjax.adapters.prefix_tuning import PrefixTuning
from mmjax.adapters.prompt_tuning import PromptTuning
from mmjax.adapters.rslora import RsLora
from mmjax.adapters.vera import VeRA
from mmjax.encoders import Encoder, LanguageModel, load_encoder
from mmjax.interop.peft_folder import export_adapter, import_adapter
from tests.parity.peft_bases import (
    BASES,
    IDS,
    MASK,
    PIXELS,
    Base,
    torch_bert,
    torch_clip,
    torch_llama,
    torch_vit,
)
from tests.parity.small import randomize

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # norms
]

RATE = 0.05


def pattern(base: Base, places: list[str]) -> str:
    """Targets of one tower alone, as PEFT takes them."""
    inner = "|".join(base.maps[place] for place in places)
    tower = {"text": "text_model.*", "image": "vision_model.*"}.get(base.tower or "", "")
    return rf"(.*\.)?{tower}({inner})"


def low_rank(places: list[str], **more: Any) -> Callable[[Base], Any]:
    def make(base: Base) -> Any:
        from peft import LoraConfig

        target = pattern(base, places)
        return LoraConfig(r=3, lora_alpha=5, target_modules=target, init_lora_weights=False, **more)

    return make


def of_ia3(base: Base) -> Any:
    from peft import IA3Config

    last = list(base.maps)[-1]
    whole = pattern(base, ["key", "value", last])
    return IA3Config(target_modules=whole, feedforward_modules=pattern(base, [last]))


def of_vera(base: Base) -> Any:
    from peft import VeraConfig

    last = list(base.maps)[-1]
    return VeraConfig(r=4, target_modules=pattern(base, ["query", "value", last]))


def of_norms(base: Base) -> Any:
    from peft import LNTuningConfig

    tower = {"text": "text_model.*", "image": "vision_model.*"}.get(base.tower or "", "")
    return LNTuningConfig(target_modules=rf"(.*\.)?{tower}({'|'.join(base.norms)})")


def of_tokens(name: str) -> Callable[[Base], Any]:
    def make(base: Base) -> Any:
        import peft

        task = "CAUSAL_LM" if base is BASES["llama"] else "FEATURE_EXTRACTION"
        return getattr(peft, name)(task_type=task, num_virtual_tokens=3)

    return make


KINDS: dict[str, tuple[Callable[[Base], Any], type[Any]]] = {
    "lora": (low_rank(["query", "value"]), Lora),
    "rslora": (low_rank(["key", "value"], use_rslora=True), RsLora),
    "dora": (low_rank(["query", "value"], use_dora=True), DoRA),
    "ia3": (of_ia3, IA3),
    "vera": (of_vera, VeRA),
    "norms": (of_norms, LayerNormTuning),
    "prefix": (of_tokens("PrefixTuningConfig"), PrefixTuning),
    "prompt": (of_tokens("PromptTuningConfig"), PromptTuning),
}
# PEFT gives prefixes to what has a cache, prompts to what takes embeddings of words.
WHOLE = ("llama", "bert", "vit")
CELLS = [(base, kind) for base in WHOLE for kind in list(KINDS)[:6]]
# CLIP's towers are one kind of layer: each kind sits in one of them.
CELLS += [("clip's texts", kind) for kind in ("lora", "ia3", "norms")]
CELLS += [("clip's images", kind) for kind in ("rslora", "dora", "vera")]
CELLS += [("llama", "prefix"), ("llama", "prompt"), ("bert", "prompt")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_tokenizer) -> dict[str, Path]:
    from tests.conftest import PREPROCESSOR

    found: dict[str, Path] = {}
    for name in ("llama", "bert", "clip", "vit"):
        folder = found[name] = tmp_path_factory.mktemp(name)
        make = {"llama": torch_llama, "bert": torch_bert, "clip": torch_clip, "vit": torch_vit}
        randomize(make[name]()).save_pretrained(folder)
        write_tokenizer(folder / "tokenizer.json")
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return found


def folder_of(name: str, folders: dict[str, Path]) -> Path:
    return folders[name.partition("'")[0]]


def theirs(base: Base, folder: Path) -> Any:
    return type(base.make()).from_pretrained(folder).eval()


def moved(model: Any) -> Any:
    """Their adapter with random values: what is one at first stays near it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                around = 0.0 if "lora_A" in name or "lora_B" in name else parameter
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(around + 0.2 * noise)
    return model


def inputs_of(encoder: Encoder) -> dict[str, Any]:
    if encoder.modality == "image":
        return {"pixel_values": PIXELS}
    full = np.ones_like(IDS) if encoder.family == "clip" else MASK
    return {"input_ids": IDS, "attention_mask": full}


def ours(model: Encoder, name: str, params: Any, adapters: Any) -> Any:
    if isinstance(model, LanguageModel):
        return model.logits(params, inputs_of(model), adapters)
    found = model.apply(params, inputs_of(model), adapters)
    return found.pooled if name.startswith("clip") else found.tokens


def real(name: str, x: Any) -> Any:
    """What stands at real tokens: padding says nothing."""
    x = np.asarray(x)
    if name == "llama" or name == "bert":
        return x[:, -IDS.shape[1] :][MASK == 1]
    return x


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_files_values_and_a_step(name, kind, folders, tmp_path):
    import torch
    from peft import PeftModel, get_peft_model

    base, (configure, expected) = BASES[name], KINDS[kind]
    folder = folder_of(name, folders)
    adapted: Any = moved(get_peft_model(theirs(base, folder), configure(base)).eval())
    adapted.save_pretrained(tmp_path / "theirs")
    encoder = load_encoder(folder, tower=base.tower)
    found = import_adapter(tmp_path / "theirs", encoder, base.tower)
    assert type(found.adapter) is expected
    model = encoder.with_hook(found.adapter)
    adapters = jax.tree.map(jnp.asarray, found.adapters)
    count = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    learns = optim.trained(adapters)
    assert count == sum(
        x.size for x, on in zip(*map(jax.tree.leaves, (adapters, learns)), strict=True) if on
    )

    def weights(said: Any, xp: Any) -> Any:
        mask = MASK if name in ("llama", "bert") else np.ones(said.shape[:1])
        mask = mask.reshape(*mask.shape, *(1,) * (said.ndim - mask.ndim))
        return xp(np.broadcast_to(mask, said.shape).astype(np.float32))

    @jax.jit
    def step(adapters: Any) -> Any:
        def loss(adapters: Any) -> Any:
            said = ours(model, name, encoder.params, adapters)
            return (jnp.sin(said) * weights(said, jnp.asarray)).sum() / 10, said

        gradients, said = jax.grad(loss, has_aux=True)(adapters)
        return said, jax.tree.map(lambda x, g: x - RATE * g, adapters, gradients)

    def they_say() -> Any:
        said = base.says(adapted)
        return said[:, -IDS.shape[1] :] if name in ("llama", "bert") else said

    said, after = step(adapters)
    first = they_say()
    assert np.abs(real(name, said) - real(name, first.detach())).max() < 1e-5
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], RATE)
    ((torch.sin(first) * weights(first, torch.tensor)).sum() / 10).backward()
    optimizer.step()
    with torch.no_grad():
        second = they_say()
    assert (first - second).abs().max() > 1e-3
    again, _ = step(after)
    assert np.abs(real(name, again) - real(name, second)).max() < 2e-5

    export_adapter(
        tmp_path / "ours",
        found.adapter,
        jax.device_get(after),
        encoder,
        base.tower,
        base=str(folder),
    )
    loaded: Any = PeftModel.from_pretrained(theirs(base, folder), str(tmp_path / "ours")).eval()
    with torch.no_grad():
        said = base.says(loaded)
    assert np.abs(real(name, said) - real(name, second)).max() < 2e-5


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_initial_values_are_those_of_peft(kind, folders, tmp_path):
    """And a trained one is written as a plain LoRA of twice the rank."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    folder, base = folders["llama"], BASES["llama"]
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=kind)
    adapted: Any = get_peft_model(theirs(base, folder), config).eval()
    encoder = load_encoder(folder)
    assert isinstance(encoder, LanguageModel)
    made = {"pissa": PiSSA, "olora": OLoRA}[kind](3, 6.0, targets=("query", "down"))
    adapters: Any = made.init(jax.random.key(0), encoder.params["layers"])
    for place, module in (("query", "self_attn.q_proj"), ("down", "mlp.down_proj")):
        one = adapted.get_submodule(f"base_model.model.model.layers.1.{module}")
        theirs_product = one.lora_B.default.weight @ one.lora_A.default.weight
        own = adapters[place]
        product = (own["down"]["kernel"] @ own["up"]["kernel"])[1].T
        assert np.abs(product - theirs_product.detach().numpy()).max() < 5e-5  # of two SVDs
        for name, weight in (("down", one.lora_A), ("up", one.lora_B)):
            values = np.abs(own[name]["kernel"][1].T)  # a singular vector has no sign
            assert np.abs(values - weight.default.weight.detach().abs().numpy()).max() < 1e-4
    random = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda x, learns: x + learns * random.normal(0, 0.1, x.shape).astype(np.float32),
        adapters,
        optim.trained(adapters),
    )
    export_adapter(tmp_path / "ours", made, adapters, encoder)
    loaded: Any = PeftModel.from_pretrained(theirs(base, folder), str(tmp_path / "ours")).eval()
    with torch.no_grad():
        expected = base.says(loaded)
    model = encoder.with_hook(made)
    said = jax.jit(model.logits)(encoder.params, inputs_of(encoder), adapters)
    assert np.abs(real("llama", said) - real("llama", expected)).max() < 2e-5


def test_lora_plus_takes_the_steps_of_peft():
    """Two learning rates: `optim.rates` of the factors that begin at zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    from mmjax.specs.spec import OptimSpec, RateSpec

    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(torch.nn.Linear(6, 5))
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["0"]))
    optimizer = create_loraplus_optimizer(
        adapted, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.1
    )
    layer = adapted.base_model.model[0]
    a, b = (getattr(layer, f"lora_{side}").default.weight for side in "AB")
    with torch.no_grad():
        b.copy_(torch.randn(b.shape))
    own = {
        "down": {"kernel": jnp.asarray(a.detach().numpy().T)[None]},
        "up": {"kernel": jnp.asarray(b.detach().numpy().T)[None]},
    }
    spec = OptimSpec(
        lr=1e-2,
        weight_decay=0.1,
        schedule="constant",
        rates=(RateSpec(parameters=".*up/kernel", factor=16.0),),
    )
    tx, _ = optim.make_optimizer(spec, own, 1)
    x = torch.randn(4, 6)
    (adapted(x) ** 2).sum().backward()
    gradients = {
        name: {"kernel": jnp.asarray(p.grad.numpy().T)[None]}
        for name, p in (("down", a), ("up", b))
    }
    updates, _ = tx.update(gradients, tx.init(own), own)
    optimizer.step()
    after: Any = optax.apply_updates(own, updates)
    for name, p in (("down", a), ("up", b)):
        assert np.abs(after[name]["kernel"][0].T - p.detach().numpy()).max() < 2e-6
    assert trees.count(own) == 2 * (6 + 5)


def test_modules_that_were_trained_whole_are_kept(folders, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    folder, base = folders["llama"], BASES["llama"]
    config = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False
    )
    adapted: Any = moved(get_peft_model(theirs(base, folder), config).eval())
    adapted.save_pretrained(tmp_path / "theirs")
    encoder = load_encoder(folder)
    found = import_adapter(tmp_path / "theirs", encoder)
    assert set(found.saved) == {"lm_head.weight"}
    export_adapter(tmp_path / "ours", found.adapter, found.adapters, encoder, saved=found.saved)
    loaded: Any = PeftModel.from_pretrained(theirs(base, folder), str(tmp_path / "ours")).eval()
    expected, said = (real("llama", base.says(m).detach()) for m in (adapted, loaded))
    assert np.abs(expected - said).max() < 1e-6
    plain = real("llama", base.says(theirs(base, folder)).detach())
    assert np.abs(expected - plain).max() > 1e-2
    whole = encoder.params | {"lm_head": {"kernel": jnp.asarray(found.saved["lm_head.weight"].T)}}
    model = encoder.with_hook(found.adapter)
    assert isinstance(model, LanguageModel)
    own = jax.jit(model.logits)(whole, inputs_of(model), found.adapters)
    assert np.abs(real("llama", own) - expected).max() < 1e-5
