"""What each task is trained with on a user's data."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mmjax.errors import MmjaxError
from mmjax.inspection import sizes
from mmjax.inspection.draft import Draft, has_text

_OPTIM = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05, "b2": 0.98, "warmup_steps": 20}
_HEAD = {"hidden": (512,), "out_dim": 256, "dropout": 0.4, "hidden_dropout": 0.3, "members": 2}
# What a base learns from where somebody brings no pictures, or few.
_EMOJI = {"source": "emoji", "styles": ("openmoji",), "exclude_labels": ("flags", "component")}
_EMOJI_LOOP = sizes.schedule(1150, epochs=70)

# (settings, dotted name -> what it is in the size `tiny`)
Made: TypeAlias = tuple[dict[str, Any], dict[str, Any]]


def _contrastive(draft: Draft) -> Made:
    """Two heads over frozen towers."""
    loop = sizes.schedule(draft.train_rows, epochs=70)
    language = draft.languages[1]
    return _top(draft, "contrastive", _evals(draft, language)) | {
        "encoders": {
            "image": draft.encoder("image", "cls_mean"),
            "text": draft.encoder("text", "pooled", draft.columns(language)),
        },
        "pairs": draft.pairs(),
        **_two_heads(),
        "optim": _OPTIM,
        "train": loop.settings(),
    }, _tiny(loop)


def _two_heads() -> dict[str, Any]:
    loss = {"kind": "contrastive", "init_temperature": 0.07, "learn_temperature": True}
    return {"image_head": _HEAD, "text_head": _HEAD, "loss": loss}


def _language(draft: Draft) -> Made:
    """A base on the pictures, then a language adapter on parallel text."""
    added, known = draft.languages
    if draft.look.data.is_parallel:
        return _parallel_text(draft)
    if added == known:
        raise MmjaxError(
            f"the language to add is {added!r}, which the base knows already; name another: "
            f"--language CODE, one of the columns {list(draft.look.data.columns)}"
        )
    base, tiny = _contrastive(draft)
    loop = sizes.schedule(draft.train_rows, epochs=40)
    foreign = draft.encoder("foreign", "tokens", draft.columns(added))
    below = {k: base[k] for k in ("task", "encoders", "image_head", "text_head", "loss", "optim")}
    return _top(draft, "language", _evals(draft, added)) | {
        "encoders": {**base["encoders"], "foreign": foreign},
        "pairs": draft.pairs(),
        "base": {**below, "train": base["train"]},
        "parallel": {"sources": ("captions",), "limit": 0},
        "adapter": _adapter(draft),
        "loss": {"kind": "distill_mse"},
        "optim": {**_OPTIM, "weight_decay": 0.01, "warmup_steps": 30},
        "train": {**loop.settings(), "select": "cosine_to_base"},
        "variants": {"linear": {"adapter": {"kind": "linear"}}},
    }, _tiny(loop) | _below(tiny)


def _adapter(draft: Draft) -> dict[str, Any]:
    """A transformer layer needs some pairs to learn from."""
    if draft.train_rows < 1000:
        draft.notes.append(
            f"with {draft.train_rows} rows to learn from the adapter is two MLPs on the mean "
            "token, not a transformer layer"
        )
        return {"kind": "mlp", "width": 128, "num_heads": 2, "dropout": 0.2}
    return {"kind": "transformer", "width": 128, "num_layers": 1, "num_heads": 2, "dropout": 0.2}


def _parallel_text(draft: Draft) -> Made:
    """Without pictures: the emoji are the base, and held-out pairs choose the step."""
    loop = sizes.schedule(len(draft.rows), epochs=10, least=500)
    held = max(1, min(500, len(draft.rows) // 10))
    draft.notes.append(
        "there are no pictures, so the base is trained on emoji, and the report measures what "
        "emoji have names in; bring pictures with captions to measure this language"
    )
    encoders = {
        "image": draft.encoder("image", "cls_mean_deep") | {"image_size": 112},
        "text": draft.encoder("text", "pooled"),
    }
    foreign = draft.encoder("foreign", "tokens_deep", ["source"])
    settings = _top(draft, "language", ("retrieval", "zeroshot")) | {
        "languages": ("zh", "en"),
        "encoders": {**encoders, "foreign": foreign},
        "pairs": _EMOJI | {"test_fraction": sizes.TEST, "val_fraction": sizes.VAL},
        "base": _on_emoji(encoders),
        "parallel": {"sources": (draft.source,), "limit": 0, "val_pairs": held},
        "adapter": _adapter(draft),
        "loss": {"kind": "distill_mse"},
        "optim": {**_OPTIM, "weight_decay": 0.01, "warmup_steps": 30},
        "train": {**loop.settings(), "select": "cosine_to_base"},
    }
    return settings, _tiny(loop) | _below(_tiny(_EMOJI_LOOP))


def _on_emoji(encoders: Mapping[str, Any]) -> dict[str, Any]:
    base = {"task": "contrastive", "encoders": encoders, **_two_heads(), "optim": _OPTIM}
    return base | {"train": _EMOJI_LOOP.settings()}


def _projection(draft: Draft) -> Made:
    """Projectors towards the classes."""
    language = draft.languages[1]
    named = [
        c for c in draft.columns(language) if any(r.first.get(c) != r.label for r in draft.rows)
    ]
    encoders = {"image": draft.encoder("image", "cls_mean")}
    if named and all(has_text(row, language, language) for row in draft.rows):
        encoders["text"] = draft.encoder("text", "pooled", named)
    loop = sizes.schedule(draft.train_rows, epochs=50)
    pairs = draft.pairs()
    has_split = any(row.side for row in draft.rows)
    folds = 0 if has_split else sizes.folds_for(len(draft.rows))
    if folds:
        pairs = {k: v for k, v in pairs.items() if k != "test_fraction"} | {"folds": folds}
        draft.notes.append(
            f"{len(draft.rows)} rows are few: every one is tested once, in {folds} folds"
        )
    elif not has_split:
        pairs["stratify"] = True
    settings = _top(draft, "projection", ("probe",)) | {
        "encoders": encoders,
        "pairs": pairs,
        "projection": {
            "loss": "supcon",
            "mode": "single",
            "hidden": 256,
            "out_dim": 128,
            "dropout": 0.5,
            "standardize": True,
        },
        "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "constant"},
        "train": {**loop.settings(), "select": "none"},
    }
    if folds:
        settings["seeds"] = tuple(range(folds))
    return settings, _tiny(loop)


def _prompts(draft: Draft) -> Made:
    """Few-shot classification with a dual encoder."""
    train_share = draft.train_rows / len(draft.rows)
    trained = Counter(
        {k: max(1, int(n * train_share)) for k, n in Counter(r.label for r in draft.rows).items()}
    )
    shots = sizes.shots_for(trained)
    language = draft.languages[1]
    clip = draft.wanted.encoders.get("text") if not draft.wanted.base else None
    towers = {"image": draft.encoder("image", "cls_mean"), "text": draft.encoder("text", "pooled")}
    if clip is not None and clip == draft.wanted.encoders.get("image"):
        towers["image"]["output"] = "pooled"
        base: Any = None
    elif draft.wanted.base:
        base = draft.wanted.base
    else:
        base = _on_emoji(towers) | {"pairs": _EMOJI}
        draft.notes.append(
            "the base is trained on drawn emoji; for photographs take a CLIP, from the hub or a "
            "folder: mmjax new prompts --encoder image=hf:openai/clip-vit-base-patch16 "
            "--encoder text=hf:openai/clip-vit-base-patch16"
        )
    draft.notes.append(
        f"{shots} shots a class: the smallest class trains on {min(trained.values())} pictures"
    )
    pairs = draft.pairs()
    if not any(row.side for row in draft.rows):
        pairs["stratify"] = True
    templates = ("a photo of a {}.", "a close-up photo of a {}.", "a drawing of a {}.")
    loop = {"steps": 100, "batch_size": max(2, min(20, shots * len(trained)))}
    loop |= {"eval_every": 1000, "save_every": 1000, "keep": 1, "log_every": 20, "select": "none"}
    settings = _top(draft, "prompts", ("fewshot",)) | {
        "languages": (language, language),
        "encoders": towers,
        "pairs": pairs,
        "base": base,
        "prompts": {"method": "factorised", "template": templates[0], "templates": templates},
        "fewshot": {"shots": shots, "min_families": 1},
        "loss": {"kind": "contrastive"},
        "optim": {"name": "adamw", "lr": 2e-3, "warmup_steps": 5, "clip_norm": 1.0},
        "train": loop,
        "variants": {
            name: {"prompts": {"method": name}}
            for name in ("linear_probe", "tip_adapter", "task_residual", "clap")
        },
    }
    tiny: dict[str, Any] = {"seeds": (0,), "train.steps": 2}
    if isinstance(base, dict):
        tiny |= {"base.train.steps": 4, "base.train.batch_size": 32, "base.pairs.limit": 160}
    return settings, tiny


def _top(draft: Draft, task: str, evals: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": draft.wanted.name,
        "task": task,
        "seeds": sizes.seeds_for(len(draft.rows)),
        "languages": draft.languages,
        "evals": evals,
    }


def _evals(draft: Draft, language: str) -> tuple[str, ...]:
    """Classes are asked for where they have names in the language."""
    columns, evals = draft.columns(language), ["retrieval"]
    labels = {row.label for row in draft.rows if row.label}
    last = language == draft.languages[1]
    named = all(last or row.content.get(f"label_{language}") for row in draft.rows if row.label)
    if len(labels) > 1 and all(row.label for row in draft.rows) and named:
        evals.append("zeroshot")
    texts = Counter(row.first.get(columns[0], "") for row in draft.rows) if columns else Counter()
    if texts and len(texts) < len(draft.rows) / 2:
        draft.notes.append(
            "most texts are shared by several pictures: a text that finds another of them counts "
            "as wrong, so retrieval figures are low by nature"
        )
    return tuple(evals)


def _tiny(loop: sizes.Schedule) -> dict[str, Any]:
    """A try: one seed and few steps."""
    few = {"steps": 4, "eval_every": 2, "save_every": 2, "log_every": 1}
    return {"seeds": (0,), **{f"train.{k}": min(v, loop.settings()[k]) for k, v in few.items()}}


def _below(tiny: Mapping[str, Any]) -> dict[str, Any]:
    """The same loop of the base."""
    return {f"base.{name}": value for name, value in tiny.items() if name.startswith("train.")}


# name -> (what it makes, how)
TASKS: Mapping[str, tuple[str, Callable[[Draft], Made]]] = {
    "language": ("Another language for pictures", _language),
    "contrastive": ("Pictures and texts in one space", _contrastive),
    "prompts": ("Few-shot classification", _prompts),
    "projection": ("Embeddings projected towards classes", _projection),
}
