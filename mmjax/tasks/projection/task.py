"""Supervised projection: small projectors bend frozen embeddings towards labels."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.adapters.projection import Projector
from mmjax.encoders.output import Batch, EmbedFn, Inputs, Tower
from mmjax.losses.contrastive import info_nce, pairwise_bce, supervised
from mmjax.losses.distill import unit
from mmjax.losses.pairs import PairLoss
from mmjax.metrics import Metrics, mean_of
from mmjax.rng import DropoutKey
from mmjax.specs.projection import ProjectionSpec
from mmjax.specs.spec import Stage
from mmjax.tasks import typed
from mmjax.trees import PyTree

LABEL = "label"  # the role of class numbers
FUNCTIONS = {"image": "embed_images", "text": "embed_texts", "joined": "embed_joined"}


@dataclass(frozen=True)
class ProjectionTask:
    """One projector for each tower, trained on which examples share a label.

    A batch holds every tower's role and `label`: {"label": class numbers}. Beside "features" a
    role may hold "present": False where an example lacks that modality, which then takes no part.

    Attributes:
      towers: role -> frozen tower; one alone, `joined`, where a single projector reads everything.
      spec: loss and sizes.
      mesh: the loss goes round its data axis; None leaves a sharded batch to the compiler.

    Source: arXiv 2502.02048 (Margaritis, Petridis, Bertsimas, 2025); `supcon` and `infonce` are
      other losses in its place.
    """

    towers: Mapping[str, Tower]
    spec: ProjectionSpec
    mesh: Mesh | None = None

    def _projector(self) -> Projector:
        s = self.spec
        return Projector(s.hidden, s.out_dim, s.dropout, s.standardize)

    @property
    def normalize(self) -> bool:
        """Whether outputs are unit vectors."""
        given = self.spec.normalize
        return self.spec.loss != "pairwise_bce" if given is None else given

    def init(self, key: Key[Array, ""], frozen: PyTree, batch: Batch) -> PyTree:
        """Returns {role: projector}."""
        keys = jax.random.split(key, len(self.towers))
        return {
            role: typed.init(self._projector(), k, tower(frozen, batch[role])["features"])
            for k, (role, tower) in zip(keys, self.towers.items(), strict=True)
        }

    def project(
        self, role: str, trainable: PyTree, frozen: PyTree, inputs: Inputs, key: DropoutKey = None
    ) -> Float[Array, "b e"]:
        """From a tower's inputs to its projection, of unit length or not; a key means dropout."""
        features = self.towers[role](frozen, inputs)["features"]
        projected: Float[Array, "b e"]
        projected = typed.apply(self._projector(), trainable[role], features, key=key)
        return unit(projected) if self.normalize else projected

    def loss(
        self, trainable: PyTree, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The sum over modalities (`infonce`: over pairs of them) of the loss on labels."""
        labels = batch[LABEL][LABEL]
        keys = jax.random.split(key, len(self.towers))
        projected, present = dict[str, Array](), dict[str, Array]()
        for role, sub in zip(self.towers, keys, strict=True):
            inputs = batch[role]
            present[role] = inputs.get("present", jnp.ones(len(labels), bool))
            kept = {name: values for name, values in inputs.items() if name != "present"}
            projected[role] = self.project(role, trainable, frozen, kept, sub)
        scale = -jnp.log(jnp.float32(self.spec.temperature))
        found: list[tuple[Float[Array, ""], PairLoss]]
        if self.spec.loss == "infonce":
            found = [
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
            found = [
                compare(z, None, scale, positives=labels, mask=present[role], mesh=self.mesh)
                for role, z in projected.items()
            ]
        metrics = {
            f"{self.spec.loss}_{number}": mean_of(pairs.loss, pairs.valid)
            for number, (_, pairs) in enumerate(found)
        }
        return sum((value for value, _ in found), start=jnp.zeros(())), metrics

    def functions(self) -> Mapping[str, EmbedFn]:
        """One for each tower: `embed_images`, `embed_texts`, or `embed_joined`."""

        def projecting(role: str) -> EmbedFn:
            return lambda t, f, inputs: self.project(role, t, f, inputs)

        return {FUNCTIONS.get(role, f"embed_{role}"): projecting(role) for role in self.towers}


def make_projection(stage: Stage, towers: Mapping[str, Tower], mesh: Mesh | None) -> ProjectionTask:
    """Builds the task of a `projection` stage.

    Args:
      stage: the recipe's stage.
      towers: role -> frozen tower.
      mesh: of the batches; the loss goes round its data axis.

    Returns:
      The task.
    """
    if stage.projection.mode == "single":
        towers = {"joined": Tower("joined", sum(tower.width for tower in towers.values()))}
    ring = mesh if mesh is not None and mesh.shape["data"] > 1 else None
    return ProjectionTask(dict(towers), stage.projection, ring)
