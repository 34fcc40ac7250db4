"""Adapters of frozen layers by name: the only list of them there is."""

from collections.abc import Mapping

# A recipe is read without what is trained: these are where `mmjax.adapters.catalog` finds them.
ADAPTERS: Mapping[str, str] = {
    "lora": "mmjax.adapters.lora:Lora",
    "rep_adapter": "mmjax.adapters.rep_adapter:RepAdapter",
    "dora": "mmjax.adapters.dora:DoRA",
    "ia3": "mmjax.adapters.ia3:IA3",
    "rslora": "mmjax.adapters.rslora:RsLora",
    "pissa": "mmjax.adapters.pissa:PiSSA",
    "olora": "mmjax.adapters.olora:OLoRA",
    "vera": "mmjax.adapters.vera:VeRA",
    "weights": "mmjax.adapters.weights:Weights",
    "full": "mmjax.adapters.full:Full",
    "bitfit": "mmjax.adapters.bitfit:BitFit",
    "layer_norm": "mmjax.adapters.layer_norm:LayerNormTuning",
    "ssf": "mmjax.adapters.ssf:SSF",
    "houlsby": "mmjax.adapters.houlsby:Houlsby",
    "pfeiffer": "mmjax.adapters.pfeiffer:Pfeiffer",
    "adaptformer": "mmjax.adapters.adaptformer:AdaptFormer",
    "prefix_tuning": "mmjax.adapters.prefix_tuning:PrefixTuning",
    "prompt_tuning": "mmjax.adapters.prompt_tuning:PromptTuning",
    "vpt": "mmjax.adapters.vpt:VPT",
}
