"""One thread that turns prompts into replies: waiting line, batch, prefill, decode, cancellation.

Every step reads one row of tokens for all sequences in the batch together: one new token of each reply that is being
written, and a piece of each prompt that is still being read. Sequences join and leave between steps. Knows no chat,
no session and no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from models import heap
from models.errors import (
    AdapterRefused,
    EngineClosed,
    EngineFull,
    EngineLoading,
    ModelError,
    PromptTooLong,
    ReplyFailed,
)
from models.generation import Delta, Generation, Prompt, Reply
from models.language import BASE, PIECE, Chunk, FinishReason, LanguageModel, SequenceState, surprisal
from models.prefix_cache import PrefixCache
from models.sampling import Choice, choose
from models.sequence import TokenSequence
from models.text_stream import TextStream

log = logging.getLogger("slowwave.engine")

T = TypeVar("T")
_TELLING = 64
"""Tokens read at once that tell how fast reading is."""
_TIDY_EVERY = 20.0
"""Seconds between two returns of free memory: each pauses replies for some 10 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the engine takes on at once."""

    batch: int = 16
    """Replies written at the same time."""
    waiting: int = 64
    """Requests in line; one more is refused."""
    waiting_tokens: int = 65536
    """Prompt tokens in line, so that a few long prompts do not make a short line slow."""
    state_bytes: int = 1 << 30
    """Sequence states in memory, in use and at rest."""
    prefill_chunk: int = 512
    """Prompt tokens read in one step while nobody is waiting for a next token."""
    prefill_chunk_shared: int = 64
    """The same while replies are being written: they pause for this long."""
    drafts: int = 3
    """Tokens at most that a reply is drafted ahead, if it is alone and the model decodes several at once; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine at one moment."""

    running: int
    waiting: int
    states_at_rest: int
    state_bytes: int
    state_bytes_limit: int
    drafted: int = 0
    """Tokens, since the start, that replies were drafted ahead by."""
    drafted_right: int = 0
    """Of these, those that were what came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestingState:
    """A state at rest: copied, or held."""

    tokens: int
    """So many it has read."""
    tensors: Mapping[str, Tensor]
    state: SequenceState
    """The original; the engine's thread alone may touch it."""


