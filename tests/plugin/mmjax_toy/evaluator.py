"""An evaluator: how far pictures lie from each other."""

import numpy as np

from mmjax.evals.base import EvalSet, Functions


class Spread:
    """One minus the mean cosine between different pictures."""

    def run(self, functions: Functions, data: EvalSet) -> dict[str, float]:
        """Returns {"images": 0 where all are one, 1 where they are orthogonal}."""
        embedded = functions["embed_images"](data.images)
        cosines = embedded @ embedded.T
        return {"images": float(1 - cosines[~np.eye(len(embedded), dtype=bool)].mean())}


SPREAD = Spread()
