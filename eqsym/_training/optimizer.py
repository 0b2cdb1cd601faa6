"""Optimizers: parameter updates from scores and residuals."""

import abc
from collections.abc import Callable
from numbers import Real
from types import FunctionType
from typing import Any, Generic, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Inexact, Int, PyTree

from .._core import AbstractModule, check_chunk, check_kind, Integer
from .scores import flattened, Scores


Schedule: TypeAlias = float | Callable[[Int[Array, ""]], Any]

# Each raises tenfold what is added to the damping for rounding.
_TRIES = 8


def _is_scalar(value: Any) -> bool:
    """Whether it is a real number, also one of numpy or JAX."""
    if isinstance(value, (np.ndarray, jax.Array)):
        return not value.shape and not jnp.iscomplexobj(value)
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(name: str, value: Any, wanted: str) -> None:
    if not _is_scalar(value):
        check_kind(name, value, (), wanted)


def check_positive(name: str, value: Any) -> None:
    check_number(name, value, "a positive number")
    if not isinstance(value, Tracer) and not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_rate(name: str, value: Any) -> None:
    """**Raises:** `ValueError` unless it is a number or a function of the step."""
    if callable(value) and not isinstance(value, type):
        _check_schedule(name, value)
    else:
        check_number(
            name,
            value,
            "a number, or a function of the step such as `eqs.InverseDecay(0.1)`",
        )
        number: Any = value
        if not isinstance(number, Tracer) and not number >= 0:
            raise ValueError(f"`{name}` must not be negative, got {number}.")


def _check_schedule(name: str, schedule: Callable) -> None:
    """Tries it without computing anything: training would come to it minutes later."""
    given = []

    def tried(step: Int[Array, ""]) -> Array:
        given.append(scheduled(schedule, step))
        return jnp.asarray(given[0])

    wanted = f"`{name}` must be a number or a function of the step that returns one"
    try:
        found = jax.eval_shape(tried, jnp.zeros((), int))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{wanted}, made of operations of JAX (`jnp.where` in place of `if`), but "
            f"calling it with a step raises {type(error).__name__}: {reason}"
        ) from error
    if found.shape or not (
        jnp.issubdtype(found.dtype, jnp.floating)
        or jnp.issubdtype(found.dtype, jnp.integer)
    ):
        raise ValueError(
            f"{wanted}, got a function that returns {found.dtype} of shape "
            f"{found.shape}."
        )
    if isinstance(given[0], (int, float)) and not given[0] >= 0:
        raise ValueError(f"`{name}` must not be negative, got {given[0]}.")


class AbstractOptimizerState(AbstractModule):
    """State that every optimizer keeps between steps.

    - `solver_retries`: how often the last step had to solve its equations again with
        more damping; 0 if there is nothing to solve.
    """

    solver_retries: eqx.AbstractVar[Int[Array, ""]]


State = TypeVar("State", bound=AbstractOptimizerState)


class AbstractOptimizer(AbstractModule, Generic[State]):
    """Turns the scores of a batch and its centered local energies into an update.

    Optimizers see walkers only through [`eqsym.Scores`][], so that the same ones serve
    other objectives that are a residual per walker.
    """

    @abc.abstractmethod
    def init(self, parameters: PyTree[Float[Array, "..."]]) -> State:
        """**Arguments:**

        - `parameters`: the trainable part of a wave function, of
            [`eqsym.partition`][].

        **Returns:**

        The state before the first step.
        """

    @abc.abstractmethod
    def step(
        self, scores: Scores, residual: Inexact[Array, " walkers"], state: State
    ) -> tuple[PyTree[Float[Array, "..."]], State]:
        """**Arguments:**

        - `scores`: of the wave function at the walkers.
        - `residual`: its product with the scores is half the gradient. For the energy
            of a wave function: centered (and clipped) local energies in Hartree, times
            the square root of the walkers' shares, which are one over their number if
            all weigh the same.
        - `state`: of `init` or of the step before.

        **Returns:**

        `(update, state)`: what to add to the parameters, and the next state.
        """


class InverseDecay(eqx.Module):
    """A learning rate that falls: `start / (1 + step / delay)`.

    Sampled gradients are noisy, so that training at a constant rate ends at a distance
    from the minimum that the rate decides. A rate that falls like one over the number
    of steps comes as close as the steps allow, whose sum still has no bound (Robbins,
    Monro, Ann. Math. Stat. 22, 400 (1951)). FermiNet and DeepSolid train with the same
    schedule.
    """

    start: float
    delay: float

    def __init__(self, start: float = 0.1, *, delay: float = 500):
        """**Arguments:**

        - `start`: the rate of the first step.
        - `delay`: steps after which the rate is half of that. Take more for runs of
            many thousand steps.

        **Raises:** `ValueError` for a rate or delay that is not positive.
        """
        self.start = start
        self.delay = delay

    def __check_init__(self):
        for name in ("start", "delay"):
            check_positive(name, getattr(self, name))

    def __call__(self, step: Any) -> Any:
        """The rate of a step, the first of which is 0."""
        return self.start / (1 + step / self.delay)


