"""Structured prompts: General | Domain | Instance, in the text tower or over cached prompts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.losses.distill import unit

PyTree = Any
# (frozen, token vectors [n l d], ids [n l], mask [n l]) -> unit vectors of the joint space [n e]
EncodePrompts = Callable[[PyTree, Any, Any, Any], Float[Array, "n e"]]
Known = Mapping[str, Array]  # what is known of the classes; see `mmjax.tasks.prompts.data.know`
Scored = tuple[Float[Array, "b c"], Float[Array, ""]]  # logits, penalty
STD = 0.02  # of learnt vectors that start from no word; CoOp's


class VisualGuidedAttention(nn.Module):
    """What a picture's patches add to learnt queries; nothing before training.

    Attributes:
      width: of queries, keys and values.

    Source: the zero-initialised gate is that of LLaMA-Adapter (arXiv 2303.16199), equation 6.
    """

    width: int

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "n d"],
        patches: Float[Array, "b l p"],
        mask: Bool[Array, "b l"],
    ) -> Float[Array, "b n d"]:
        """The gate times softmax(LN(Q) Wq (LN(X) Wk)^T / sqrt(width)) LN(X) Wv Wo.

        Args:
          queries: learnt ones, shared by all pictures.
          patches: of each picture.
          mask: true at patches.

        Returns:
          What is added to the queries, for each picture.
        """

        def project(name: str, width: int) -> nn.Dense:
            return nn.Dense(width, use_bias=False, name=name)

        x = nn.LayerNorm(name="patches_norm")(patches)
        query = project("query", self.width)(nn.LayerNorm(name="queries_norm")(queries))
        key, value = project("key", self.width)(x), project("value", self.width)(x)
        scores = jnp.einsum("nw,blw->bnl", query, key) / self.width**0.5
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
        mixed = jnp.einsum("bnl,blw->bnw", jax.nn.softmax(scores, axis=-1), value)
        gate = self.param("gate", nn.initializers.zeros, ())
        return gate * project("out", queries.shape[-1])(mixed)


class MetaNet(nn.Module):
    """A picture's embedding to a shift of all General tokens.

    Source: CoCoOp (Zhou et al., 2022), section 3.2: linear, ReLU, linear with a sixteenth between.
    """

    out_dim: int

    @nn.compact
    def __call__(self, image: Float[Array, "b e"]) -> Float[Array, "b d"]:
        """The shift of each picture."""
        hidden = nn.relu(nn.Dense(max(image.shape[-1] // 16, 1), name="down")(image))
        return nn.Dense(self.out_dim, name="up")(hidden)


def over_chunks(read: Callable[[Any], Float[Array, "k *rest"]], count: int, chunk: int) -> Any:
    """Reads rows a chunk at a time; the backward pass computes each chunk again.

    Args:
      read: numbers of rows [k] -> what is found for them, first axis k.
      count: rows in all.
      chunk: rows at a time, 0 for all at once. What a chunk needs in between is forgotten after it,
        forward and backward: memory grows with the chunk, not with `count`.

    Returns:
      What is found for all rows, first axis `count`.
    """
    if not chunk or chunk >= count:
        return read(jnp.arange(count))
    parts = -(-count // chunk)
    rows = jnp.minimum(jnp.arange(parts * chunk), count - 1).reshape(parts, chunk)
    outputs = jax.lax.map(jax.checkpoint(read, prevent_cse=False), rows)
    return outputs.reshape(parts * chunk, *outputs.shape[2:])[:count]


def put_in(
    known: Known, classes: Int[Array, " k"], learnt: Float[Array, "k s d"]
) -> Float[Array, "k l d"]:
    """The token vectors of some classes' prompts with learnt vectors in their places.

    Args:
      known: `embeddings` [c l d] of the words, `slots` [c l].
      classes: which prompts.
      learnt: the vectors for each of them; `slots` counts them.

    Returns:
      What the text tower reads.
    """
    slots = known["slots"][classes]
    taken = jnp.take_along_axis(learnt, jnp.maximum(slots, 0)[..., None], axis=1)
    return jnp.where(slots[..., None] >= 0, taken, known["embeddings"][classes])


@dataclass(frozen=True)
class InTowerPrompts:
    """Prompts through the frozen text tower: structured ones, CoOp's, CoCoOp's and KgCoOp's.

    Without anything of the picture in the prompt one pass a class is enough; else every pair of a
    picture and a class is a text of its own (the exact form).

    Attributes:
      encode: the text tower, from token vectors on.
      general: tokens shared by all classes.
      instance: tokens refined by the picture's patches.
      domain: whether names are read; else one learnt token a class.
      conditional: whether the picture shifts the General tokens (CoCoOp).
      anchor: weight of 1 - cosine to the hand-written prompts.
      chunk: prompts at a time; see `over_chunks`.

    Source: CoOp (arXiv 2109.01134) eq. 2-3, CoCoOp (2203.05557) eq. 3, KgCoOp (2303.13283) eq. 5.
    """

    encode: EncodePrompts
    general: int
    instance: int = 0
    domain: bool = True
    conditional: bool = False
    anchor: float = 0.0
    chunk: int = 0

    def init(self, key: Key[Array, ""], known: Known, inputs: Mapping[str, Array]) -> PyTree:
        """General tokens from `known["context"]`, the others small and random."""
        keys = jax.random.split(key, 4)
        width = known["embeddings"].shape[-1]
        trainable: dict[str, PyTree] = {}
        if self.general:
            trainable["general"] = known["context"]
        if self.instance:
            queries = STD * jax.random.normal(keys[0], (self.instance, width))
            attention = VisualGuidedAttention(width).init(
                keys[1], queries, inputs["patches"], inputs["patch_mask"]
            )
            trainable |= {"instance": queries, "attention": attention["params"]}
        if not self.domain:
            classes = len(known["slots"])
            trainable["names"] = STD * jax.random.normal(keys[2], (classes, 1, width))
        if self.conditional:
            trainable["meta"] = MetaNet(width).init(keys[3], inputs["features"])["params"]
        return trainable

    def _learnt(
        self, trainable: PyTree, inputs: Mapping[str, Array] | None
    ) -> Float[Array, "b s d"]:
        """General and Instance vectors of each picture; of one that is not there without inputs."""
        count = 1 if inputs is None else len(inputs["features"])
        parts = []
        if self.general:
            general = jnp.repeat(trainable["general"][None], count, axis=0)
            if self.conditional and inputs is not None:
                meta = MetaNet(general.shape[-1])
                shift = meta.apply({"params": trainable["meta"]}, inputs["features"])
                general = general + shift[:, None]  # type: ignore[index]
            parts.append(general)
        if self.instance and inputs is not None:
            queries = trainable["instance"]
            update = VisualGuidedAttention(queries.shape[-1]).apply(
                {"params": trainable["attention"]}, queries, inputs["patches"], inputs["patch_mask"]
            )
            parts.append(queries[None] + update)
        return jnp.concatenate(parts, axis=1) if parts else jnp.zeros((count, 0, 1))

    def _read(
        self, trainable: PyTree, frozen: PyTree, classes: Int[Array, " k"], learnt: Any
    ) -> Float[Array, "k e"]:
        known = frozen["known"]
        if not self.domain:
            own = trainable["names"][classes]
            learnt = jnp.concatenate([learnt, own], axis=1) if learnt.shape[1] else own
        embeddings = put_in(known, classes, learnt)
        return self.encode(frozen, embeddings, known["ids"][classes], known["mask"][classes])

    def class_features(self, trainable: PyTree, frozen: PyTree) -> Float[Array, "c e"]:
        """Unit vectors of the classes where nothing depends on the picture."""
        learnt = self._learnt(trainable, None)

        def read(classes: Int[Array, " k"]) -> Float[Array, "k e"]:
            return self._read(trainable, frozen, classes, jnp.repeat(learnt, len(classes), axis=0))

        return over_chunks(read, len(frozen["known"]["slots"]), self.chunk)

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Mapping[str, Array]) -> Scored:
        """exp(s) cos(v, T(P_c(x))) of every picture and class, and the anchor's penalty."""
        known, image = frozen["known"], inputs["features"]
        scale, count = jnp.exp(known["logit_scale"]), len(known["slots"])
        if not (self.instance or self.conditional):
            text = self.class_features(trainable, frozen)
            similarity = jnp.sum(text * known["text"], axis=-1)
            return scale * image @ text.T, self.anchor * (1 - similarity.mean())
        learnt = self._learnt(trainable, inputs)

        def read(pairs: Int[Array, " k"]) -> Float[Array, "k 2"]:
            picture, label = pairs // count, pairs % count
            text = self._read(trainable, frozen, label, learnt[picture])
            cosines = (text * image[picture]).sum(-1), (text * known["text"][label]).sum(-1)
            return jnp.stack(cosines, axis=-1)

        cosine, similarity = over_chunks(read, len(image) * count, self.chunk).T
        return scale * cosine.reshape(len(image), count), self.anchor * (1 - similarity.mean())