class Engine:
    """Owns the model: it is loaded on the engine's thread, and nobody else calls `read`.

    One thread for all of torch is a matter of speed: OpenMP gives each calling thread a team of its own, and once
    there are more workers than cores, waiting workers sleep instead of spinning (a third slower, see docs/log.md).
    """

    def __init__(self, load: Callable[[], LanguageModel], limits: EngineLimits | None = None) -> None:
        self.limits = limits or EngineLimits()
        self._load = load
        self._model: LanguageModel | None = None
        self._line: deque[TokenSequence] = deque()
        self._batch: list[TokenSequence] = []
        self._resting = PrefixCache(bytes_per_token=1)
        self._changed = threading.Condition()
        self._errands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._prefill_speed: float | None = None
        self._drafted = self._right = 0
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def model(self) -> LanguageModel:
        """The model being served. Its tokenizer and template may be used from any thread.

        Raises:
            EngineLoading: it is not there yet.
            EngineClosed: it could not be loaded.
        """
        model = self._model
        if model is None:
            if self._failure is not None:
                raise EngineClosed(f"the model could not be loaded: {self._failure}")
            raise EngineLoading("the model is still being loaded")
        return model

    @property
    def failure(self) -> BaseException | None:
        """Why the engine does not serve and never will, or None."""
        return self._failure

    def wait_until_loaded(self, timeout: float | None = None) -> None:
        """Block until prompts are taken.

        Raises:
            EngineClosed: the model could not be loaded.
            EngineLoading: not within `timeout` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._model or self._failure, timeout)
        _ = self.model

    def submit(self, prompt: Prompt) -> Generation:
        """Put a prompt in line.

        Raises:
            PromptTooLong: it leaves no room for a reply in the context window, or its state none in memory.
            AdapterRefused: it names an adapter that was never adopted.
            EngineFull: the line is full.
            EngineLoading: the model is not there yet.
            EngineClosed: nobody will come.
        """
        window = self.model.card.context_length
        if len(prompt.token_ids) + 1 > window:
            raise PromptTooLong(len(prompt.token_ids), window)
        if not prompt.token_ids or prompt.max_tokens < 1:
            raise ValueError("a prompt needs at least one token to read and one to write")
        if len(prompt.reply) >= prompt.max_tokens:
            raise ValueError(f"{len(prompt.reply)} of at most {prompt.max_tokens} tokens are written already")
        if len(prompt.token_ids) + prompt.max_tokens > window:
            raise ValueError(f"prompt and reply exceed the window of {window} tokens")
        fits = self.limits.state_bytes // self.model.card.state_bytes_per_token
        if len(prompt.token_ids) + prompt.max_tokens > fits:
            raise PromptTooLong(len(prompt.token_ids), fits - prompt.max_tokens)
        if prompt.adapter != BASE and prompt.adapter not in self.model.adapters:
            raise AdapterRefused(f"there is no adapter {prompt.adapter!r} here")
        generation = Generation(self._notify)
        sequence = TokenSequence(prompt, generation, TextStream(self.model.decode, prompt.stop))
        with self._changed:
            if self._closing or self._failure is not None:
                raise EngineClosed("the engine is closed" if self._failure is None else f"it failed: {self._failure}")
            if len(self._line) >= self.limits.waiting:
                raise EngineFull(f"{len(self._line)} requests are waiting already")
            queued = sum(len(s.prompt.token_ids) for s in self._line)
            if self._line and queued + len(prompt.token_ids) > self.limits.waiting_tokens:
                raise EngineFull(f"{queued} prompt tokens are waiting already")
            self._line.append(sequence)
            self._changed.notify_all()
        return generation

    def run(self, work: Callable[[], T]) -> T:
        """Have `work` done on the engine's thread: replies pause for it, in the middle of a step. Returns its result.

        For all else that needs torch. Waits while the model is being loaded. Raises what `work` raises, and:

        Raises:
            EngineClosed: nobody will do it.
        """
        done: Future[T] = Future()
        with self._changed:
            if self._closing or self._failure is not None:
                raise EngineClosed("the engine is closed" if self._failure is None else f"it failed: {self._failure}")
            self._errands.append((work, done))
            self._changed.notify_all()
        return done.result()

    def adopt(self, folder: Path, id: str) -> None:
        """Let prompts name an adapter. Replies under way go on as they began.

        Raises:
            AdapterRefused: broken files, or of another model; or this model takes none.
            EngineClosed: nobody will read it.
        """
        self.run(lambda: self.model.adopt(folder, id))

    def let_go(self, id: str) -> bool:
        """Forget an adapter, and what it has read; False: a reply still needs it.

        Raises:
            EngineClosed: nothing is left to forget it.
        """

        def work() -> bool:
            with self._changed:
                if any(s.prompt.adapter == id for s in [*self._line, *self._batch]):
                    return False
            self._resting.drop_adapter(id)
            self.model.let_go(id)
            return True

        return self.run(work)

    def drop_states(self, namespace: str) -> int:
        """Let go of the states at rest of a namespace: what they have read is to be forgotten. Returns how many.

        States of replies that are being written are not at rest yet.
        """
        if self._model is None:  # nothing has been read yet
            return 0
        try:
            return self.run(lambda: self._resting.drop(namespace))
        except EngineClosed:  # and with it, all that it held
            return 0

    def copy_state(self, namespace: str, token_ids: Sequence[int], *, adapter: str) -> RestingState | None:
        """What has been read of `token_ids` from their beginning, and rests; None: nothing. Replies pause for the copy.

        Raises:
            EngineClosed: nothing is left.
        """

        def work() -> RestingState | None:
            state = self._resting.resting(namespace, list(token_ids), adapter=adapter)
            return None if state is None else RestingState(tokens=state.length, tensors=state.tensors(), state=state)

        return self.run(work)

    @contextmanager
    def held_state(self, namespace: str, token_ids: Sequence[int], *, adapter: str) -> Iterator[RestingState | None]:
        """As `copy_state`, but as it lies in memory: nobody reads on with it meanwhile, who wants to gets a copy.

        Raises:
            EngineClosed: nothing is left.
        """

        def work() -> RestingState | None:
            state = self._resting.hold(namespace, list(token_ids), adapter=adapter)
            return None if state is None else RestingState(tokens=state.length, tensors=state.views(), state=state)

        held = self.run(work)
        try:
            yield held
        finally:
            if held is not None:
                with suppress(EngineClosed):
                    self.run(lambda: self._resting.let_rest(held.state))

    def last_logits(self, namespace: str, token_ids: Sequence[int], *, adapter: str) -> Tensor | None:
        """What the model says after `token_ids`, float32 [vocab]; None unless a state at rest has read just these.

        Their last token is read once more, on a copy. Raises: EngineClosed.
        """

        def work() -> Tensor | None:
            ids = list(token_ids)
            state = self._resting.resting(namespace, ids, adapter=adapter)
            if state is None or state.length != len(ids) or not ids:
                return None
            copy = state.fork(len(ids) - 1)
            copy.reserve(len(ids))
            read = self.model.read([Chunk(token_ids=ids[-1:], state=copy, adapter=adapter)])
            return read.logits[0].cpu()

        return self.run(work)

    def release_state(self, resting: RestingState) -> None:
        """Let go of a state, unless it has been taken or replaced since. Raises: EngineClosed."""
        self.run(lambda: self._resting.release(resting.state))

    def restore_state(
        self,
        namespace: str,
        token_ids: Sequence[int],
        tensors: Mapping[str, Tensor],
        *,
        adapter: str,
        origin: str | None = None,
    ) -> None:
        """Let a state rest here that has read exactly `token_ids`; the next prompt that continues them finds it.

        `origin`: a name under which `share_state` finds it for others that come from the same; None: there are none.

        Raises:
            ValueError: the tensors are not those of such a state, or the budget for states has no room for it.
            EngineClosed: nobody would find it.
        """

        def work() -> None:
            nbytes = len(token_ids) * self.model.card.state_bytes_per_token
            if nbytes > self.limits.state_bytes - self._reserved_bytes():
                raise ValueError("there is no room for it among the states in memory")
            if origin is not None and self._share(namespace, token_ids, adapter, origin):
                return  # a branch was faster
            state = self.model.new_state()
            state.fill(tensors)
            if origin is not None:
                self._resting.share(namespace, origin, state, adapter=adapter)
            self._resting.put(namespace, list(token_ids), state, adapter=adapter, beside=True)
            with self._changed:
                self._resting.shrink(self.limits.state_bytes - self._reserved_bytes())

        self.run(work)

    def share_state(self, namespace: str, token_ids: Sequence[int], *, adapter: str, origin: str) -> bool:
        """As `restore_state`, with the memory of what was restored under `origin`; False: nobody holds it any more.

        Raises:
            EngineClosed: nobody would find it.
        """
        return self.run(lambda: self._share(namespace, token_ids, adapter, origin))

    def stop_all(self, reason: FinishReason = "interrupted") -> None:
        """End every reply, begun or not, before its next token."""
        with self._changed:
            for sequence in [*self._line, *self._batch]:
                sequence.generation.stop(reason)

    def close(self) -> None:
        """Interrupt what is running and end the thread."""
        with self._changed:
            self._closing = True
        self.stop_all()
        if self._model is None:
            self._refuse_errands()
        self._notify()
        if self._model is not None or self._failure is not None:  # loading cannot be stopped, only left behind
            self._thread.join()

    @property
    def prefill_speed(self) -> float | None:
        """Tokens read a second, of late; None: too few have been."""
        return self._prefill_speed

    @property
    def alive(self) -> bool:
        """Whether prompts are being served."""
        return self._model is not None and self._thread.is_alive() and self._failure is None

    def stats(self) -> EngineStats:
        """Counts for gauges; a moment old at most."""
        with self._changed:
            return EngineStats(
                running=len(self._batch),
                waiting=len(self._line),
                states_at_rest=len(self._resting),
                state_bytes=self._resting.nbytes + self._reserved_bytes(),
                state_bytes_limit=self.limits.state_bytes,
                drafted=self._drafted,
                drafted_right=self._right,
            )

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            model = self._load()
            with self._changed:
                self._model = model
                self._resting = PrefixCache(bytes_per_token=model.card.state_bytes_per_token)
                self._changed.notify_all()
            tidied = time.monotonic()
            while self._wait_for_work():
                if time.monotonic() - tidied > _TIDY_EVERY:
                    heap.give_back()
                    tidied = time.monotonic()
                self._run_errands()
                self._drop_stopped()
                self._admit()
                if self._batch:
                    self._step()
        except BaseException as failure:
            log.error("engine_failed: %s", failure, exc_info=not isinstance(failure, ModelError))
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
        finally:
            with self._changed:
                left = [*self._line, *self._batch]
                self._line.clear()
                self._batch.clear()
            self._refuse_errands()
            for sequence in left:
                sequence.generation.tell(EngineClosed("the engine stopped before the reply was finished"))

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._line or self._batch or self._errands)
            return not self._closing or bool(self._line or self._batch)

    def _run_errands(self) -> None:
        if not self._errands:  # asked once a layer
            return
        for work, done in self._take_errands():
            try:
                done.set_result(work())
            except Exception as error:  # the errand's own affair
                done.set_exception(error)

    def _refuse_errands(self) -> None:
        for _, done in self._take_errands():
            done.set_exception(EngineClosed("the engine is closed"))

    def _take_errands(self) -> list[tuple[Callable[[], Any], Future[Any]]]:
        with self._changed:
            errands = list(self._errands)
            self._errands.clear()
        return errands

    def _drop_stopped(self) -> None:
        for sequence in [*self._line, *self._batch]:
            reason = sequence.generation.stop_reason
            if reason is not None:
                self._finish(sequence, reason)

    def _admit(self) -> None:
        """Let sequences join in the order in which they came, as long as batch and memory have room."""
        while True:
            with self._changed:
                if not self._line or len(self._batch) >= self.limits.batch:
                    return
                sequence = self._line[0]
                free = self.limits.state_bytes - self._reserved_bytes()
                if sequence.tokens_at_most * self.model.card.state_bytes_per_token > free:
                    return
                self._line.popleft()
                self._batch.append(sequence)
            sequence.joined = time.monotonic()
            prompt = sequence.prompt
            known = sequence.context[: prompt.ends_at + 1] if prompt.peculiar else sequence.context
            state = self._resting.take(prompt.namespace, known, adapter=prompt.adapter, leave=prompt.fleeting)
            sequence.cached = state.length if state else 0
            sequence.state = state or self.model.new_state()
            with self._changed:
                self._resting.shrink(self.limits.state_bytes - self._reserved_bytes())
            try:
                sequence.state.reserve(sequence.tokens_at_most)
            except (OSError, RuntimeError) as error:  # no memory for it, though the budget has room
                self._fail(sequence, error)

    def _share(self, namespace: str, token_ids: Sequence[int], adapter: str, origin: str) -> bool:
        shared = self._resting.begun_with(namespace, origin, adapter=adapter)
        if shared is None:
            return False
        state = self.model.new_state()
        state.begin(shared, len(token_ids))
        self._resting.put(namespace, list(token_ids), state, adapter=adapter, beside=True)
        return True

    def _reserved_bytes(self) -> int:
        if not self._batch:
            return 0
        return sum(s.tokens_at_most for s in self._batch) * self.model.card.state_bytes_per_token

    def _step(self) -> None:
        """Read one chunk of every sequence that has its turn, and give each that has read all its next tokens."""
        taking_part = self._chunks()
        reading = self.model.read([chunk for _, chunk in taking_part], between=self._run_errands)
        leads = reading.leads or (None,) * len(taking_part)
        by_heart = reading.by_heart or (False,) * len(taking_part)
        rows = zip(taking_part, reading.logits, reading.surprisals, leads, by_heart, strict=True)
        for _, of_one in groupby(rows, key=lambda row: id(row[0][0])):
            (((sequence, chunk), row, surprisals, lead, said), *drafted) = of_one
            assert sequence.state is not None
            sequence.ahead = len(drafted)
            sequence.surprisals += surprisals
            if chunk.ends_at is not None and 0 <= chunk.ends_at < len(chunk.token_ids):
                sequence.generation.lead, sequence.by_heart = lead, said
            if sequence.unread and sequence.next_position in sequence.prompt.judged:
                token = torch.tensor([sequence.context[sequence.next_position]], device=row.device)
                sequence.surprisals.append(float(surprisal(row[None], token)))
            if sequence.unread or sequence.generation.stop_reason is not None:
                sequence.leave(0)
                continue
            try:
                drafts = [chunk.token_ids[0] for (_, chunk), *_ in drafted]
                choices = self._chosen(sequence, [row, *(row for _, row, *_ in drafted)], drafts)
                self._tell(sequence, choices, drafts)
            except Exception as error:  # whatever is wrong with one reply must not end the others
                self._fail(sequence, error)

    def _chosen(self, sequence: TokenSequence, rows: Sequence[Tensor], drafts: Sequence[int]) -> list[Choice]:
        """The token after each row, as long as the draft that made the next row is what was chosen."""
        prompt, ends, reply = sequence.prompt, self.model.card.stop_ids, list(sequence.reply)
        chosen: list[Choice] = []
        for row, draft in zip(rows, [*drafts, None], strict=True):
            choice = choose(row, prompt.sampling, prompt=prompt.token_ids, reply=reply, ends=ends)
            chosen.append(choice)
            reply.append(choice.token_id)
            if choice.token_id != draft or choice.token_id in ends or len(reply) >= prompt.max_tokens:
                break
        return chosen

    def _tell(self, sequence: TokenSequence, choices: Sequence[Choice], drafts: Sequence[int]) -> None:
        """Give a sequence its next tokens; its state keeps what it has read of them."""
        right = len(choices) - 1
        sequence.leave(right)
        if drafts:
            sequence.pace.learn(len(drafts), right)
            self._drafted, self._right = self._drafted + len(drafts), self._right + right
        for n, choice in enumerate(choices):
            sequence.ahead = right - n
            self._extend(sequence, choice)
            if sequence.state is None:  # it ended, by a text to stop at
                break

    def _chunks(self) -> list[tuple[TokenSequence, Chunk]]:
        writing = any(s.decoding for s in self._batch)
        spare = min(self.limits.drafts, self.model.decoded_at_once - 1) if len(self._batch) == 1 else 0
        budget = self.limits.prefill_chunk_shared if writing else self.limits.prefill_chunk
        chunks: list[tuple[TokenSequence, Chunk]] = []
        reading = False
        for sequence in self._batch:
            assert sequence.state is not None
            read = sequence.state.length
            take = sequence.unread
            if not sequence.decoding:
                take = _up_to_a_border(read, take, budget, reading)
                budget -= take
                reading = True
            if take:
                sequence.piece = max(read, (read + take - 1) // PIECE * PIECE)
                ids = sequence.context[read : read + take]
                # The first token of a chunk is judged by the logits that the chunk before it left.
                judged = sequence.prompt.judged
                judged = range(max(judged.start - read, 1), max(min(judged.stop - read, take), 1))
                chunk = Chunk(
                    token_ids=ids,
                    state=sequence.state,
                    judged=judged,
                    adapter=sequence.prompt.adapter,
                    steering=sequence.prompt.steering,
                    ends_at=sequence.prompt.ends_at - read,
                    denial=sequence.prompt.denial,
                    by_heart=sequence.by_heart,
                    decoded=sequence.decoding,
                )
                chunks.append((sequence, chunk))
                if sequence.decoding and spare > 0:
                    drafts = sequence.drafts(spare)
                    chunks += [
                        (sequence, replace(chunk, token_ids=[draft], judged=range(0), ahead=n))
                        for n, draft in enumerate(drafts, start=1)
                    ]
        return chunks

    def _extend(self, sequence: TokenSequence, choice: Choice) -> None:
        sequence.first_token = sequence.first_token or time.monotonic()
        sequence.reply.append(choice.token_id)
        sequence.context.append(choice.token_id)
        ended = choice.token_id in self.model.card.stop_ids and not sequence.prompt.ignore_eos
        text = "" if ended else sequence.text.push(choice.token_id)
        sequence.generation.tell(Delta(text=text, choice=choice))
        if ended or sequence.text.stopped:
            self._finish(sequence, "stop")
        elif len(sequence.reply) >= sequence.prompt.max_tokens:
            self._finish(sequence, "length")

    def _fail(self, sequence: TokenSequence, error: Exception) -> None:
        log.error("reply_failed: %s", error, exc_info=error)
        with self._changed:
            self._batch = [s for s in self._batch if s is not sequence]
        sequence.generation.tell(ReplyFailed(f"the reply could not be made: {error}"))

    def _finish(self, sequence: TokenSequence, reason: FinishReason) -> None:
        timings = sequence.timings()
        if timings.prefill_tokens >= _TELLING and timings.prefill > 0:
            speed = timings.prefill_tokens / timings.prefill
            self._prefill_speed = speed if self._prefill_speed is None else (self._prefill_speed + speed) / 2
        with self._changed:
            (self._batch if sequence in self._batch else self._line).remove(sequence)
        sequence.leave(0)  # of drafts that come after its end
        if sequence.state is not None and (sequence.prompt.peculiar or sequence.by_heart):
            sequence.state.crop(min(sequence.state.length, sequence.prompt.ends_at))  # the rest is this prompt's alone
        if sequence.state is not None and not sequence.unread and not sequence.reply:
            sequence.state.crop(sequence.piece)  # its first token is yet to come: whoever goes on reads as was read
        if sequence.state is not None and sequence.state.length and not sequence.prompt.fleeting:
            read = sequence.context[: sequence.state.length]
            sequence.state.trim()
            self._resting.put(sequence.prompt.namespace, read, sequence.state, adapter=sequence.prompt.adapter)
            with self._changed:
                self._resting.shrink(self.limits.state_bytes - self._reserved_bytes())
        sequence.state = None
        last = "" if reason == "suspended" else sequence.text.finish()
        if last:
            silent = Choice(token_id=sequence.reply[-1], logprob=None)
            sequence.generation.tell(Delta(text=last, choice=silent))
        ended = bool(sequence.reply) and sequence.reply[-1] in self.model.card.stop_ids
        kept = len(sequence.reply) if ended else sequence.text.tokens_within_text()
        sequence.generation.tell(
            Reply(
                text=sequence.text.shown if reason == "suspended" else sequence.text.text,
                token_ids=tuple(sequence.reply),
                kept_ids=tuple(sequence.reply[:kept]),
                finish_reason=reason,
                timings=timings,
                surprisals=tuple(sequence.surprisals),
            )
        )


def _up_to_a_border(read: int, unread: int, budget: int, others: bool) -> int:
    """How many of the unread tokens to read now: all of them, or up to a multiple of `PIECE`.

    Less only if the budget reaches none and nobody else reads now; else it waits for the next step.
    """
    if unread <= budget:
        return unread
    border = (read + budget) // PIECE * PIECE
    if border > read:
        return border - read
    return 0 if others else budget