class SpringState(AbstractOptimizerState):
    """State of [`eqsym.Spring`][]: the last direction, and steps taken."""

    direction: PyTree[Float[Array, "..."]]
    count: Int[Array, ""]
    solver_retries: Int[Array, ""]


class Spring(AbstractOptimizer[SpringState]):
    r"""Natural gradient with momentum, solved in the space of the samples: SPRING.

    $\zeta = \epsilon - O \mu\phi$,
    $\phi' = \mu\phi + O^T (O O^T + \lambda)^{-1} \zeta$, step
    $-\eta \min(1, \sqrt{C} / (\eta |\phi'|)) \phi'$. Goldshlager, Abrahamsen, Lin,
    J. Comput. Phys. 516, 113351 (2024), arXiv 2401.10190. Without momentum it is MinSR,
    see `min_sr`. The state has the fields `direction`, the last $\phi'$, `count`, steps
    taken, and `solver_retries`.

    `Spring()` is the setting we recommend, and all examples use it. Its rate falls,
    [`eqsym.InverseDecay`][], so that the noise of training dies out. The bound C is the
    square of the rate: so the rate is also the length of the longest step, and bad
    batches late in training cannot undo what small steps have reached.
    """

    learning_rate: Schedule
    momentum: float
    damping: float
    norm_bound: Schedule | None
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Schedule = InverseDecay(0.1),  # noqa: B008
        *,
        momentum: float = 0.95,
        damping: float = 1e-3,
        norm_bound: Schedule | None = None,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `learning_rate`: the rate eta, or a function of the step:
            [`eqsym.InverseDecay`][], an optax schedule, or one of your own.
        - `momentum`: mu, at least 0 and below 1.
        - `damping`: lambda. To each row of the Gram matrix is added what rounding can
            take from it: its squared length, times 2 sqrt(rows) and the resolution of
            the floating-point type. As often as a pivot of the matrix is still below
            half of the sum, the rounding is raised tenfold, also by that of the mean
            row, which is counted in `solver_retries`.
        - `norm_bound`: C, the largest squared norm of a step, or a function of the
            step; by default the square of the rate at that step.
        - `chunk`: walkers differentiated at a time, see [`eqsym.Scores.factored`][].

        **Raises:** `ValueError` for a setting outside its range.
        """
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.damping = damping
        self.norm_bound = norm_bound
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        check_rate("learning_rate", self.learning_rate)
        check_number("momentum", self.momentum, "a number, at least 0 and below 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), got {self.momentum}.")
        check_positive("damping", self.damping)
        if self.norm_bound is not None:
            check_rate("norm_bound", self.norm_bound)
            if not callable(self.norm_bound):
                check_positive("norm_bound", self.norm_bound)

    @classmethod
    def min_sr(
        cls,
        learning_rate: Schedule = InverseDecay(0.1),  # noqa: B008
        **kwargs: Any,
    ) -> "Spring":
        """Natural gradient solved in the space of the samples, without momentum: MinSR.
        Chen, Heyl, Nature Physics 20, 1476 (2024).

        **Arguments:**

        - `learning_rate`, `kwargs`: as for [`eqsym.Spring`][], without `momentum`.

        **Returns:**

        [`eqsym.Spring`][] with `momentum=0`.
        """
        return cls(learning_rate, momentum=0.0, **kwargs)

    def init(self, parameters: PyTree[Float[Array, "..."]]) -> SpringState:
        zero = jnp.zeros((), int)
        direction = optax.tree.zeros_like(parameters)
        return SpringState(direction=direction, count=zero, solver_retries=zero)

    def step(
        self, scores: Scores, residual: Inexact[Array, " walkers"], state: SpringState
    ) -> tuple[PyTree[Float[Array, "..."]], SpringState]:
        factored = scores.factored(self.chunk)
        zeta = residual - scale(self.momentum, factored.apply(state.direction))
        solution, retries = _solve(factored.gram(), self.damping, zeta)
        last, _ = flattened(state.direction)
        found, separated = flattened(factored.transpose(solution))
        direction = scale(self.momentum, last) + found

        norm = jnp.sqrt(jnp.sum(direction**2))
        rate = jnp.asarray(scheduled(self.learning_rate, state.count))
        rate = rate.astype(norm.dtype)
        largest = rate
        if self.norm_bound is not None:
            square = jnp.asarray(scheduled(self.norm_bound, state.count))
            largest = jnp.sqrt(square).astype(norm.dtype)
        bound = largest / jnp.maximum(norm, 1e-30)
        update = separated(scale(-jnp.minimum(rate, bound), direction))
        following = SpringState(
            direction=separated(direction),
            count=state.count + 1,
            solver_retries=retries,
        )
        return update, following


class OptaxState(AbstractOptimizerState):
    """State of [`eqsym.Optax`][], with the state of the transformation."""

    transformation: optax.OptState
    solver_retries: Int[Array, ""]


class Optax(AbstractOptimizer[OptaxState]):
    """Any optax transformation on the plain energy gradient.

    The gradient of the energy is `2 Re E[conj(O) (E_L - E)]` with centered scores O.
    The state has the field `transformation`, the state of the transformation.
    """

    transformation: optax.GradientTransformation
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        transformation: optax.GradientTransformation,
        *,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `transformation`: for example `optax.adam(1e-3)` or `optax.lamb(1e-3)`.
        - `chunk`: walkers differentiated at a time, all by default.

        **Raises:** `ValueError` for anything but a transformation, and for a `chunk`
        that is not positive.
        """
        self.transformation = transformation
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        check_kind(
            "transformation",
            self.transformation,
            optax.GradientTransformation,
            "an optax transformation, such as `optax.adam(1e-3)`",
            {
                Real: "A rate alone is not one: `eqs.Optax(optax.adam(1e-3))`.",
                FunctionType: "Call it with its settings, as in `optax.adam(1e-3)`.",
                AbstractOptimizer: "It is an optimizer already, and needs no `Optax`.",
            },
        )

    def init(self, parameters: PyTree[Float[Array, "..."]]) -> OptaxState:
        return OptaxState(
            transformation=self.transformation.init(parameters),
            solver_retries=jnp.zeros((), int),
        )

    def step(
        self,
        scores: Scores,
        residual: Inexact[Array, " walkers"],
        state: OptaxState,
    ) -> tuple[PyTree[Float[Array, "..."]], OptaxState]:
        gradient = scale(2.0, scores.transpose(residual, self.chunk))
        # optax relies on promotions that users may have forbidden.
        with jax.numpy_dtype_promotion("standard"):
            update, transformation = self.transformation.update(
                gradient, state.transformation, scores.parameters
            )
        return update, OptaxState(
            transformation=transformation, solver_retries=state.solver_retries
        )