@dataclass(frozen=True)
class FactorisedPrompts:
    """Several hand-written prompts a class, encoded once; the picture says how they are mixed.

    General: the prompts' shares, the same for all classes. Domain: a residual of every class.
    Instance: queries refined by the patches point at prompts. Every one of them starts as nothing,
    so that training begins at the mean prompt. No text is encoded in a step.

    Attributes:
      general: whether the shares are learnt.
      domain: whether the residuals are.
      instance: queries; 0 leaves the picture out.
      width: of the attention over patches.
      alpha: scale of the residuals.

    Source: the residual is that of TaskRes (arXiv 2211.10277), equation 5.
    """

    general: bool
    domain: bool
    instance: int
    width: int
    alpha: float

    def init(self, key: Key[Array, ""], known: Known, inputs: Mapping[str, Array]) -> PyTree:
        """Shares and residuals of zero; random queries and keys behind a closed gate."""
        classes, prompts, width = known["prompts"].shape
        keys = jax.random.split(key, 3)
        trainable: dict[str, PyTree] = {}
        if self.general:
            trainable["shares"] = jnp.zeros((prompts,))
        if self.domain:
            trainable["residual"] = jnp.zeros((classes, width))
        if self.instance:
            queries = jax.random.normal(keys[0], (self.instance, self.width))
            attention = VisualGuidedAttention(self.width).init(
                keys[1], queries, inputs["patches"], inputs["patch_mask"]
            )
            trainable |= {"instance": queries, "attention": attention["params"]}
            trainable["prompt_keys"] = jax.random.normal(keys[2], (prompts, self.width))
        return trainable

    def score(self, trainable: PyTree, frozen: PyTree, inputs: Mapping[str, Array]) -> Scored:
        """exp(s) cos(v, sum_k a_k(x) t_ck + alpha r_c); no penalty."""
        known, image = frozen["known"], inputs["features"]
        shares = trainable.get("shares", jnp.zeros((known["prompts"].shape[1],)))[None]
        if self.instance:
            queries = trainable["instance"]
            update = VisualGuidedAttention(self.width).apply(
                {"params": trainable["attention"]}, queries, inputs["patches"], inputs["patch_mask"]
            )
            pointed = jnp.einsum("bnw,kw->bk", update, trainable["prompt_keys"])
            shares = shares + pointed / (self.instance * self.width**0.5)
        text = jnp.einsum("ak,cke->ace", jax.nn.softmax(shares, axis=-1), known["prompts"])
        if self.domain and "untrained" not in known:  # other classes have no residual
            text = text + self.alpha * trainable["residual"][None]
        text = jnp.broadcast_to(unit(text), (len(image), *text.shape[1:]))
        scale = jnp.exp(known["logit_scale"])
        return scale * jnp.einsum("be,bce->bc", image, text), jnp.zeros(())
