"""Several processes that compute together, after `jax.distributed.initialize`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from jaxtyping import Array, Shaped


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def on_host(array: Array) -> Shaped[np.ndarray, "..."]:
    """All of an array, also if other processes hold parts of it: then all processes
    have to ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def put(array: Array | np.ndarray, sharding: Sharding) -> Array:
    """An array, which all processes have the same, on the devices of a sharding, which
    may be those of several processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and jnp.issubdtype(
        array.dtype, jax.dtypes.prng_key
    ):
        data = put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    if isinstance(array, jax.Array):
        array = on_host(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])


def on_all(condition: bool) -> bool:
    """Whether something holds on all processes, which all have to ask."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.asarray(condition))))


def on_first(function: Callable[[], bytes | None]) -> bytes:
    """What a function returns that only the first process calls, on all of them; `None`
    arrives as no bytes.

    **Raises:** what the function raises: there the same, `OSError` and `ValueError` on
    the other processes too, and `RuntimeError` for anything else.
    """
    if jax.process_count() == 1:
        return function() or b""
    # All meet before the first one begins, which may take minutes: what connects
    # processes at their first meeting waits for seconds only.
    on_all(True)
    result, raised = b"", None
    if is_first():
        try:
            result = b" " + (function() or b"")
        except Exception as error:
            raised = error
            kind = next((k for k, e in _ERRORS.items() if isinstance(error, e)), "R")
            result = f"{kind}{error}".encode()
    result = _broadcast(result)
    if raised is not None:
        raise raised
    kind, result = result[:1].decode(), result[1:]
    if kind != " ":
        error = _ERRORS.get(kind, RuntimeError)
        raise error(f"On the first process: {result.decode()}")
    return result


_ERRORS: dict[str, type[Exception]] = {"O": OSError, "V": ValueError}


def _broadcast(data: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    here = np.frombuffer(data.ljust(size, b"\0")[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(here), np.uint8).tobytes()
