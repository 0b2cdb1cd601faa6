"""The forward Laplacian of whatever JAX traces, by the rules of folx.

folx can walk through a traced function itself. It is done here because folx 0.2.30

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


_LOG = logging.getLogger("eqsym")

# Jitted functions of JAX of which folx knows more than their parts tell.
_NAMED = "det inv logaddexp sigmoid sign silu slogdet softplus solve".split()
_JAX = f" at {os.path.dirname(jax.__file__)}{os.sep}"

# What depends on the coordinates is a `FwdLaplArray`, and anything else an array.
_Values = list[Any]


class Derivatives(NamedTuple):
    """Of one value by all coordinates."""

    gradient: Float[Array, " coordinates"]
    laplacian: Float[Array, ""]


def forward_laplacian(
    function: Callable[[Float[Array, "..."]], Sequence[Float[Array, ""]]],
    x: Float[Array, "..."],
    sparsity_threshold: float,
) -> list[Derivatives]:
    """Gradients and Laplacians of several real values in one pass.

    **Arguments:**

    - `function`: takes `x` to the values.
    - `x`: the coordinates.
    - `sparsity_threshold`: as for [`eqsym.ForwardLaplacian`][].

    **Raises:** `ValueError` for an operation of `function` that folx cannot
    differentiate. What `function` itself raises comes out as it is.
    """
    traced = jax.make_jaxpr(function)(x)
    coordinates = x.size
    unit = coordinates if sparsity_threshold < 1 else 1
    walk = _Walk(coordinates, int(sparsity_threshold * unit))
    # folx relies on promotions that users may have forbidden.
    rank = jax.numpy_rank_promotion("allow")
    dtype = jax.numpy_dtype_promotion("standard")
    with rank, dtype:
        start = folx.forward_laplacian(
            lambda x: x, walk.sparsity_threshold, disable_jit=True
        )(x)
        values = [walk.dense(value) for value in walk.function(traced, [start])]
    return [Derivatives(value.jacobian.data, value.laplacian) for value in values]


class _Walk(NamedTuple):
    """Through a traced function, one operation after the other."""

    coordinates: int
    sparsity_threshold: int

    def dense(self, value: Any) -> FwdLaplArray:
        """The value with its derivatives by all coordinates, zero if there are none."""
        if not isinstance(value, FwdLaplArray):
            array = jnp.asarray(value)
            jacobian = jnp.zeros((self.coordinates, *array.shape), array.dtype)
            return FwdLaplArray(array, FwdJacobian(jacobian), jnp.zeros_like(array))
        jacobian = value.jacobian.dense_array
        rows = ((0, self.coordinates - len(jacobian)),) + ((0, 0),) * value.ndim
        return value._replace(jacobian=FwdJacobian(jnp.pad(jacobian, rows)))

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
            outputs = self._outputs(equation, [read(v) for v in equation.invars])
            # folx takes the largest of the indices, of which these have none.
            outputs = [v if jnp.size(_plain(v)) else _plain(v) for v in outputs]
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in traced.jaxpr.outvars]

    def _outputs(self, equation: JaxprEqn, inputs: _Values) -> _Values:
        if not any(isinstance(value, FwdLaplArray) for value in inputs):
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
            name = params["name"] if primitive is jit_p else primitive.name
            dense = "leave out `sparsity_threshold`, or "
            raise ValueError(
                f"`ForwardLaplacian` cannot differentiate `{name}`{_place(equation)} "
                "in this wave function: "
                f"{dense if self.sparsity_threshold else ''}try "
                "`eqs.Hamiltonian(crystal, kinetic=eqs.HessianLaplacian())`, which is "
                "slower and uses the derivatives of JAX alone."
            ) from error

    def _differentiated(self, equation: JaxprEqn, inputs: _Values) -> _Values:
        """By the rule of folx for the operation."""
        types: list[Any] = [variable.aval for variable in equation.outvars]
        inexact = [jnp.issubdtype(t.dtype, jnp.inexact) for t in types]
        # folx differentiates by sparse arguments one after the other, and the rule of a
        # user may ask which of them vary (`symbolic_zeros`).
        depend = sum(isinstance(v, FwdLaplArray) for v in inputs)
        if not all(inexact) or (depend > 1 and _calls(equation)):
            inputs = [
                self.dense(v) if isinstance(v, FwdLaplArray) else v for v in inputs
            ]
        if all(inexact):
            return folx.forward_laplacian(
                lambda *values: self._bound(equation, values),
                self.sparsity_threshold,
                disable_jit=True,
            )(*inputs)
        outputs = self._bound(equation, [_plain(v) for v in inputs])
        if not any(inexact):
            return outputs
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
        found = iter(rule(tuple(inputs), {}, self.sparsity_threshold))
        return [
            next(found) if has else value
            for value, has in zip(outputs, inexact, strict=True)
        ]

    def _bound(self, equation: JaxprEqn, values: Sequence[Any]) -> _Values:
        """Without derivatives."""
        primitive = equation.primitive
        # folx follows sparse derivatives through indices that it can read.
        constant = not any(isinstance(value, Tracer) for value in values)
        early = constant and self.sparsity_threshold > 0
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
            _swap(self.dense(v)) if isinstance(v, FwdLaplArray) else v
            for v in inputs[len(constants) + carried :]
        ]

        def dense(values, depends):
            return [
                self.dense(v) if has or isinstance(v, FwdLaplArray) else v
                for v, has in zip(values, depends, strict=True)
            ]

        def step(depends, carry, row):
            outputs = self.function(body, [*constants, *carry, *row])
            depends = depends + [False] * (len(outputs) - carried)
            outputs = dense(outputs, depends)
            return outputs[:carried], outputs[carried:]

        # What starts as a constant may depend on the coordinates after a step.
        row = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), rows)
        depends, before = [isinstance(value, FwdLaplArray) for value in start], None
        while depends != before:
            before, start = depends, dense(start, depends)
            after, _ = jax.eval_shape(functools.partial(step, depends), start, row)
            depends = [isinstance(value, FwdLaplArray) for value in after]
        last, stacked = jax.lax.scan(
            functools.partial(step, depends),
            start,
            rows,
            **{name: equation.params[name] for name in ("length", "reverse", "unroll")},
        )
        return [
            *last,
            *(_swap(v) if isinstance(v, FwdLaplArray) else v for v in stacked),
        ]


def _plain(value: Any) -> Any:
    """Without its derivatives."""
    return value.x if isinstance(value, FwdLaplArray) else value


def _calls(equation: JaxprEqn) -> bool:
    """Whether an operation consists of others, such as those of a user's function."""
    parts = jax.tree.leaves(list(equation.params.values()))
    return any(isinstance(part, (Jaxpr, ClosedJaxpr)) for part in parts)


def _swap(value: FwdLaplArray) -> FwdLaplArray:
    """From derivatives along the first axis to rows along it, and back."""
    jacobian = FwdJacobian(jnp.swapaxes(value.jacobian.data, 0, 1))
    return value._replace(jacobian=jacobian)


def _place(equation: JaxprEqn) -> str:
    """Line and function of the user, if JAX has kept them."""
    place = summarize(equation.source_info)
    return f" ({place})" if place else ""


def _is_named(equation: JaxprEqn) -> bool:
    """Whether folx has a rule for this jitted function of JAX."""
    source = str(equation.params["jaxpr"].jaxpr.debug_info.func_src_info)
    return equation.params["name"] in _NAMED and _JAX in source
