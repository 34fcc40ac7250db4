"""Where everything that can be made again is kept."""

import os
from pathlib import Path

from mmjax.checks.names import check_local


def cache_dir() -> Path:
    """The folder of features, data sets, assets and compiled programs.

    Returns:
      $MMJAX_CACHE, or the platform's folder for caches.

    Raises:
      MmjaxError: $MMJAX_CACHE is a bucket.
    """
    chosen = os.environ.get("MMJAX_CACHE")
    if chosen:
        check_local("MMJAX_CACHE", chosen)
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("mmjax", appauthor=False))
