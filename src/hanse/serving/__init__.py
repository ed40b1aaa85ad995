"""How long and how much energy an engine takes for a token, by (model, hardware).

Here: `StepModel`, one replica at the level of an engine's iterations, from which everything else is derived, and its linear
form `EngineCoefficients`, which a routing table carries. Each prediction says its method and expected error. Not here:
queues and load (`dispatch.choose`), sites, PUE, price, carbon. Only `serving.kernels` needs a compiler, and is not
imported from here; `serving.predict` answers a person's question.
"""

from hanse.serving.linear import EngineCoefficients, coefficients
from hanse.serving.precisions import WEIGHT_BYTES, weight_bytes
from hanse.serving.steps import STEP_DTYPE, StepModel, step_model, step_rows

__all__ = [
    "STEP_DTYPE",
    "WEIGHT_BYTES",
    "EngineCoefficients",
    "StepModel",
    "coefficients",
    "step_model",
    "step_rows",
    "weight_bytes",
]
