"""What routes work with: values and capabilities that the composition root has put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from agent.checkpoint import Checkpoints
from agent.core_self import Backups
from agent.moving import Moving
from agent.pulse import Pulse
from agent.turn import Awake
from consolidation.registry import AdapterNotFound, Registered, Registry
from consolidation.sleeper import Sleeper
from memory.checkpoint_log import Logged
from memory.experiences import Experiences
from memory.recall import Recall
from memory.store import Store
from models.language import BASE
from web.metrics import Metrics
from web.tracing import Traces
from web.turns import TurnPool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyDefaults:
    """What a request gets that does not say."""

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAccess:
    """Memory, as its routes see it."""

    store: Store
    experiences: Experiences
    recall: Recall
    files: tuple[Path, ...]
    """Every file that may hold what was remembered."""
    aside: Path
    """Where copies that were broken are kept: gone once something is forgotten."""
    nudge: Callable[[], None]
    """Something was added: give it its vector now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepAccess:
    """Nights and adapters, as their routes see them."""

    sleeper: Sleeper
    registry: Registry
    date: Callable[[], str]
    """The local date that a night begun now belongs to."""
    zone: tzinfo
    """Where days begin and end."""
    wake: Callable[[str, Registered | None], None]
    """Let an adapter serve an owner from the next reply on; None: the base."""
    load: Callable[[str], None]
    """Have the engine know an adapter that a request names."""

    def adapter_asked_for(self, asked: str | None, owner: str) -> str | None:
        """The adapter that a request names, if it is the owner's; None where it names none.

        Raises:
            AdapterNotFound: it is not.
        """
        if asked in (None, BASE):
            return asked
        if asked not in {a.id for a in self.registry.lineage(owner)}:
            raise AdapterNotFound(f"there is no adapter {asked!r}")
        self.load(asked)
        return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One running service, as its routes see it."""

    awake: Awake
    memory: MemoryAccess
    sleep: SleepAccess
    checkpoints: Checkpoints
    moving: Moving
    checkpoint_log: Callable[[str], Sequence[Logged]]
    """What became of a session's state."""
    most_checkpoint_bytes: int
    """Of a file that is taken in."""
    pulse: Pulse | None
    """None: it has no heartbeat."""
    backups: Backups
    model_name: str
    defaults: ReplyDefaults
    metrics: Metrics
    traces: Traces | None
    """None: nobody traces replies."""
    pool: TurnPool
    draining: Callable[[], bool]
    started_at: datetime
    version: str


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


ServiceDep = Annotated[Service, Depends(_service)]
OwnerDep = Annotated[str, Depends(_owner)]
