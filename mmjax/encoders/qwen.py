"""Qwen2, Qwen2.5, dense Qwen3 and Mistral: LLaMAs with other biases, norms and windows."""

from mmjax.encoders.family import Family
from mmjax.encoders.llama import IGNORED, Llama, heads, key_table, sharding
from mmjax.encoders.qwen_config import mistral_config, qwen2_config, qwen3_config

QWEN2 = Family("qwen2", "text", qwen2_config, Llama, key_table, IGNORED, sharding, heads=heads)
QWEN3 = Family("qwen3", "text", qwen3_config, Llama, key_table, IGNORED, sharding, heads=heads)
MISTRAL = Family(
    "mistral", "text", mistral_config, Llama, key_table, IGNORED, sharding, heads=heads
)
