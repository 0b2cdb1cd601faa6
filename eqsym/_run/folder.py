"""The folder of a run: `run.json`, which describes it, and loading it again."""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core import checked, partition
from .._group import SpaceGroup
from .._hamiltonian import Hamiltonian
from .._storage import (
    compare,
    decode,
    encode,
    filled,
    in_precision,
    is_known,
    Json,
    latest_checkpoint,
    listed,
    pretty,
    read_arrays,
    read_description,
    read_history,
    uncompared,
)
from .._training import AbstractStrategy, Pretraining, VMC
from .._wavefunction import AbstractWavefunction
from .result import RunResult
from .stages import in_words, stage_of


_logger = logging.getLogger("eqsym")

CHECKPOINTS, HISTORY, RUN = "checkpoints", "history.csv", "run.json"
PRETRAINING, BURN_IN, TRAINING = "pretraining", "burn-in", "training"
# The folders of the states in each phase of a run, in their order.
PHASES = {
    PRETRAINING: f"{CHECKPOINTS}/{PRETRAINING}",
    BURN_IN: f"{CHECKPOINTS}/{BURN_IN}",
    TRAINING: CHECKPOINTS,
}
# Characters of a list in `run.json`, such as operations, beyond which it is a digest.
_LONG = 400
# Folders that a message names.
_NAMED = 5
_GROUP, _STATE = "eqsym.SpaceGroup", "eqsym.VMCState"
_PACKAGES = "eqsym jax jaxlib equinox optax folx numpy pyscf spglib".split()


class RunSettings(eqx.Module):
    """The arguments of a run that decide what it computes."""

    vmc: VMC
    walkers: int
    key: list[int]
    burn_in: int
    pretraining: Pretraining | None
    stages: tuple[tuple[int, AbstractStrategy], ...]


@checked
def load_run(
    path: str | os.PathLike, wavefunction: AbstractWavefunction | None = None
) -> RunResult:
    """Loads a run from its folder, to evaluate or plot it, without the script that
    trained it. Nothing is changed: the run may still be going on.

    The wave function is built again from its description, with classes of eqsym only.
    No pickle is read, and no code is taken from the folder.

    **Arguments:**

    - `path`: the folder given to [`eqsym.run`][].
    - `wavefunction`: one of the same structure, whose parameters do not matter. Needed
        only for a wave function with classes or functions that are not of eqsym.

    **Returns:**

    Wave function, walkers, history and group, [`eqsym.RunResult`][]; its `state` is
    `None`.

    **Raises:** `FileNotFoundError` for a folder without a whole checkpoint; the message
    says if the run has not come to its first one, and which folder may be meant.
    `ValueError` for checkpoints that are not of a run, for a wave function that this
    version of eqsym cannot build, for a `wavefunction` with another structure, with the
    fields that differ, and for a run in double precision if JAX does not use it.
    """
    checkpoints = Path(path) / CHECKPOINTS
    step = latest_checkpoint(checkpoints)
    if step is None:
        raise FileNotFoundError(_without_checkpoint(Path(path)))
    while True:
        try:
            description = read_description(checkpoints, step)
            arrays = read_arrays(checkpoints, step)
            break
        except (OSError, ValueError):
            # A run that goes on may have removed it, after two newer ones.
            before, step = step, latest_checkpoint(checkpoints)
            if step is None or step == before:
                raise
    saved = description["state"]
    if not isinstance(saved, dict) or saved.get("class") != _STATE:
        raise ValueError(
            f"`path` must be the folder of a run, got {path}: its checkpoints are of "
            "something else, such as an estimate."
        )
    state = saved["fields"]
    try:
        network = _network(state["wavefunction"], arrays, wavefunction)
        walkers = jnp.asarray(arrays[".sampler.walkers"])
    except ValueError as error:
        version = description["eqsym"]
        raise ValueError(
            f"The wave function of the run {path}, written by eqsym {version} (this is "
            f"{metadata.version('eqsym')}), cannot be loaded. {error}"
        ) from None
    settings = description["settings"]
    first = [0, _field(settings, "vmc", "strategy")]
    planned = [first, *_field(settings, "stages")]
    node = planned[stage_of([start for start, _ in planned], step)][1]
    trained, words = None, str(node["class"]).rpartition(".")[2]
    try:
        drawn = decode(state["strategy"], arrays, ".strategy")
        strategy = decode(node, {})
        trained, words = strategy.view(network, drawn), in_words(strategy)
    except ValueError as error:
        _logger.warning(
            "`trained` of the run %s is `None`: its strategy cannot be built again. %s "
            "Apply the strategy to `wavefunction` yourself, as the script that trained "
            "did.",
            path,
            error,
        )
    return RunResult(
        wavefunction=network,
        trained=trained,
        walkers=walkers,
        step=step,
        history=read_history(Path(path) / HISTORY),
        state=None,
        _group=group_in(planned),
        _strategy=words,
    )


