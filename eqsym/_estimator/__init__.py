"""Expectation values from chains of walkers, with error bars."""

from .arguments import check_kinds as check_kinds
from .averaging import post_hoc as post_hoc, PostHoc as PostHoc
from .chains import Chains as Chains
from .closed_shells import closed_shell_twists as closed_shell_twists
from .correlations import (
    PairCorrelation as PairCorrelation,
    Polarization as Polarization,
    StructureFactor as StructureFactor,
)
from .decomposition import Sectors as Sectors, sectors as sectors
from .densities import Density as Density, FourierDensity as FourierDensity
from .estimate import Estimate as Estimate, estimate_from as estimate_from
from .evaluation import evaluate as evaluate
from .expectation import (
    observe as observe,
    observe_post_hoc as observe_post_hoc,
    Observed as Observed,
    PostHocObserved as PostHocObserved,
)
from .noise import (
    gradient_noise as gradient_noise,
    GradientNoise as GradientNoise,
)
from .observables import AbstractObservable as AbstractObservable
from .results import Evaluation as Evaluation, table as table
from .scans import (
    translation_scan as translation_scan,
    TranslationScan as TranslationScan,
)
from .twists import (
    irreducible_twists as irreducible_twists,
    twist_average as twist_average,
    TwistAverage as TwistAverage,
)