def _solve(
    gram: Float[Array, "rows rows"], damping: float, zeta: Inexact[Array, " walkers"]
) -> tuple[Inexact[Array, " walkers"], Int[Array, ""]]:
    """The solution, and how often the damping was raised."""
    stacked = (
        jnp.concatenate([zeta.real, zeta.imag]) if jnp.iscomplexobj(zeta) else zeta
    )
    # Eigenvalues of independent roundings of n rows of length 1 are within 2 sqrt(n)
    # times their size. Entries round by the sizes of their rows, so each row gets its
    # own: one walker near a node is not a reason to damp all others.
    size = jnp.maximum(jnp.diagonal(gram), 0)
    unit = 2 * len(gram) ** 0.5 * jnp.finfo(gram.dtype).eps
    mean = jnp.mean(size)

    def shifts(tries):
        # Rows that rounded by more than their own size did so by that of others.
        rounded = size + jnp.where(tries > 0, mean, 0.0)
        return [(damping + unit * 10.0 ** tries.astype(gram.dtype) * rounded)[None]]

    (factor,), retries = factorized([gram[None]], shifts)
    factor = factor[0]
    solution = jax.scipy.linalg.cho_solve((factor, True), stacked)
    if jnp.iscomplexobj(zeta):
        solution = jax.lax.complex(*jnp.split(solution, 2))
    return solution, retries


def factorized(
    matrices: list[Float[Array, "_ _ _"]],
    shifts: Callable[[Int[Array, ""]], list[Float[Array, "_ _"]]],
) -> tuple[list[Float[Array, "_ _ _"]], Int[Array, ""]]:
    """Cholesky factors of stacks of matrices, positive but for rounding, and how often
    what is added to their diagonals was raised.

    **Arguments:**

    - `matrices`: symmetric ones; if one has numbers that are not finite, so have the
        factors.
    - `shifts`: what to add to the diagonals, of the number of failures before.
    """
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(matrix)) for matrix in matrices]))

    def fails(carry: tuple[list[Array], Bool[Array, ""], Int[Array, ""]]):
        _, good, tries = carry
        return ~good & (tries <= jnp.where(finite, _TRIES, 0))

    def again(carry: tuple[list[Array], Bool[Array, ""], Int[Array, ""]]):
        _, _, tries = carry
        good, factors = jnp.asarray(True), []
        for matrix, shift in zip(matrices, shifts(tries), strict=True):
            identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)[None]
            matrix += shift[:, :, None] * identity
            factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
            pivots = jnp.diagonal(factor, axis1=1, axis2=2) ** 2
            # Without rounding no pivot is below its shift. A smaller one is noise,
            # which would be most of a solution. A NaN is not large enough either.
            good &= jnp.all(pivots > 0.5 * shift)
            factors.append(factor)
        return factors, good, tries + 1

    # Compiled once, because the first try is one of the loop.
    start = [jnp.zeros_like(x) for x in matrices], jnp.asarray(False), jnp.asarray(0)
    factors, _, tries = jax.lax.while_loop(fails, again, start)
    return factors, tries - 1


def scheduled(schedule: Schedule, count: Int[Array, ""]) -> Any:
    if not callable(schedule):
        return schedule
    with jax.numpy_dtype_promotion("standard"):
        return schedule(count)


def scale(factor: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: jnp.asarray(factor).astype(leaf.dtype) * leaf, tree
    )
