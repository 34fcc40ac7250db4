"""What the data sets that are made from files on this machine have in common."""

from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds


class LocalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Records of one split, `train`, that stay in the order in which they are made."""

    # Nothing is downloaded; looking for checksums needs a package that 4.9.10 does not ask for.
    url_infos = None  # type: ignore[assignment]

    def __init__(self, **kwargs: Any) -> None:
        """Keeps nothing of its own.

        Args:
          **kwargs: tensorflow-datasets' own, e.g. data_dir.
        """
        super().__init__(file_format="array_record", **kwargs)

    def _described(
        self, description: str, homepage: str, licence: str, features: Mapping[str, Any]
    ) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            homepage=homepage,
            license=licence,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # everything is on this machine already
        return {"train": self._generate_examples()}
