"""LaVIN in NumPy float64, written from the paper and its sheet of behaviour: slow and obvious.

Pictures are encoded in CLIP's own (length, batch, width) layout and sequences are assembled row by
row, as the original does. It shares no code with mmjax.
"""

from typing import Any

import numpy as np

Tree = Any
# What a model's config must say, for `rotate` to be its rotary positions.
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def float64(tree: Tree) -> Tree:
    if isinstance(tree, dict):
        return {name: float64(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float64)


def layer(tree: Tree, i: int) -> Tree:
    if isinstance(tree, dict):
        return {name: layer(leaf, i) for name, leaf in tree.items()}
    return tree[i]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def router_weights(p, first, temperature, half=False):
    """softmax((W x + b) / temperature) of [*b, d]."""
    w = softmax((first @ p["router"]["kernel"] + p["router"]["bias"]) / temperature)
    return w.astype(np.float16).astype(np.float64) if half else w


def rep_adapter(p, x, w, scale):
    """x [n, l, d]; w [n, 2], one pair of weights a first index."""
    h = x @ p["down"]["kernel"] + p["down"]["bias"]
    out = x.copy()
    groups = p["up"]["kernel"].shape[1]
    inner, outer = h.shape[-1] // groups, x.shape[-1] // groups
    for e in range(2):
        for g in range(groups):
            read = h[..., g * inner : (g + 1) * inner]
            kernel = p["up"]["kernel"][e, g]
            bias = p["up"]["bias"][e, g * outer : (g + 1) * outer]
            added = read @ kernel + bias
            out[..., g * outer : (g + 1) * outer] += scale * w[:, e, None, None] * added
    return out


def rms_norm(x, p, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * p["scale"]


def rotate(x, positions, theta):
    """Half-split rotary positions of [b, l, h, c]."""
    half = x.shape[-1] // 2
    angle = positions[:, :, None, None] / theta ** (np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def llama(params, config, adapters, x, temperature, scale=1.0, half=False, weights=None):
    """Hidden states after the last norm of embeddings [b, l, d] whose column 0 is the modality.

    Beside them the routing weights, [layers, b, 2]; with a block [layers, 2, b, 2], the weights of
    its second adapter read from what that adapter itself reads.
    """
    b, length, _ = x.shape
    may = np.tril(np.ones((length, length), bool))
    may[1:, 0] = False
    positions = np.broadcast_to(np.arange(length), (b, length))
    c, kv = config.head_dim, config.num_kv_heads
    table = []
    for i in range(config.num_layers):
        p, a = layer(params["layers"], i), layer(adapters, i)
        h = rms_norm(x, p["attention_norm"], config.rms_norm_eps)
        w = router_weights(a, h[:, 0], temperature, half) if weights is None else weights[i]
        used = [w]
        h = rep_adapter(a, h, w, scale)
        q, k, v = (
            (h @ p["attention"][n]["kernel"]).reshape(b, length, -1, c)
            for n in ("query", "key", "value")
        )
        q, k = rotate(q, positions, config.rope.theta), rotate(k, positions, config.rope.theta)
        k, v = (np.repeat(t, config.num_heads // kv, axis=2) for t in (k, v))
        scores = np.einsum("blhc,bmhc->bhlm", q, k) / np.sqrt(c)
        scores = np.where(may, scores, -np.inf)
        mixed = np.einsum("bhlm,bmhc->blhc", softmax(scores), v).reshape(b, length, -1)
        x = x + mixed @ p["attention"]["out"]["kernel"]
        h = rms_norm(x, p["mlp_norm"], config.rms_norm_eps)
        if "feed_forward" in a:
            second = a["feed_forward"]
            used.append(router_weights(second, h[:, 0], temperature, half))
            h = rep_adapter(second, h, used[1], scale)
        table.append(np.stack(used) if "feed_forward" in a else w)
        gate = h @ p["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ p["up"]["kernel"])) @ p["down"]["kernel"]
    return rms_norm(x, params["norm"], config.rms_norm_eps), np.stack(table)


def layer_norm(x, p, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return centred / spread * p["scale"] + p["bias"]


def clip_class_tokens(params, config, adapters, pixels, temperature, together, scale=1.0):
    """CLS of every layer's raw residual stream, [layers, b, d].

    together: the batch runs as one, in (length, batch, width) layout: the router then reads picture
    0 at each place. Otherwise every picture runs alone, and reads itself.
    """
    if not together:
        one = [
            clip_class_tokens(params, config, adapters, p[None], temperature, True, scale)
            for p in pixels
        ]
        return np.concatenate(one, axis=1)
    b, side, _, _ = pixels.shape
    p = config.patch_size
    n = side // p
    patches = pixels.reshape(b, n, p, n, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, n * n, -1)
    x = patches @ params["patch_kernel"].reshape(-1, config.hidden_size)
    cls = np.broadcast_to(params["cls_token"], (b, 1, config.hidden_size))
    x = np.concatenate([cls, x], axis=1) + params["position_embeddings"]
    x = layer_norm(x, params["pre_norm"], config.layer_norm_eps)
    x = x.transpose(1, 0, 2)  # length first, as CLIP runs
    taps = []
    for i in range(config.num_layers):
        q, a = layer(params["layers"], i), layer(adapters, i)
        h = layer_norm(x, q["norm1"], config.layer_norm_eps)
        h = rep_adapter(a, h, router_weights(a, h[:, 0], temperature), scale)
        length, _, d = h.shape
        parts = {
            name: (h @ q["attention"][name]["kernel"] + q["attention"][name]["bias"]).reshape(
                length, b, config.num_heads, -1
            )
            for name in ("query", "key", "value")
        }
        scores = np.einsum("lbhc,mbhc->bhlm", parts["query"], parts["key"])
        scores = softmax(scores / np.sqrt(d // config.num_heads))
        mixed = np.einsum("bhlm,mbhc->lbhc", scores, parts["value"]).reshape(length, b, d)
        x = x + mixed @ q["attention"]["out"]["kernel"] + q["attention"]["out"]["bias"]
        h = layer_norm(x, q["norm2"], config.layer_norm_eps)
        if "feed_forward" in a:
            second = a["feed_forward"]
            h = rep_adapter(second, h, router_weights(second, h[:, 0], temperature), scale)
        h = h @ q["fc1"]["kernel"] + q["fc1"]["bias"]
        h = h / (1 + np.exp(-1.702 * h))  # QuickGELU
        x = x + h @ q["fc2"]["kernel"] + q["fc2"]["bias"]
        taps.append(x[0])
    return np.stack(taps)


def project(p, taps):
    """[t, b, c] -> [b, t, d] through SiLU."""
    h = taps.transpose(1, 0, 2) @ p["down"]["kernel"] + p["down"]["bias"]
    return h / (1 + np.exp(-h)) @ p["up"]["kernel"] + p["up"]["bias"]


def sequence(table, modality, picture, bos, prefix, text):
    """One row: modality, BOS, the words "Image:", the picture's tokens, the text."""
    parts = [modality[None], table[[bos]], table[prefix]]
    parts += [] if picture is None else [picture]
    return np.concatenate([*parts, table[text]])


def loss(logits, ids, answer):
    """Mean over answer tokens of -log p(token at column c | columns before it)."""
    each = []
    for row, column in answer:
        scores = logits[row, column - 1]
        high = scores.max()
        each.append(high + np.log(np.exp(scores - high).sum()) - scores[ids[row][column]])
    return np.mean(each)
