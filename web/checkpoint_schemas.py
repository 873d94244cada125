"""The shapes of checkpoints on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.moving import Seen
from memory.checkpoint_log import Logged
from web.schemas import TurnReply

How = Literal["exact", "converted", "rebuilt", "open"]


class SuspendReply(BaseModel):
    """`POST /v1/sessions/{id}/suspend`."""

    session: str
    state: Literal["suspended", "open"]
    """open: nothing of it was in memory, and there is no file."""
    tokens: int
    bytes: int
    codec: str
    unfinished: bool
    """Whether a reply waits to go on."""
    seconds: float


class ResumeBody(BaseModel):
    """How to go on with an unfinished reply."""

    model_config = ConfigDict(extra="forbid")

    go_on: bool = Field(True, alias="continue")
    """Write the rest of a reply that was suspended."""
    stream: bool = False
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    persona: dict[str, Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]] | None = None
    """Variables for the rest of it, the others at rest; by default as it began."""

    def changes(self) -> dict[str, Any]:
        """What is to be sampled otherwise from here on."""
        named = {"seed": self.seed, "temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in named.items() if value is not None}


class ResumeReply(BaseModel):
    """`POST /v1/sessions/{id}/resume`."""

    session: str
    how: How
    """rebuilt: the file was not used, and the tokens are read again at the next turn. open: it was not suspended."""
    why: str
    tokens: int
    """So many need not be read again."""
    seconds: float
    otherwise_seconds: float | None
    """What reading them again would have taken, by the speed of late; null: too little has been read to tell."""
    deviation: float | None
    """Of a converted state: KL divergence of its next token's distribution from where it was made, in nats."""
    unfinished: bool
    """Whether a reply waits to go on."""
    reply: TurnReply | None = None
    """The reply that went on, whole."""


class CheckpointEvent(BaseModel):
    """One event in the life of a session's state."""

    at: str
    event: Literal["suspended", "resumed", "exported", "imported", "evicted"]
    how: str | None
    why: str | None
    codec: str | None
    tokens: int
    bytes: int
    seconds: float
    seal: str | None

    @classmethod
    def of(cls, logged: Logged) -> CheckpointEvent:
        """An event as it is on record."""
        return cls(
            at=logged.at.isoformat(),
            event=logged.event,
            how=logged.how,
            why=logged.why,
            codec=logged.codec,
            tokens=logged.tokens,
            bytes=logged.nbytes,
            seconds=round(logged.seconds, 6),
            seal=logged.seal,
        )


class CheckpointEvents(BaseModel):
    """`GET /v1/sessions/{id}/checkpoints`."""

    object: Literal["list"] = "list"
    data: list[CheckpointEvent]


class LookReply(BaseModel):
    """What a file says of itself, and what would become of it here."""

    manifest: dict[str, Any]
    tensors: int
    bytes: int
    seal: str
    signer: str | None
    signature: Literal["own", "trusted", "unknown", "unsigned"]
    how: How
    why: str
    refused: str | None
    """Why it would not be taken in."""

    @classmethod
    def of(cls, seen: Seen) -> LookReply:
        """By a file's header."""
        return cls.model_validate(
            {
                "manifest": dict(seen.contents.manifest),
                "tensors": len(seen.contents.tensors),
                "bytes": seen.contents.nbytes,
                "seal": seen.contents.seal,
                "signer": seen.contents.signer,
                "signature": seen.signature,
                "how": seen.fit.how,
                "why": seen.fit.why,
                "refused": seen.refused or None,
            }
        )


class ImportReply(BaseModel):
    """`POST /v1/checkpoints`."""

    session: str
    how: How
    """What its next turn will do with what was read of it."""
    why: str
    signature: str
    tokens: int
    messages: int
    bytes: int
    seconds: float


class NewUpload(BaseModel):
    """`POST /v1/checkpoints/uploads`."""

    model_config = ConfigDict(extra="forbid")

    bytes: int = Field(ge=1)
    """Of the whole file."""


class UploadReply(BaseModel):
    """How far an upload has come."""

    upload: str
    offset: int
    bytes: int
