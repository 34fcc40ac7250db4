"""Adapter cards for tests, with all that a card must say."""

from typing import Any


def whole_card(task: str = "contrastive", **changes: Any) -> dict[str, Any]:
    """An adapter's card; `save_adapter` writes its own `params` and `trainable`."""
    roles = {
        "language": ("image", "text", "foreign"),
        "instruct": ("image", "language"),
    }.get(task, ("image", "text"))
    train = {"instruct": {"select": "none", "cache_features": False}}.get(task, {})
    hashes = {"fingerprint": "1" * 64, "preprocess_fingerprint": "2" * 64}
    stands = {"path": "../base", "fingerprint": "3" * 64}
    return {
        "schema": 1,
        "recipe": "toy",
        "languages": ["zh", "en"],
        "seed": 0,
        "step": 4,
        "stage": {
            "name": task,
            "task": task,
            "encoders": {role: {"source": f"asset:{role}"} for role in roles},
            "train": train,
        },
        "encoders": {role: {"source": f"asset:{role}", **hashes} for role in roles},
        "validation": {"mR": 0.5},
        "base": stands if task == "language" else None,
        "params": "params-000004",
        "trainable": {"count": 6, "fingerprint": "4" * 64},
        **changes,
    }
