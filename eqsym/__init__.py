"""Neural wave functions for crystals, and what their symmetries are worth."""

import inspect as _inspect

from . import checkpoint as checkpoint, plot as plot
from ._core import (
    AbstractFixed as AbstractFixed,
    combine as combine,
    describe_arguments as _describe_arguments,
    device_mesh as device_mesh,
    LogPsi as LogPsi,
    partition as partition,
    replicate as replicate,
    shard_walkers as shard_walkers,
)
from ._crystal import (
    Crystal as Crystal,
    EffectiveCorePotential as EffectiveCorePotential,
    Lattice as Lattice,
)
from ._estimator import (
    AbstractObservable as AbstractObservable,
    Chains as Chains,
    closed_shell_twists as closed_shell_twists,
    Density as Density,
    Estimate as Estimate,
    evaluate as evaluate,
    Evaluation as Evaluation,
    FourierDensity as FourierDensity,
    gradient_noise as gradient_noise,
    irreducible_twists as irreducible_twists,
    observe as observe,
    observe_post_hoc as observe_post_hoc,
    PairCorrelation as PairCorrelation,
    Polarization as Polarization,
    post_hoc as post_hoc,
    PostHoc as PostHoc,
    Sectors as Sectors,
    sectors as sectors,
    StructureFactor as StructureFactor,
    table as table,
    translation_scan as translation_scan,
    TranslationScan as TranslationScan,
    twist_average as twist_average,
)
from ._group import (
    character_table as character_table,
    FundamentalDomain as FundamentalDomain,
    Irrep as Irrep,
    irreps as irreps,
    SpaceGroup as SpaceGroup,
    symmetry_elements as symmetry_elements,
)
from ._hamiltonian import (
    AbstractHamiltonian as AbstractHamiltonian,
    AbstractKinetic as AbstractKinetic,
    check_wavefunction as check_wavefunction,
    Ewald as Ewald,
    ForwardLaplacian as ForwardLaplacian,
    Hamiltonian as Hamiltonian,
    HessianLaplacian as HessianLaplacian,
    LocalEnergy as LocalEnergy,
    Pseudopotential as Pseudopotential,
    SphericalQuadrature as SphericalQuadrature,
)
from ._mean_field import MeanField as MeanField, Occupation as Occupation
from ._run import load_run as load_run, run as run, RunResult as RunResult
from ._symmetrizer import (
    AbstractProjection as AbstractProjection,
    AbstractRandomSymmetrizer as AbstractRandomSymmetrizer,
    AbstractSmoothing as AbstractSmoothing,
    AbstractSymmetrizer as AbstractSymmetrizer,
    Canonicalization as Canonicalization,
    GroupAverage as GroupAverage,
    IrrepProjection as IrrepProjection,
    Orbit as Orbit,
    RandomCanonicalization as RandomCanonicalization,
    RandomSubset as RandomSubset,
    SmoothStep as SmoothStep,
    SplineStep as SplineStep,
    Symmetrized as Symmetrized,
    SymmetrizedOrbitals as SymmetrizedOrbitals,
    symmetry_ratio as symmetry_ratio,
)
from ._training import (
    AbstractOptimizer as AbstractOptimizer,
    AbstractOptimizerState as AbstractOptimizerState,
    AbstractSampler as AbstractSampler,
    AbstractSamplerState as AbstractSamplerState,
    AbstractStrategy as AbstractStrategy,
    AugmentedTraining as AugmentedTraining,
    Batch as Batch,
    Cost as Cost,
    InverseDecay as InverseDecay,
    Kfac as Kfac,
    Metropolis as Metropolis,
    Optax as Optax,
    PlainTraining as PlainTraining,
    Pretraining as Pretraining,
    ProjectedTraining as ProjectedTraining,
    Scores as Scores,
    Spring as Spring,
    Statistics as Statistics,
    SymmetrizedTraining as SymmetrizedTraining,
    transfer as transfer,
    VMC as VMC,
    VMCState as VMCState,
)
from ._wavefunction import (
    AbstractBlochNetwork as AbstractBlochNetwork,
    AbstractFeatures as AbstractFeatures,
    AbstractOrbitalNetwork as AbstractOrbitalNetwork,
    AbstractWavefunction as AbstractWavefunction,
    AttentionNet as AttentionNet,
    BlochOrbitals as BlochOrbitals,
    HartreeFock as HartreeFock,
    initial_walkers as initial_walkers,
    Jastrow as Jastrow,
    NuFeatures as NuFeatures,
    SolidNet as SolidNet,
    TriFeatures as TriFeatures,
)


__version__ = "0.1.0"

# All names without an underscore that are not modules, and the two modules of names.
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    name
    for name, value in globals().items()
    if name in ("checkpoint", "plot") or name[0] != "_" and not _inspect.ismodule(value)
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


_describe_arguments(globals()[name] for name in __all__)
