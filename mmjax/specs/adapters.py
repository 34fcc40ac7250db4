"""Adapters of frozen layers by name: the only list of them there is."""

from collections.abc import Mapping

# A recipe is read without what is trained: these are where `mmjax.adapters.catalog` finds them.
ADAPTERS: Mapping[str, str] = {
    "lora": "mmjax.adapters.lora:Lora",
    "rep_adapter": "mmjax.adapters.rep_adapter:RepAdapter",
    "dora": "mmjax.adapters.dora:DoRA",
    "ia3": "mmjax.adapters.ia3:IA3",
}
