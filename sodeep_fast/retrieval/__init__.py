"""From embeddings and labels to losses: similarities a chunk at a time, references, processes."""

from sodeep_fast.retrieval.combined import CombinedLoss
from sodeep_fast.retrieval.distributed import gather
from sodeep_fast.retrieval.loss import RetrievalLoss
from sodeep_fast.retrieval.multistage import multistage_step

__all__ = ["CombinedLoss", "RetrievalLoss", "gather", "multistage_step"]