def _without_checkpoint(folder: Path) -> str:
    """The reason that a folder has no run to load."""
    checkpoints, history = folder / CHECKPOINTS, folder / HISTORY
    # A checkpoint that is damaged, or was removed, is another matter.
    lost = checkpoints.is_dir() and any(
        place.name.isdigit() or place.suffix == ".damaged"
        for place in checkpoints.iterdir()
    )
    lost = lost or (history.exists() and history.read_text().count("\n") > 1)
    if lost or not (folder / RUN).exists():
        return (
            f"`path` must be the folder of a run, got {folder.absolute()}"
            f"{_instead(folder)}."
        )
    reached = "at its start"
    for phase in (PRETRAINING, BURN_IN):
        step = latest_checkpoint(folder / PHASES[phase])
        if step is not None:
            reached = f"at step {step} of its {phase}"
    try:
        again = json.loads((folder / RUN).read_text())["resume"]
    except (OSError, ValueError, KeyError, TypeError):
        again = "call eqsym.run again with the same arguments"
    return (
        f"The run in {folder} ended before its first checkpoint of training, {reached},"
        f" or has not come further yet: there is nothing to load. To go on: {again}"
    )


def _instead(folder: Path) -> str:
    """What is at a path that is not the folder of a run, and which one may be meant."""
    for outer in Path(os.path.abspath(folder)).parents[:2]:
        if latest_checkpoint(outer / CHECKPOINTS) is not None:
            return f", which is a part of one: give {outer}"
    if not folder.is_dir():
        return ", which is a file" if folder.exists() else ", which does not exist"
    runs = sorted(inner.name for inner in folder.iterdir() if (inner / RUN).exists())
    if runs:
        more = ", ..." if len(runs) > _NAMED else ""
        return f", which holds runs: {', '.join(runs[:_NAMED])}{more}"
    return f": it has no whole checkpoint in {CHECKPOINTS}/"


def describe_run(
    folder: Path, wavefunction: AbstractWavefunction, settings: RunSettings
) -> Json:
    """The description of a run in `run.json`, for people."""
    crystal, encoded = wavefunction.crystal, encode(settings)
    parameters = jax.tree.leaves(partition(wavefunction)[0])
    planned = [(0, settings.vmc.strategy), *settings.stages]
    group = group_in(encoded)
    return {
        "resume": _command_to_resume(),
        "evaluate": _command_to_evaluate(folder, wavefunction, settings),
        "crystal": {
            "species": list(crystal.species),
            "lattice_bohr": crystal.lattice.vectors.tolist(),
            "positions_bohr": crystal.cart_positions.tolist(),
            "supercell": crystal.matrix.tolist(),
            "pseudopotential": {
                symbol: one.name or "its own"
                for symbol, one in crystal.pseudopotential.items()
            },
            "electrons_up_down": list(crystal.electrons),
            "twist": crystal.twist.tolist(),
        },
        "wavefunction": {
            "class": type(wavefunction).__qualname__,
            "parameters": sum(leaf.size for leaf in parameters),
            "precision": sorted({str(leaf.dtype) for leaf in parameters}),
        },
        "symmetry": {
            "stages": [
                {"from_step": start, "strategy": type(strategy).__qualname__}
                for start, strategy in planned
            ],
            "group": None if group is None else group.symbol,
            "operations": None if group is None else group.order,
        },
        "settings": _summary(encoded),
        "not_compared_when_resumed": uncompared(encoded, "settings"),
    }


def saved_walkers(description: Json) -> int:
    """The number of walkers in a checkpoint of a run."""
    return _field(description["settings"], "walkers")


def session(
    start: int, steps: int, checkpoint_every: int, mesh: jax.sharding.Mesh | None
) -> Json:
    """A part of a run: when, where and with which versions it was done."""
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "from_step": start,
        "to_step": steps,
        "checkpoint_every": checkpoint_every,
        "versions": {"python": platform.python_version(), **_versions()},
        "host": platform.node(),
        "processes": jax.process_count(),
        "devices": [str(device) for device in jax.devices()],
        "mesh": None if mesh is None else dict(mesh.shape),
    }


