"""Fast differentiable ranking for PyTorch."""

from sodeep_fast import _native as _native
from sodeep_fast import metrics, synthetic
from sodeep_fast._version import __version__
from sodeep_fast.comparators import ByLevel, Sigmoid, Step, Sup
from sodeep_fast.losses.h_ap import h_ap
from sodeep_fast.losses.mean_average_precision import (
    MeanAveragePrecisionLoss,
    mean_average_precision_loss,
)
from sodeep_fast.losses.ndcg import smooth_ndcg, sup_ndcg
from sodeep_fast.losses.rank_triplet import RankTripletLoss, rank_triplet_loss
from sodeep_fast.losses.recall import smooth_recall, sup_recall
from sodeep_fast.losses.smooth_ap import SmoothAPLoss, smooth_ap
from sodeep_fast.losses.spearman import SpearmanLoss, spearman_loss
from sodeep_fast.losses.sup_ap import SupAPLoss, sup_ap
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.rank_counts import RankCounts, rank_counts
from sodeep_fast.ops.soft_rank import soft_rank
from sodeep_fast.sorters.checkpoint import load_sorter, read_record, save_sorter
from sodeep_fast.sorters.cnn import CNNSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.handcrafted import HandcraftedSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.sorters.online import OnlineSorter

__all__ = [
    "ByLevel",
    "CNNSorter",
    "GRUSorter",
    "HandcraftedSorter",
    "LSTMSorter",
    "MLPSorter",
    "MeanAveragePrecisionLoss",
    "OnlineSorter",
    "RankCounts",
    "RankTripletLoss",
    "RepeatedGRUSorter",
    "Sigmoid",
    "SmoothAPLoss",
    "SpearmanLoss",
    "Step",
    "Sup",
    "SupAPLoss",
    "__version__",
    "h_ap",
    "hard_rank",
    "load_sorter",
    "mean_average_precision_loss",
    "metrics",
    "rank_counts",
    "rank_triplet_loss",
    "read_record",
    "save_sorter",
    "smooth_ap",
    "smooth_ndcg",
    "smooth_recall",
    "soft_rank",
    "spearman_loss",
    "sup_ap",
    "sup_ndcg",
    "sup_recall",
    "synthetic",
]
