"""The forward Laplacian of whatever JAX traces.

Most operations have a rule in `rules`, which keeps derivatives sparse, and the rest is
left to folx. folx 0.2.30 could walk through a traced function itself, but it

- gives up sparse derivatives at the first `jnp.where` of two arguments,
- reads parameters of `jax.lax.scan` that jax 0.12 has renamed,
- refuses loops over values that depend on the coordinates, and loops that start from a
  constant, and mistakes the axes of what a loop stacks,
- takes a user's jitted function for one of JAX if it is called `solve` or `sigmoid`,
- adds up derivatives of integers, which do not exist (argsort, counters of loops),
- does not say which operation it cannot differentiate, and what else there is.
"""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import folx
import jax
import jax.numpy as jnp
import numpy as np
from folx.api import FwdJacobian, FwdLaplArray
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.extend.core.primitives import custom_vjp_call_p, jit_p, remat_p, scan_p
from jax.extend.source_info_util import summarize
from jaxtyping import Array, Float

from .derivatives import coordinates_of, Differentiated, is_small
from .determinant import log_determinant
from .operation import Operation, plain, varies
from .rules import differentiate


_LOG = logging.getLogger("eqsym")

# Jitted functions of JAX of which folx knows more than their parts tell.
_NAMED = "det inv logaddexp sigmoid sign silu slogdet softplus solve".split()
_JAX = f" at {os.path.dirname(jax.__file__)}{os.sep}"

# Whose derivatives are zero wherever they exist.
_STEPS = "ceil floor round sign stop_gradient".split()

# What depends on the coordinates is `Differentiated`, and anything else an array.
_Values = list[Any]


class Derivatives(NamedTuple):
    """Of one value by all coordinates."""

    gradient: Float[Array, " coordinates"]
    laplacian: Float[Array, ""]


def forward_laplacian(
    function: Callable[[Float[Array, "..."]], Sequence[Float[Array, ""]]],
    x: Float[Array, "..."],
) -> list[Derivatives]:
    """Gradients and Laplacians of several real values in one pass.

    **Arguments:**

    - `function`: takes `x` to the values.
    - `x`: the coordinates.

    **Raises:** `ValueError` for an operation of `function` that folx cannot
    differentiate. What `function` itself raises comes out as it is.
    """
    traced = jax.make_jaxpr(function)(x)
    walk = _Walk(x.size)
    start = coordinates_of(x)
    if start.which is not None and not is_small(start.which, x.size):
        start = start.dense(x.size)
    # Users may have forbidden promotions, on which rules rely.
    rank = jax.numpy_rank_promotion("allow")
    dtype = jax.numpy_dtype_promotion("standard")
    with rank, dtype:
        values = [walk.dense(value) for value in walk.function(traced, [start])]
    return [Derivatives(value.slots, value.laplacian) for value in values]


