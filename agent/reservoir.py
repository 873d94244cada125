"""An echo-state reservoir for the mood: three pools of leaky units, fast, slow and slower, by reservoirpy.

    x <- (1 - a) x + a tanh(W x + Win u + b),   a = 1 - exp(-dt / tau)              (Jaeger 2001; Jaeger et al. 2007)

The leak follows the time that has passed, not the number of beats: a mood lasts as long on an idle machine as on a busy
one. A state is one array. W, Win and b were made from a seed once and are shipped (`reservoir.safetensors`), for a
seed gives other bits on another processor, and a mood that travels must find the reservoir it lived in. Spectral radii
are below 1, for an agent idles for hours.
"""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from agent.errors import ReservoirRefused
from agent.senses import SENSES

if TYPE_CHECKING:  # with scipy.stats, a second: not where there is no mood
    from reservoirpy.nodes import Reservoir

FELT_SECONDS = 30.0
"""How long an event is felt; the time before it, silence is."""
_DEGREE, _INPUT, _BIAS = 10, 0.5, 0.5
_STEPS_A_TAU, _MOST_STEPS = 2, 40
"""Steps in which a stretch of time is taken: finer than tau / 2 until there would be too many."""
WASHOUT_SECONDS, _AGREES = 4 * 3600.0, 1e-3


Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Units with one time constant."""

    units: int
    tau: float
    """Seconds."""
    radius: float
    """Spectral radius of W."""


SHIPPED = Path(__file__).parent / "reservoir.safetensors"
POOLS = (Pool(100, 20.0, 0.9), Pool(100, 120.0, 0.8), Pool(100, 600.0, 0.3))


class Echo:
    """The pools. Holds no state: `moved` takes one and returns the next."""

    def __init__(self, senses: int, *, seed: int = 0, pools: tuple[Pool, ...] = POOLS) -> None:
        """Raises: ReservoirRefused: two states do not come together within four hours of silence."""
        self.pools, self.senses = pools, senses
        self._lock = threading.Lock()
        shipped = _shipped() if (pools, senses, seed) == (POOLS, len(SENSES), 0) else None
        self._nodes = [
            self._node(pool, seed + n) if shipped is None else self._known(pool, *shipped[n])
            for n, pool in enumerate(pools)
        ]
        self.units = sum(pool.units for pool in pools)
        if not self.forgets(np.random.default_rng(seed)):
            raise ReservoirRefused("the reservoir does not forget where it began, so its mood would not be its own")

    def _node(self, pool: Pool, seed: int) -> Reservoir:
        from reservoirpy.nodes import Reservoir

        node = Reservoir(
            pool.units,
            sr=pool.radius,
            input_scaling=_INPUT,
            input_connectivity=1.0,
            rc_connectivity=_DEGREE / pool.units,
            bias=np.random.default_rng(seed).uniform(-_BIAS, _BIAS, pool.units),
            seed=seed,
            input_dim=self.senses,
        )
        node.initialize(np.zeros((1, self.senses)))
        return node

    def _known(self, pool: Pool, weights: Any, inputs: Array, bias: Array) -> Reservoir:
        from reservoirpy.nodes import Reservoir

        node = Reservoir(pool.units, W=weights, Win=inputs, bias=bias, input_dim=self.senses)
        node.initialize(np.zeros((1, self.senses)))
        return node

    @cached_property
    def digest(self) -> str:
        """What a state belongs to: BLAKE2b of all weights and time constants."""
        of = hashlib.blake2b(digest_size=16)
        for pool, arrays in zip(self.pools, self.weights(), strict=True):
            for array in (*arrays, np.array([pool.tau])):
                of.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return of.hexdigest()

    def weights(self) -> list[tuple[Array, Array, Array]]:
        """Of each pool W [units, units], Win [units, senses], b [units]."""
        return [(_dense(node.W), _dense(node.Win), np.asarray(node.bias)) for node in self._nodes]

    @cached_property
    def rest(self) -> NDArray[np.float64]:
        """The state after long silence; [units]."""
        return self._silent(np.zeros(self.units), WASHOUT_SECONDS)

    def moved(self, state: NDArray[np.float64], senses: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
        """The state after an event, `seconds` after the one before: silence, then the event.

        Raises:
            ReservoirRefused: a state or senses of another shape, or not finite.
        """
        if state.shape != (self.units,) or senses.shape != (self.senses,):
            raise ReservoirRefused(f"a state of {state.shape} and senses of {senses.shape} are not this reservoir's")
        if not (np.isfinite(state).all() and np.isfinite(senses).all()):
            raise ReservoirRefused("a state or a sense that is not finite")
        seconds = seconds if math.isfinite(seconds) else WASHOUT_SECONDS
        state = self._silent(np.clip(state, -1.0, 1.0), max(0.0, seconds - FELT_SECONDS))
        return self._through(state, np.clip(senses, -1.0, 1.0), FELT_SECONDS)

    def forgets(self, chance: np.random.Generator) -> bool:
        """Whether two random states agree to 1e-3 after four hours of silence: the echo state property, tried."""
        one, other = chance.uniform(-1, 1, (2, self.units))
        apart = self._silent(one, WASHOUT_SECONDS) - self._silent(other, WASHOUT_SECONDS)
        return bool(np.abs(apart).max() < _AGREES)

    def _silent(self, state: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
        return self._through(state, np.zeros(self.senses), seconds)

    def _through(self, state: NDArray[np.float64], senses: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
        parts = np.split(state, np.cumsum([pool.units for pool in self.pools])[:-1])
        return np.concatenate(
            [
                self._run(node, pool, part, senses, seconds)
                for node, pool, part in zip(self._nodes, self.pools, parts, strict=True)
            ]
        )

    def _run(
        self, node: Reservoir, pool: Pool, state: NDArray[np.float64], senses: NDArray[np.float64], seconds: float
    ) -> NDArray[np.float64]:
        steps = min(_MOST_STEPS, math.ceil(seconds * _STEPS_A_TAU / pool.tau))
        if steps == 0:
            return state
        with self._lock:  # a node holds its last state
            node.lr = 1.0 - math.exp(-seconds / steps / pool.tau)
            node.state = {"out": state}
            for _ in range(steps):
                node.step(senses)
            return np.array(node.state["out"], dtype=np.float64)


def _shipped() -> list[tuple[Any, Array, Array]]:
    """W (sparse), Win and b of each of `POOLS`, as they lie in the package."""
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    found = load_file(SHIPPED)
    return [(csr_array(found[f"W{n}"]), found[f"Win{n}"], found[f"b{n}"]) for n in range(len(POOLS))]


def _dense(array: Any) -> Array:
    return np.asarray(array.toarray() if hasattr(array, "toarray") else array, dtype=np.float64)
