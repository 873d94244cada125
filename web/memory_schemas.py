"""The shapes of what memory is asked and answers; the OpenAPI document is made from these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MEMORY_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
_TAKEN = frozenset({"import", "export"})
_LONGEST = 1 << 16


def _free(id: str) -> str:
    if id in _TAKEN:
        raise ValueError(f"{id!r} is the name of a route, not of a memory")
    return id


def _iso(value: object) -> object:
    """A time as ISO 8601 writes it; numbers are not taken for times."""
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    if value is None:
        return None
    raise ValueError("a time is written as in 2026-11-22T10:00:00+00:00")


NewId = Annotated[str, Field(pattern=MEMORY_ID), AfterValidator(_free)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
MemoryText = Annotated[str, Field(min_length=1, max_length=_LONGEST)]
Moment = Annotated[datetime, BeforeValidator(_iso)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Teach(_Strict):
    """`POST /v1/memories`."""

    text: MemoryText
    id: NewId | None = None
    speaker: Name = "user"
    session: Name | None = None
    at: Moment | None = None
    supersedes: Annotated[str, Field(pattern=MEMORY_ID)] | None = Field(
        None, description="The memory whose place this one takes."
    )


class Taught(BaseModel):
    """What became of what was taught."""

    id: str | None = Field(description="The memory that holds it now; null: none does.")
    fate: str
    deduped: bool
    reason: str | None
    replaced: str | None


class MemoryRecord(_Strict):
    """One line of an import or export."""

    id: NewId | None = None
    text: MemoryText
    speaker: Name | None = None
    session: Name | None = None
    at: Moment | None = None
    author: Literal["user", "model", "other"] | None = None
    copies: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    pinned: bool | None = None
    private: bool | None = None
    quarantined: Annotated[str, Field(max_length=500)] | None = None
    superseded_by: Annotated[str, Field(pattern=MEMORY_ID)] | None = None


class ImportReply(BaseModel):
    """What became of the lines of an import."""

    lines: int
    fates: dict[str, int]


class SalienceReply(BaseModel):
    """SNARC, each in [0, 1]; null: unknown, and left out of the total. `sign` is the reward's."""

    surprise: float | None
    novelty: float | None
    arousal: float
    reward: float
    conflict: float
    total: float
    percentile: float
    gate: float
    sign: int


class Memory(BaseModel):
    """One memory; `score`, `rank` and `reasons` where it was searched for."""

    id: str
    text: str
    speaker: str
    session: str | None
    at: str
    channel: str
    author: str
    turn: str | None
    copies: int
    pinned: bool
    private: bool
    quarantined: str | None
    superseded_by: str | None
    accesses: int
    salience: SalienceReply | None
    score: float | None = None
    rank: int | None = None
    reasons: dict[str, Any] | None = None


class Wording(BaseModel):
    """Another event that says the same; `text` is null where it was word for word."""

    id: str
    text: str | None
    at: str


class MemoryDetail(Memory):
    """One memory, with what was merged into it, the trust in its source, and in who speaks there by any channel."""

    trust: float
    trust_in_entity: float
    wordings: list[Wording]


class MemoryList(BaseModel):
    """`GET /v1/memories`."""

    data: list[Memory]
    has_more: bool


class Changes(_Strict):
    """`PATCH /v1/memories/{id}`."""

    pinned: bool | None = None
    private: bool | None = Field(None, description="true: it may be recalled, and no night may learn it.")
    quarantined: Literal[False] | None = Field(None, description="false: release it.")


class Verified(_Strict):
    """`POST /v1/memories/{id}/verify`."""

    true: bool


class Trust(BaseModel):
    """How far a source is believed, and who speaks there by any channel; in (0, 1)."""

    source: str
    trust: float
    entity: str
    trust_in_entity: float


class WhyNotReply(BaseModel):
    """The first reason for which a memory did not come."""

    id: str
    reason: str
    detail: str
    rank: int | None
    score: float | None
    cut: float | None
    missing: list[str]
    dropped: list[str]


class ReceiptReply(BaseModel):
    """What a forgetting reached: ids and counts, never text."""

    id: str
    at: str
    memories: list[str]
    wordings: list[str]
    full_text_entries: int
    vectors: int
    patterns: list[str]
    evidence: int
    recalls: int
    messages: list[str]
    thoughts: int
    kv_states: int
    files_searched: list[str]
    found_in_files: int
    waiting: list[str]


class ReceiptList(BaseModel):
    """`GET /v1/receipts`."""

    data: list[dict[str, Any]]


class FeedbackBody(_Strict):
    """`POST /v1/feedback`."""

    turn: Annotated[str, Field(pattern=r"^turn_[0-9a-z]{26}$")]
    reward: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class FeedbackReply(BaseModel):
    """What the feedback moved."""

    turn: str
    reward: float
    memories: list[str]


class MemoryAlarm(BaseModel):
    """Something about the salience scorer that makes its scores worth little."""

    dimension: str
    kind: str
    detail: str