class _Walk(NamedTuple):
    """Through a traced function, one operation after the other."""

    coordinates: int

    def dense(self, value: Any) -> Differentiated:
        """The value with its derivatives by all coordinates, zero if there are none."""
        if isinstance(value, Differentiated):
            return value.dense(self.coordinates)
        array = jnp.asarray(value)
        slots = jnp.zeros((self.coordinates, *array.shape), array.dtype)
        return Differentiated(array, slots, jnp.zeros_like(array))

    def function(self, traced: ClosedJaxpr, inputs: _Values) -> _Values:
        """The outputs of a function."""
        variables = (*traced.jaxpr.constvars, *traced.jaxpr.invars)
        known = dict(zip(variables, (*traced.consts, *inputs), strict=True))

        def read(atom: Any) -> Any:
            if isinstance(atom, Literal):
                kind: Any = atom.aval
                return np.asarray(atom.val, kind.dtype)
            return known[atom]

        for equation in traced.jaxpr.eqns:
            inputs = [read(v) for v in equation.invars]
            if _name(equation) == "slogdet" and _is_named(equation):
                outputs = self._slogdet(equation, inputs, traced.jaxpr)
            else:
                outputs = self._outputs(equation, inputs)
            # There is nothing to differentiate in an empty array.
            outputs = [v if jnp.size(plain(v)) else plain(v) for v in outputs]
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in traced.jaxpr.outvars]

    def _slogdet(self, equation: JaxprEqn, inputs: _Values, jaxpr: Jaxpr) -> _Values:
        (matrix,) = inputs
        if not varies(matrix):
            return self._bound(equation, inputs)
        # Matrices are put together from rows of spin-up and spin-down electrons.
        (variable,) = equation.invars
        rows = [matrix.value.shape[-2]]
        for maker in jaxpr.eqns:
            if variable in maker.outvars and _name(maker) == "concatenate":
                if maker.params["dimension"] == matrix.value.ndim - 2:
                    sizes: list[Any] = [v.aval for v in maker.invars]
                    rows = [size.shape[-2] for size in sizes if size.shape[-2]]
        return list(log_determinant(self.dense(matrix), rows))

    def _outputs(self, equation: JaxprEqn, inputs: _Values) -> _Values:
        if not any(varies(value) for value in inputs):
            return self._bound(equation, inputs)
        primitive, params = equation.primitive, equation.params
        if primitive is scan_p:
            return self._loop(equation, inputs)
        if primitive is jit_p and not _is_named(equation):
            return self.function(params["jaxpr"], inputs)
        # Nothing is gained from a checkpoint in a forward pass.
        if primitive is remat_p:
            return self.function(ClosedJaxpr(params["jaxpr"], ()), inputs)
        # A rule for the reverse mode says nothing about second derivatives.
        if primitive is custom_vjp_call_p:
            return self.function(params["call_jaxpr"], inputs)
        try:
            return self._differentiated(equation, inputs)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            raise ValueError(
                f"`ForwardLaplacian` cannot differentiate `{_name(equation)}`"
                f"{_place(equation)} in this wave function: try "
                "`eqs.Hamiltonian(crystal, kinetic=eqs.HessianLaplacian())`, which is "
                "slower and uses the derivatives of JAX alone."
            ) from error

    def _differentiated(self, equation: JaxprEqn, inputs: _Values) -> _Values:
        """With derivatives, if there are any."""
        types: list[Any] = [variable.aval for variable in equation.outvars]
        inexact = [jnp.issubdtype(t.dtype, jnp.inexact) for t in types]
        values = [plain(v) for v in inputs]
        if not any(math.prod(t.shape) for t in types):
            return self._bound(equation, values)
        name = _name(equation)
        real = not any(jnp.iscomplexobj(v) for v in values)
        if not any(inexact) or (name in _STEPS and (real or name == "stop_gradient")):
            return self._bound(equation, values)
        if len(types) == 1:
            bind = lambda *values: self._bound(equation, values)[0]
            operation = Operation(bind, equation.params, self.coordinates)
            found = differentiate(name, operation, inputs)
            if found is not None:
                if found.which is not None and not is_small(
                    found.which, self.coordinates
                ):
                    found = found.dense(self.coordinates)
                return [found]
        return self._by_folx(equation, inputs, inexact)

    def _by_folx(
        self, equation: JaxprEqn, inputs: _Values, inexact: list[bool]
    ) -> _Values:
        """Derivatives by all coordinates, by the rule of folx for the operation."""
        given = [self._for_folx(v) if varies(v) else v for v in inputs]
        if all(inexact):
            found = folx.forward_laplacian(
                lambda *values: self._bound(equation, values), disable_jit=True
            )(*given)
            return [self._from_folx(value) for value in found]
        # folx adds up derivatives of all outputs, so give it those that have one.
        _LOG.warning(
            "`ForwardLaplacian` computes the whole Hessian of `%s`%s: it may be slow.",
            equation.primitive.name,
            _place(equation),
        )

        def some(*values):
            outputs = self._bound(equation, values)
            return [v for v, has in zip(outputs, inexact, strict=True) if has]

        rule = folx.wrap_forward_laplacian(some)
        arguments: Any = tuple(given)
        found = iter(rule(arguments, {}, 0))
        outputs = self._bound(equation, [plain(v) for v in inputs])
        return [
            self._from_folx(next(found)) if has else value
            for value, has in zip(outputs, inexact, strict=True)
        ]

    def _for_folx(self, value: Differentiated) -> FwdLaplArray:
        value = self.dense(value)
        return FwdLaplArray(value.value, FwdJacobian(value.slots), value.laplacian)

    def _from_folx(self, value: Any) -> Any:
        if not isinstance(value, FwdLaplArray):
            return value
        slots = value.jacobian.dense_array
        rows = ((0, self.coordinates - len(slots)),) + ((0, 0),) * value.ndim
        return Differentiated(value.x, jnp.pad(slots, rows), value.laplacian)

    def _bound(self, equation: JaxprEqn, values: Sequence[Any]) -> _Values:
        """Without derivatives."""
        primitive = equation.primitive
        types: list[Any] = [variable.aval for variable in equation.outvars]
        # Indices are needed as numbers, to see which derivatives they take.
        early = (
            bool(types)
            and not equation.effects
            and not any(isinstance(value, Tracer) for value in values)
            and not any(jnp.issubdtype(t.dtype, jnp.inexact) for t in types)
        )
        with jax.ensure_compile_time_eval() if early else contextlib.nullcontext():
            outputs = primitive.bind(
                *values, **primitive.get_bind_params(equation.params)
            )
        return list(outputs) if primitive.multiple_results else [outputs]

    def _loop(self, equation: JaxprEqn, inputs: _Values) -> _Values:
        """`jax.lax.scan` with derivatives among what it carries, reads and stacks."""
        body = equation.params["jaxpr"]

        # Those have one axis less inside of the loop.
        def along(outside, inside):
            pairs = zip(outside, inside, strict=True)
            return sum(a.aval.ndim != b.aval.ndim for a, b in pairs)

        read = along(equation.invars, body.jaxpr.invars)
        carried = len(equation.outvars) - along(equation.outvars, body.jaxpr.outvars)
        constants = inputs[: len(inputs) - read - carried]
        start = inputs[len(constants) : len(constants) + carried]
        rows = [
            _swap(self.dense(v)) if varies(v) else v
            for v in inputs[len(constants) + carried :]
        ]

        def dense(values, depends):
            return [
                self.dense(v) if has or varies(v) else v
                for v, has in zip(values, depends, strict=True)
            ]

        def step(depends, carry, row):
            outputs = self.function(body, [*constants, *carry, *row])
            depends = depends + [False] * (len(outputs) - carried)
            outputs = dense(outputs, depends)
            return outputs[:carried], outputs[carried:]

        # What starts as a constant may depend on the coordinates after a step.
        row = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), rows)
        depends, before = [varies(value) for value in start], None
        while depends != before:
            before, start = depends, dense(start, depends)
            after, _ = jax.eval_shape(functools.partial(step, depends), start, row)
            depends = [varies(value) for value in after]
        last, stacked = jax.lax.scan(
            functools.partial(step, depends),
            start,
            rows,
            **{name: equation.params[name] for name in ("length", "reverse", "unroll")},
        )
        return [
            *last,
            *(_swap(v) if varies(v) else v for v in stacked),
        ]


def _swap(value: Differentiated) -> Differentiated:
    """From derivatives along the first axis to rows along it, and back."""
    return value._replace(slots=jnp.swapaxes(value.slots, 0, 1))


def _name(equation: JaxprEqn) -> str:
    """Of the operation, or of the jitted function of JAX."""
    primitive = equation.primitive
    return equation.params["name"] if primitive is jit_p else primitive.name


def _place(equation: JaxprEqn) -> str:
    """Line and function of the user, if JAX has kept them."""
    place = summarize(equation.source_info)
    return f" ({place})" if place else ""


def _is_named(equation: JaxprEqn) -> bool:
    """Whether folx has a rule for this jitted function of JAX."""
    source = str(equation.params["jaxpr"].jaxpr.debug_info.func_src_info)
    return equation.params["name"] in _NAMED and _JAX in source
