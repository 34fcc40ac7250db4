"""Continue texts with a frozen language model, and score given answers."""

from mmjax.generation.decode import Generation as Generation
from mmjax.generation.decode import generate as generate
from mmjax.generation.sampling import Sampling as Sampling
from mmjax.generation.score import Scored as Scored
from mmjax.generation.score import score as score

__all__ = ["Generation", "Sampling", "Scored", "generate", "score"]
