"""What is kept of a compiled model: in a file of the user's, or in the cache.

::

    recalling: from the cache, or tuned and kept -> artifact: one file -> cache: by content
                                                    signing, onnx_check: trust nothing
"""

from fastdiff.storing.cache import Cache
from fastdiff.storing.content import cache_key
from fastdiff.storing.recalling import load_artifact, tune_or_recall

__all__ = ["Cache", "cache_key", "load_artifact", "tune_or_recall"]
