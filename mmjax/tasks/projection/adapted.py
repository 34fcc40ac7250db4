"""Using trained projectors: embed pictures, texts and vectors that are ready."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from mmjax.data.tables import PartialTable, View, table_of
from mmjax.encoders.output import Tower
from mmjax.errors import MmjaxError
from mmjax.tasks.dual_encoder.adapted import Adapted
from mmjax.tasks.dual_encoder.stacking import Loaded
from mmjax.tasks.projection.task import function_of, make_projection
from mmjax.tasks.published import Published


class Projected(Adapted):
    """Trained projectors with the frozen encoders below them, if any.

    Attributes:
      card: everything that is known of it.
    """

    def embed_features(
        self, features: Mapping[str, Float[np.ndarray, "n _"]]
    ) -> Float[np.ndarray, "n e"]:
        """Vectors that are ready, of the same items -> f32, the modalities side by side.

        Args:
          features: modality -> [n, d], of those that it was trained with. A row that is NaN
            throughout lacks the modality: its projection is 0, as that of a modality that is not
            given.

        Raises:
          MmjaxError: another modality or width, a cell without a number, or one projector that
            reads all of them together.
        """
        widths: Mapping[str, int] = self.card.get("features", {})
        if not widths or self._stage.projection.mode == "single":
            raise MmjaxError(
                f"{self!r} projects no ready vectors by themselves; expected one of mode "
                "'per_modality' that was trained with projection.features"
            )
        arrays = {name: np.asarray(rows, np.float32) for name, rows in features.items()}
        counts = {len(rows) for rows in arrays.values() if rows.ndim == 2}
        for name, rows in arrays.items():
            if name not in widths or rows.ndim != 2 or rows.shape[1] != widths[name]:
                raise MmjaxError(
                    f"features hold {name!r} {list(rows.shape)}; expected [n, d] of {dict(widths)}"
                )
        if len(counts) != 1 or 0 in counts:
            raise MmjaxError(f"features are of {sorted(counts)} items; expected as many of each")
        (count,) = counts
        out: list[Float[np.ndarray, "n _"]] = []
        for name, width in widths.items():
            rows = arrays.get(name, np.full((count, width), np.nan, np.float32))
            lacking = np.isnan(rows)
            present = np.logical_not(lacking.all(axis=1))
            if lacking[present].any() or np.isinf(rows).any():
                raise MmjaxError(
                    f"features of {name!r} hold cells without a number; fill them as those that it "
                    "was trained on were, with the training items' mean"
                )
            table = PartialTable(table_of(list(np.where(lacking, np.float32(0), rows))), present)
            out.append(self._functions[function_of(name)](View(table, np.arange(count))))
        return np.concatenate(out, axis=1)


def load_projected(folder: Path, allow_other_encoder: bool, mesh: Mesh | None) -> Projected:
    """Loads the projectors and checks their encoders; see `mmjax.load_adapter`."""
    loaded = Loaded.of(folder, allow_other_encoder, mesh)
    widths: Mapping[str, int] = loaded.card.get("features", {})
    ready = {name: Tower(name, width) for name, width in widths.items()}
    task = make_projection(loaded.stage, {**loaded.towers, **ready}, loaded.library.mesh)
    if ready:  # what they were trained on is told by the card alone
        functions = Published(task, loaded.library.mesh).bind(loaded.trainable, loaded.frozen)
        return Projected(loaded, functions)
    return Projected(loaded, loaded.bound(task))