def _versions() -> dict[str, str]:
    """Versions of the packages that are installed: a run does not need all of them."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def write_run_json(folder: Path, described: Json, session: Json) -> None:
    """Writes `run.json`, in one piece, with one more session."""
    place = folder / RUN
    try:
        sessions = json.loads(place.read_text())["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        sessions = []
    _replace(folder, {**described, "sessions": [*sessions, session]})


def note_in_run_json(folder: Path, name: str, value: Json) -> None:
    """Adds to a list in the last session of `run.json`."""
    content = json.loads((folder / RUN).read_text())
    content["sessions"][-1].setdefault(name, []).append(value)
    _replace(folder, content)


def _replace(folder: Path, content: Json) -> None:
    place = folder / RUN
    temporary = place.with_name(RUN + ".tmp")
    temporary.write_text(pretty(content) + "\n")
    os.replace(temporary, place)


def _command_to_resume() -> str:
    if getattr(sys.modules["__main__"], "__file__", None) is None:
        return "call eqsym.run again with the same arguments"
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join(sys.orig_argv)}"


def _command_to_evaluate(
    folder: Path, wavefunction: AbstractWavefunction, settings: RunSettings
) -> str:
    """A command for a shell; or for the script that trained, if something is needed
    that only that has."""
    path, given = json.dumps(str(folder.absolute())), []
    trained, hamiltonian = "run.trained", "eqs.Hamiltonian(run.crystal)"
    if not is_known(wavefunction):
        given.append("wavefunction")
        path += ", wavefunction"
    if not all(map(is_known, _planned(settings))):
        given.append("trained")
        trained = "trained"
    if not isinstance(settings.vmc.hamiltonian, Hamiltonian):
        given.append("hamiltonian")
        hamiltonian = "hamiltonian"
    lines = [
        "import jax, eqsym as eqs",
        f"run = eqs.load_run({path})",
        f"print(eqs.evaluate({trained}, {hamiltonian}, "
        "eqs.Chains(run.walkers, key=jax.random.key(1))))",
    ]
    parameters = jax.tree.leaves(partition(wavefunction)[0])
    if any(leaf.dtype == np.float64 for leaf in parameters):
        lines.insert(1, 'jax.config.update("jax_enable_x64", True)')
    code = "; ".join(lines)
    if given:
        names = " and ".join(f"`{name}`" for name in given)
        return f"in Python, with {names} of the script that trained: {code}"
    return "python -c " + shlex.quote(code)


def _planned(settings: RunSettings) -> list[AbstractStrategy]:
    return [settings.vmc.strategy, *(strategy for _, strategy in settings.stages)]


def _network(
    node: Json,
    arrays: dict[str, np.ndarray],
    like: AbstractWavefunction | None,
) -> AbstractWavefunction:
    prefix = ".wavefunction"
    if like is None:
        try:
            return decode(node, arrays, prefix)
        except ValueError as error:
            raise ValueError(
                f"{error} If it is of your own, give `load_run` a `wavefunction` of "
                "the same structure."
            ) from None
    found = compare(node, like, prefix)
    if found:
        precision = in_precision(found)
        what = "in another precision" if precision else "of another model"
        raise ValueError(
            f"`wavefunction` is {what}.{precision} These fields differ:{listed(found)}"
        )
    return filled(like, arrays, prefix)


def _field(node: Json, *names: str) -> Json:
    for name in names:
        if not isinstance(node, dict) or name not in node.get("fields", {}):
            raise ValueError(f"The checkpoint does not say what its `{name}` is.")
        node = node["fields"][name]
    return node


def group_in(node: Json) -> SpaceGroup | None:
    """The last group in a description, whatever else is in it."""
    found = None
    if isinstance(node, dict) and node.get("class") == _GROUP:
        return decode(node, {})
    if isinstance(node, (dict, list)):
        for inner in node.values() if isinstance(node, dict) else node:
            found = group_in(inner) or found
    return found


def _summary(node: Json) -> Json:
    """A description that people can read: digests in the places of long lists."""
    if isinstance(node, list):
        text = json.dumps(node)
        if "{" not in text and len(text) > _LONG:
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            return f"{len(node)} entries ({digest})"
        return [_summary(value) for value in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"class": name, "fields": fields}:
            inner = {key.lstrip("_"): _summary(value) for key, value in fields.items()}
            return {"class": name, **inner}
        case {"function": name, "holds": holds}:
            inner = {key: _summary(value) for key, value in holds.items()}
            return {"function": name, **inner} if inner else name
        case {"object": name, "holds": holds}:
            inner = {key: _summary(value) for key, value in holds.items()}
            return {"object": name, **inner}
        case {"dict": items}:
            return {str(key): _summary(value) for key, value in items}
        case {"list": items}:
            return _summary(items)
        case {"partial": _}:
            return {key: _summary(value) for key, value in node.items()}
    return next(iter(node.values()))
