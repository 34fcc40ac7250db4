"""Continue texts with a frozen language model, and score given answers."""

from mmjax.generation.decode import Generation as Generation
from mmjax.generation.decode import generate as generate
from mmjax.generation.labels import label_scores as label_scores
from mmjax.generation.prefix import Prefix as Prefix
from mmjax.generation.prefix import cache_prefix as cache_prefix
from mmjax.generation.sampling import Sampling as Sampling
from mmjax.generation.score import Scored as Scored
from mmjax.generation.score import score as score

__all__ = [
    "Generation",
    "Prefix",
    "Sampling",
    "Scored",
    "cache_prefix",
    "generate",
    "label_scores",
    "score",
]
