"""Fast differentiable ranking for PyTorch."""

from sodeep_fast import _native as _native
from sodeep_fast import compat, metrics, synthetic, training
from sodeep_fast._version import __version__
from sodeep_fast.comparators import ByLevel, Ramp, Sigmoid, Step, Sup
from sodeep_fast.losses.calibration import CalibrationLoss, calibration_loss
from sodeep_fast.losses.cluster import ClusterLoss
from sodeep_fast.losses.h_ap import HierarchicalAPLoss, h_ap
from sodeep_fast.losses.happier import HappierLoss
from sodeep_fast.losses.hard_ap import hard_ap
from sodeep_fast.losses.in_parts import loss_in_parts
from sodeep_fast.losses.mean_average_precision import (
    MeanAveragePrecisionLoss,
    mean_average_precision_loss,
)
from sodeep_fast.losses.ndcg import NDCGLoss, smooth_ndcg, sup_ndcg
from sodeep_fast.losses.quantized_ap import (
    QuantizedAPLoss,
    quantized_ap,
    tie_aware_quantized_ap,
)
from sodeep_fast.losses.rank_triplet import RankTripletLoss, rank_triplet_loss
from sodeep_fast.losses.recall import smooth_recall, sup_recall
from sodeep_fast.losses.recall_at_k import RecallAtKLoss, simix
from sodeep_fast.losses.roadmap import RoadmapLoss
from sodeep_fast.losses.smooth_ap import SmoothAPLoss, smooth_ap
from sodeep_fast.losses.spearman import SpearmanLoss, spearman_loss
from sodeep_fast.losses.sup_ap import SupAPLoss, sup_ap
from sodeep_fast.losses.sup_rank import SupRankLoss
from sodeep_fast.ops.bilstm import bilstm
from sodeep_fast.ops.conv_stack import conv_stack
from sodeep_fast.ops.hard_rank import hard_rank
from sodeep_fast.ops.rank_counts import RankCounts, rank_counts
from sodeep_fast.ops.soft_histogram import soft_histogram
from sodeep_fast.ops.soft_rank import soft_rank
from sodeep_fast.retrieval import CombinedLoss, RetrievalLoss, multistage_step
from sodeep_fast.sorters.checkpoint import load_sorter, read_record, save_sorter
from sodeep_fast.sorters.cnn import CNNSorter
from sodeep_fast.sorters.equivariant import EquivariantSorter
from sodeep_fast.sorters.gru import GRUSorter, RepeatedGRUSorter
from sodeep_fast.sorters.handcrafted import HandcraftedSorter
from sodeep_fast.sorters.learned import LearnedSorter
from sodeep_fast.sorters.lstm import LSTMSorter
from sodeep_fast.sorters.mlp import MLPSorter
from sodeep_fast.sorters.online import OnlineSorter

__all__ = [
    "ByLevel",
    "CNNSorter",
    "CalibrationLoss",
    "ClusterLoss",
    "CombinedLoss",
    "EquivariantSorter",
    "GRUSorter",
    "HandcraftedSorter",
    "HappierLoss",
    "HierarchicalAPLoss",
    "LSTMSorter",
    "LearnedSorter",
    "MLPSorter",
    "MeanAveragePrecisionLoss",
    "NDCGLoss",
    "OnlineSorter",
    "QuantizedAPLoss",
    "Ramp",
    "RankCounts",
    "RankTripletLoss",
    "RecallAtKLoss",
    "RepeatedGRUSorter",
    "RetrievalLoss",
    "RoadmapLoss",
    "Sigmoid",
    "SmoothAPLoss",
    "SpearmanLoss",
    "Step",
    "Sup",
    "SupAPLoss",
    "SupRankLoss",
    "__version__",
    "bilstm",
    "calibration_loss",
    "compat",
    "conv_stack",
    "h_ap",
    "hard_ap",
    "hard_rank",
    "load_sorter",
    "loss_in_parts",
    "mean_average_precision_loss",
    "metrics",
    "multistage_step",
    "quantized_ap",
    "rank_counts",
    "rank_triplet_loss",
    "read_record",
    "save_sorter",
    "simix",
    "smooth_ap",
    "smooth_ndcg",
    "smooth_recall",
    "soft_histogram",
    "soft_rank",
    "spearman_loss",
    "sup_ap",
    "sup_ndcg",
    "sup_recall",
    "synthetic",
    "tie_aware_quantized_ap",
    "training",
]
