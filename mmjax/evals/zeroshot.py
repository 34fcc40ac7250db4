"""Zero-shot classification: a picture goes to the class whose name it is nearest to."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mmjax.errors import MmjaxError
from mmjax.evals.base import ClassSet, EvalSet, Functions


@dataclass(frozen=True)
class ZeroShot:
    """Classification of pictures by the names of their classes.

    Where several prompts name a class, it is the normalised mean of their unit vectors.

    Source: Radford et al. 2021 (CLIP), section 3.1.4.
    """

    @staticmethod
    def check(classes: int) -> None:
        """Refuses data with fewer than two classes, before anything is trained on it."""
        if classes < 2:
            raise MmjaxError(
                f"zero-shot classification needs at least 2 classes, the test items have {classes};"
                " label the items or set --config.evals=\"('retrieval',)\""
            )

    def run(self, functions: Functions, data: EvalSet | ClassSet) -> dict[str, float]:
        """Returns `zeroshot_acc` over items and `zeroshot_class_acc`, the mean over classes.

        Items without a class are not counted.

        Raises:
          MmjaxError: there are fewer than two classes.
        """
        self.check(len(data.label_texts))
        labelled = data.labels >= 0  # the others have no class
        right = self.predict(functions, data)[labelled] == data.labels[labelled]
        labels = data.labels[labelled]
        present = np.unique(labels)
        return {
            "zeroshot_acc": float(right.mean()),
            "zeroshot_class_acc": float(np.mean([right[labels == c].mean() for c in present])),
        }

    def predict(self, functions: Functions, data: EvalSet | ClassSet) -> Int[np.ndarray, " n"]:
        """The class that every picture goes to."""
        images = functions["embed_images"](data.images)
        names = functions["embed_texts"](data.label_texts)
        return (images @ names.T).argmax(axis=1)
