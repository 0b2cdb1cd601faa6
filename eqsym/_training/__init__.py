"""Samplers, optimizers and strategies, and the training step that they make up."""

from .kfac import Kfac as Kfac
from .optimizer import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractOptimizerState as AbstractOptimizerState,
    InverseDecay as InverseDecay,
    Optax as Optax,
    Spring as Spring,
)
from .pretraining import (
    check_loss as check_loss,
    Pretraining as Pretraining,
    PretrainingState as PretrainingState,
    report_replaced as report_replaced,
)
from .projection import ProjectedTraining as ProjectedTraining
from .reuse import transfer as transfer
from .sampler import (
    AbstractSampler as AbstractSampler,
    AbstractSamplerState as AbstractSamplerState,
    Metropolis as Metropolis,
    REPLACED as REPLACED,
)
from .scores import Scores as Scores
from .statistics import Statistics as Statistics
from .strategy import (
    AbstractStrategy as AbstractStrategy,
    AugmentedTraining as AugmentedTraining,
    Batch as Batch,
    check_strategy as check_strategy,
    Cost as Cost,
    PlainTraining as PlainTraining,
    SymmetrizedTraining as SymmetrizedTraining,
)
from .vmc import first_draw as first_draw, VMC as VMC, VMCState as VMCState
