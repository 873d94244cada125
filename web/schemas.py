"""The shapes of requests and replies; the OpenAPI document is made from these.

OpenAI's parameters that slowwave does not use are ignored, as clients expect. In `slowwave`, our own object, an unknown
option is refused: a misspelt wish must not become the default.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from models.language import Message, Role
from models.sampling import Sampling
from web.context import ReplyDefaults
from web.memory_schemas import MemoryAlarm, SalienceReply

MOST_TOKENS = 1 << 20
MOST_MESSAGES = 4096


def _at_most(items: object) -> object:
    """Count before looking at each: a body of a million wrong items must not cost a million complaints."""
    if isinstance(items, list) and len(items) > MOST_MESSAGES:
        raise ValueError(f"{len(items)} items; {MOST_MESSAGES} at most")
    return items


AtMost = BeforeValidator(_at_most)

Temperature = Annotated[float, Field(ge=0, le=2)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Text = Annotated[str, Field(max_length=1 << 20)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Id = Annotated[str, Field(pattern=r"^[a-z]+_[0-9a-z]{26}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(_Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """One message in OpenAI's form."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=MOST_MESSAGES), AtMost] | None = None

    def message(self) -> Message:
        """The message as the chat template takes it."""
        role: Role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            return Message(role=role, content="".join(part.text for part in self.content))
        return Message(role=role, content=self.content or "")


class StreamOptions(_Strict):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None


class SlowwaveOptions(BaseModel):
    """Our own options."""

    model_config = ConfigDict(strict=True, extra="forbid")

    session: Id | None = None
    recall: bool | None = Field(None, description="Remind the model of what it was told before; true by default.")
    remember: bool | None = Field(
        None,
        description="false: off the record; kept in its session, but no memory, no night and no mood hears of it.",
    )
    persona: bool | dict[str, Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]] | None = Field(
        None,
        description="Variables for this reply alone, the others at rest; false: all at rest; by default as they are.",
    )
    abstain: bool | None = Field(
        None,
        description="Say that one does not know rather than guess at a fact about whoever asks; true by default.",
    )
    adapter: str | None = Field(
        None, description="Who answers: one of your adapters, or 'none' for the base; by default the active one."
    )

    def variables(self) -> dict[str, float] | None:
        """What is asked of the persona; None: nothing."""
        if isinstance(self.persona, dict):
            return self.persona
        return {} if self.persona is False else None


class SamplingOptions(_Strict):
    """What OpenAI's surface and ours share."""

    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    max_tokens: Tokens | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    ignore_eos: bool | None = Field(None, description="Write on past the end token, up to max_tokens; as in vLLM.")
    stream: bool | None = None
    slowwave: SlowwaveOptions | None = None

    def sampling(self, defaults: ReplyDefaults, *, logprobs: int | None = None) -> Sampling:
        """How to draw; a seed is made up where none is given."""
        given = {
            name: value
            for name in ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
            if (value := getattr(self, name)) is not None
        }
        return Sampling(
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            logprobs=logprobs,
            **given,
        )

    def stops(self) -> tuple[str, ...]:
        """Stop strings, however many were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def digest(self, scope: str) -> bytes:
        """What makes two requests the same, for idempotency; whether the reply is streamed does not matter."""
        request = self.model_dump(mode="json", exclude={"stream", "stream_options"})
        body: dict[str, Any] = {"scope": scope, "request": request}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()


class ChatCompletionRequest(SamplingOptions):
    """`POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES), FailFast(), AtMost]
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def logprobs_wanted(self) -> int | None:
        """How many alternatives to report; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TurnBody(SamplingOptions):
    """`POST /v1/sessions/{id}/turns`."""

    content: Annotated[str, Field(min_length=1, max_length=1 << 20)]


class NewSession(BaseModel):
    """`POST /v1/sessions`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    system: Text | None = Field(None, description="The system message that the session begins with.")


class PromptTokensDetails(BaseModel):
    """Part of `usage`."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens, in OpenAI's terms."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TurnTimings(BaseModel):
    """Where the time went. `prefill_tokens` were read for this turn, `cached_tokens` were known already."""

    queue_ms: float
    prefill_ms: float
    time_to_first_token_ms: float
    decode_ms: float
    prefill_tokens: int
    cached_tokens: int
    tokens_per_second: float | None


class Recalled(BaseModel):
    """One memory that the model was reminded of, and why."""

    id: str
    text: str
    speaker: str
    at: str
    score: float
    rank: int
    reasons: dict[str, Any]


class DoubtReply(BaseModel):
    """How a reply compared with drafts of it: agreement (0 to 1), entropy (nats a token), and what came of it."""

    agreement: float
    entropy: float
    confidence: float
    drafts: int
    decision: Literal["said", "withheld", "guessed"]


class SlowwaveReply(BaseModel):
    """What slowwave adds to OpenAI's reply."""

    session: str
    turn: str
    adapter: str
    timings: TurnTimings
    compacted: bool
    salience: SalienceReply | None
    recalled: list[Recalled]
    persona: dict[str, float] | None = None
    doubt: DoubtReply | None = None


class AssistantMessage(BaseModel):
    """The reply's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AssistantMessage
    logprobs: dict[str, Any] | None = None
    finish_reason: str


class ChatCompletion(BaseModel):
    """OpenAI's reply, and `slowwave` beside it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    slowwave: SlowwaveReply


class TurnReply(BaseModel):
    """One turn's reply. `salience` is that of what was said, for now; `persona` what the reply was written under."""

    id: str
    session: str
    text: str
    finish_reason: str
    model: str
    adapter: str
    usage: Usage
    timings: TurnTimings
    compacted: bool
    created_at: str
    salience: SalienceReply | None = None
    recalled: list[Recalled] = []
    persona: dict[str, float] | None = None
    doubt: DoubtReply | None = None


class ModelEntry(BaseModel):
    """One model in OpenAI's list."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slowwave"


class ModelList(BaseModel):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class SessionSummary(BaseModel):
    """A session without its messages."""

    id: str
    parent: str | None
    created_at: str
    updated_at: str
    messages: int
    preview: str
    state: Literal["open", "suspended"]
    """suspended: what was read of it lies in a file, and its next turn brings it back."""
    unfinished: bool = False
    """Whether a reply was suspended before its end, and waits to go on."""


class SessionList(BaseModel):
    """`GET /v1/sessions`."""

    data: list[SessionSummary]
    has_more: bool


class TranscriptEntry(BaseModel):
    """One message, or a compaction (role `compaction`): from there on, the window starts anew."""

    id: str
    role: str
    content: str
    status: str
    turn: str | None
    tokens: int
    created_at: str


class SessionDetail(SessionSummary):
    """A session with its transcript. `context_tokens` is how much of the window it fills."""

    transcript: list[TranscriptEntry]
    context_tokens: int


class Deleted(BaseModel):
    """What was removed."""

    id: str
    deleted: Literal[True] = True


class Health(BaseModel):
    """`GET /health`."""

    status: Literal["ok", "loading", "draining", "failed"]
    live: bool
    ready: bool
    model: str
    version: str
    detail: str | None = None
    uptime_seconds: float
    running: int
    waiting: int
    memory_alarms: list[MemoryAlarm] = []


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer other than success."""

    error: ErrorDetail
