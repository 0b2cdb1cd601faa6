"""Optimizers: parameter updates from scores and residuals."""

import abc
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._core import AbstractModule, check_chunk, Integer
from .scores import Scores


Schedule: TypeAlias = float | Callable[[Int[Array, ""]], Any]

# Each raises the damping of a Gram matrix that is not positive tenfold.
_TRIES = 8


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
    """

    learning_rate: Schedule
    momentum: float
    damping: float
    norm_bound: Schedule
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Schedule = 0.05,
        *,
        momentum: float = 0.95,
        damping: float = 1e-3,
        norm_bound: Schedule = 1e-3,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `learning_rate`: the rate eta, or an optax schedule of the step.
        - `momentum`: mu, at least 0 and below 1.
        - `damping`: lambda. Its trace times the resolution of the floating-point type
            is added, the size of what rounding adds to a singular Gram matrix. As often
            as a pivot of the matrix is still below half of the sum, the sum is raised
            tenfold, which is counted in `solver_retries`.
        - `norm_bound`: C, the largest squared norm of a step, or a schedule of the
            step. If it falls with the square of the rate, bad batches late in training
            cannot undo what small steps have reached.
        - `chunk`: walkers differentiated at a time, see [`eqsym.Scores.factored`][].

        **Raises:** `ValueError` for a setting outside its range.
        """
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.damping = damping
        self.norm_bound = norm_bound
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), got {self.momentum}.")
        for name in ("damping", "norm_bound"):
            value = getattr(self, name)
            if not callable(value) and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")

    @classmethod
    def min_sr(cls, learning_rate: Schedule = 0.05, **kwargs: Any) -> "Spring":
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
        zeta = residual - _scale(self.momentum, factored.apply(state.direction))
        solution, retries = _solve(factored.gram(), self.damping, zeta)
        # All parameters in one vector: operations on each array are compiled one by
        # one, and there are dozens of arrays.
        with jax.numpy_dtype_promotion("standard"):
            last, _ = ravel_pytree(state.direction)
            found, separated = ravel_pytree(factored.transpose(solution))
            direction = _scale(self.momentum, last) + found

        rate = _scheduled(self.learning_rate, state.count)
        largest = jnp.sqrt(_scheduled(self.norm_bound, state.count))
        norm = jnp.sqrt(jnp.sum(direction**2))
        bound = largest.astype(norm.dtype) / jnp.maximum(norm, 1e-30)
        update = separated(_scale(-jnp.minimum(rate, bound), direction))
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

        **Raises:** `ValueError` for a `chunk` that is not positive.
        """
        self.transformation = transformation
        self.chunk = check_chunk(chunk)

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
        gradient = _scale(2.0, scores.transpose(residual, self.chunk))
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
    identity = jnp.eye(len(gram), dtype=gram.dtype)

    def factorize(shift):
        return jax.scipy.linalg.cholesky(gram + shift * identity, lower=True)

    def fails(carry):
        factor, shift, tries = carry
        # Without rounding no pivot is below the shift. A smaller one is noise, which
        # would be most of the solution. A NaN is not large enough either.
        good = jnp.min(jnp.diagonal(factor)) ** 2 > 0.5 * shift
        return ~good & jnp.isfinite(shift) & (tries < _TRIES)

    def again(carry):
        _, shift, tries = carry
        return factorize(10 * shift), 10 * shift, tries + 1

    shift = damping + jnp.finfo(gram.dtype).eps * jnp.trace(gram)
    start = (factorize(shift), shift, jnp.zeros((), int))
    factor, _, retries = jax.lax.while_loop(fails, again, start)
    solution = jax.scipy.linalg.cho_solve((factor, True), stacked)
    if jnp.iscomplexobj(zeta):
        solution = jax.lax.complex(*jnp.split(solution, 2))
    return solution, retries


def _scheduled(schedule: Schedule, count: Int[Array, ""]) -> Any:
    if not callable(schedule):
        return schedule
    with jax.numpy_dtype_promotion("standard"):
        return schedule(count)


def _scale(factor: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: jnp.asarray(factor).astype(leaf.dtype) * leaf, tree
    )
