"""The data set `cedict`: Chinese words with plain English translations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mmjax.data.builders.cedict_entries import VERSION, read_entries
from mmjax.data.builders.local import LocalBuilder
from mmjax.progress import status, track


class CedictBuilder(LocalBuilder):
    """One record a headword of CC-CEDICT that has a plain translation."""

    name = "cedict"
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, cedict: Path, hsk2: Path, hsk3: Path, **kwargs: Any) -> None:
        """Keeps what `_generate_examples` needs.

        Args:
          cedict: the dictionary.
          hsk2: word list of the proficiency test of 2010.
          hsk3: word list of the proficiency test of 2021.
          **kwargs: tensorflow-datasets' own, e.g. data_dir.
        """
        self._files = (cedict, hsk2, hsk3)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return self._described(
            description="CC-CEDICT: Chinese headwords with cleaned English glosses.",
            homepage="https://cc-cedict.org",
            licence="CC-BY-SA-4.0",
            features={
                "zh": text(doc="simplified headword"),
                "en": text(doc="its first gloss"),
                "glosses_en": text(doc="all glosses, joined by |"),
                "pinyin": text(doc="of the first gloss's reading, tones as digits"),
                "common": tfds.features.Scalar(np.int32, doc="HSK level 1 to 9, 0: none"),
            },
        )

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with status("reading CC-CEDICT"):
            entries = read_entries(*self._files)
        for entry in track(entries, "writing CC-CEDICT"):
            yield (
                entry.zh,
                {
                    "zh": entry.zh,
                    "en": entry.glosses[0],
                    "glosses_en": "|".join(entry.glosses),
                    "pinyin": entry.pinyin,
                    "common": entry.common,
                },
            )
