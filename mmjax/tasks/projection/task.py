"""Supervised projection: small projectors bend frozen embeddings towards labels."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.adapters.projection import Projector
from mmjax.adapters.towers import begun, within
from mmjax.encoders.output import Batch, EmbedFn, Inputs, Tower
from mmjax.losses.contrastive import info_nce, pairwise_bce, supervised
from mmjax.losses.distill import unit
from mmjax.losses.pairs import PairLoss
from mmjax.metrics import mean_of
from mmjax.rng import DropoutKey
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.tasks.base import Loss
from mmjax.trees import PyTree

LABEL = "label"  # the role of class numbers
JOINED = "joined"  # of a single projector, which reads all modalities side by side
FUNCTIONS = {"image": "embed_images", "text": "embed_texts"}


def function_of(role: str) -> str:
    """What the published function is called that projects a modality."""
    return FUNCTIONS.get(role, f"embed_{role}")


@dataclass(frozen=True)
class ProjectionTask:
    """One projector for each tower, trained on which examples share a label.

    A batch holds every tower's role and `label`: {"label": class numbers}. Beside "features" a
    role may hold "present": False where an example lacks that modality, which then takes no part.
    The frozen tree holds the encoders that have an adapter, by role.

    Attributes:
      towers: role -> frozen tower; one alone, `joined`, where a single projector reads everything.
      spec: loss and sizes.
      mesh: the loss goes round its data axis; None leaves a sharded batch to the compiler.
      parts: role -> frozen tower, of those that `joined` puts side by side.

    Source: arXiv 2502.02048 (Margaritis, Petridis, Bertsimas, 2025); `supcon` and `infonce` are
      other losses in its place.
    """

    towers: Mapping[str, Tower]
    spec: ProjectionSpec
    mesh: Mesh | None = None
    parts: Mapping[str, Tower] = field(default_factory=dict[str, Tower])

    @property
    def encoders(self) -> Mapping[str, Tower]:
        """Role -> tower that may have an adapter."""
        return self.parts or self.towers

    def _projector(self) -> Projector:
        s = self.spec
        return Projector(s.hidden, s.out_dim, s.dropout, s.standardize)

    @property
    def normalize(self) -> bool:
        """Whether outputs are unit vectors."""
        setting = self.spec.normalize
        return self.spec.loss != "pairwise_bce" if setting is None else setting

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """Returns {role: projector}, and the encoders' adapters where they have some."""
        adapters = begun(self.encoders, key, frozen)
        frozen = within(frozen, adapters, self.encoders)
        keys = jax.random.split(key, len(self.towers))
        return adapters | {
            role: typed.init(self._projector(), k, self._features(role, frozen, batch[role]))
            for k, role in zip(keys, self.towers, strict=True)
        }

    def _features(self, role: str, frozen: PyTree, inputs: Inputs) -> Float[Array, "b d"]:
        if role != JOINED or "features" in inputs:
            read = {name: values for name, values in inputs.items() if name != "present"}
            return self.towers[role](frozen, read)["features"]
        features: list[Float[Array, "b d"]] = []
        for name, tower in self.parts.items():
            own = {
                k.removeprefix(f"{name}/"): x for k, x in inputs.items() if k.startswith(f"{name}/")
            }
            features.append(tower(frozen, own)["features"])
        return jnp.concatenate(features, axis=1)

    def project(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to its projection, of unit length or not; a key means dropout."""
        features = self._features(role, within(frozen, trainable, self.encoders, key), inputs)
        projected: Float[Array, "b e"]
        projected = typed.apply(self._projector(), trainable[role], features, key=key)
        return unit(projected) if self.normalize else projected

    def loss(self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]) -> Loss:
        """The sum over modalities (`infonce`: over pairs of them) of the loss on labels."""
        labels = batch[LABEL][LABEL]
        keys = jax.random.split(key, len(self.towers))
        projected, present = dict[str, Array](), dict[str, Array]()
        for role, sub in zip(self.towers, keys, strict=True):
            inputs = batch[role]
            present[role] = inputs.get("present", jnp.ones(len(labels), bool))
            projected[role] = self.project(role, trainable, frozen, inputs, sub)
        scale = -jnp.log(jnp.float32(self.spec.temperature))
        losses: list[tuple[Float[Array, ""], PairLoss]]
        if self.spec.loss == "infonce":
            losses = [
                info_nce(
                    projected[a],
                    projected[b],
                    scale,
                    positives=labels,
                    mask=present[a] & present[b],
                    mesh=self.mesh,
                )
                for a, b in itertools.combinations(projected, 2)
            ]
        else:
            compare = {"pairwise_bce": pairwise_bce, "supcon": supervised}[self.spec.loss]
            losses = [
                compare(z, None, scale, positives=labels, mask=present[role], mesh=self.mesh)
                for role, z in projected.items()
            ]
        metrics = {
            f"{self.spec.loss}_{number}": mean_of(pairs.loss, pairs.valid)
            for number, (_, pairs) in enumerate(losses)
        }
        return sum((value for value, _ in losses), start=jnp.zeros(())), metrics

    def functions(self) -> Mapping[str, EmbedFn]:
        """One for each tower: `embed_images`, `embed_texts`, `embed_NAME`, or `embed_joined`.

        Rows that lack the modality are 0.
        """

        def projecting(role: str) -> EmbedFn:
            def embed(trainable: PyTree, frozen: PyTree, inputs: Inputs) -> Float[Array, "b e"]:
                projected = self.project(role, trainable, frozen, inputs)
                if "present" not in inputs:
                    return projected
                return jnp.where(inputs["present"][:, None], projected, jnp.float32(0))

            return embed

        return {function_of(role): projecting(role) for role in self.towers}


def make_projection(stage: Stage, towers: Mapping[str, Tower], mesh: Mesh | None) -> ProjectionTask:
    """Builds the task of a `projection` stage.

    Args:
      stage: the recipe's stage.
      towers: role -> frozen tower.
      mesh: of the batches; the loss goes round its data axis.

    Returns:
      The task.
    """
    ring = mesh if mesh is not None and mesh.shape["data"] > 1 else None
    if stage.projection.mode != "single":
        return ProjectionTask(dict(towers), stage.projection, ring)
    joined = {JOINED: Tower(JOINED, sum(tower.width for tower in towers.values()))}
    return ProjectionTask(joined, stage.projection, ring, dict(towers))
