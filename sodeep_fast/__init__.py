"""Fast differentiable ranking for PyTorch."""

from sodeep_fast import _native as _native
from sodeep_fast import metrics, synthetic
from sodeep_fast._version import __version__
from sodeep_fast.losses.mean_average_precision import (
    MeanAveragePrecisionLoss,
    mean_average_precision_loss,
)
from sodeep_fast.losses.rank_triplet import RankTripletLoss, rank_triplet_loss
from sodeep_fast.losses.spearman import SpearmanLoss, spearman_loss
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.soft_rank import soft_rank
from sodeep_fast.sorters.checkpoint import load_sorter, read_record, save_sorter
from sodeep_fast.sorters.cnn import CNNSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.handcrafted import HandcraftedSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.sorters.online import OnlineSorter

__all__ = [
    "CNNSorter",
    "GRUSorter",
    "HandcraftedSorter",
    "LSTMSorter",
    "MLPSorter",
    "MeanAveragePrecisionLoss",
    "OnlineSorter",
    "RankTripletLoss",
    "RepeatedGRUSorter",
    "SpearmanLoss",
    "__version__",
    "hard_rank",
    "load_sorter",
    "mean_average_precision_loss",
    "metrics",
    "rank_triplet_loss",
    "read_record",
    "save_sorter",
    "soft_rank",
    "spearman_loss",
    "synthetic",
]
