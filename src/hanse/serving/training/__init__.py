"""Training at one site or across sites: time, traffic, energy, loss, and which to choose.

Here: `forecast` for one option, `compare_training` for several. Each figure says whether it is known, a bound, or not known and why.
Not here: money, carbon, failures; inference (`serving.predict`).
"""

from hanse.serving.training.compare import TrainingComparison, compare_training
from hanse.serving.training.energy import TrainingEnergy
from hanse.serving.training.forecast import (
    TrainingForecast,
    bandwidth_needed_mbit_s,
    forecast,
    utilisation_of,
)
from hanse.serving.training.job import (
    DataParallel,
    DiLoCo,
    Figure,
    Method,
    StreamingDiLoCo,
    TrainingJob,
    TrainingSite,
    Wan,
)
from hanse.serving.training.loss import loss_penalty

__all__ = [
    "DataParallel",
    "DiLoCo",
    "Figure",
    "Method",
    "StreamingDiLoCo",
    "TrainingComparison",
    "TrainingEnergy",
    "TrainingForecast",
    "TrainingJob",
    "TrainingSite",
    "Wan",
    "bandwidth_needed_mbit_s",
    "compare_training",
    "forecast",
    "loss_penalty",
    "utilisation_of",
]
