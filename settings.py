"""What can be set, from where, and the refusal of what cannot.

A value comes from the command line, else from the environment (`SLOWWAVE_` and the name), else from a TOML file, else
from here. A name that is not below is an error, wherever it stands: a misspelt setting must not become its default.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

PREFIX = "SLOWWAVE_"
_NOT_SETTINGS = frozenset({"SLOWWAVE_CONFIG", "SLOWWAVE_URL"})
"""Variables that say where something is: the settings file, and (to the command line) the service."""


class SettingsError(Exception):
    """A setting that is unknown or has an impossible value. The message names it and where it was given."""


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "slowwave"


class Settings(BaseModel):
    """Everything that can be set."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data_dir: Path = Field(default_factory=lambda: _xdg("XDG_DATA_HOME", ".local/share"))
    """All state of one agent."""
    cache_dir: Path = Field(default_factory=lambda: _xdg("XDG_CACHE_HOME", ".cache"))
    """Downloaded and converted model weights; may be deleted at any time."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0: any free port."""
    model: str = "SmolLM2-135M-Instruct"
    """A name, a folder, a .gguf file, a name on the Hugging Face hub; or 'scripted', which needs no weights; or the
    folder of a run of `slowwave train`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU (exact), bfloat16 on a GPU."""
    bits: Literal["auto", "int4", "int8", "bfloat16", "whole"] = "auto"
    """Of the weights that decode on a CPU. auto: as few as lose nothing of the model; whole: as prompts are read."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads that compute; by default one a core."""
    context_tokens: int | None = Field(None, ge=256)
    """The context window; by default the model's own."""
    max_reply_tokens: int = Field(1024, ge=1)
    """For requests that do not say."""
    temperature: float = Field(0.2, ge=0, le=2)
    top_p: float = Field(0.9, ge=0, le=1)
    max_batch: int = Field(16, ge=1, le=1024)
    drafts: int = Field(3, ge=0, le=3)
    """Replies written at the same time."""
    max_waiting: int = Field(64, ge=1, le=100_000)
    """Requests in line; one more is told to come back."""
    max_waiting_tokens: int = Field(65536, ge=256)
    kv_cache_mib: int = Field(768, ge=16)
    """KV cache, in use and at rest."""
    embedding: Literal["auto", "none"] = "auto"
    """Sentence vectors for recall, if their package is installed; 'none': by words alone."""
    memory_most: int = Field(1_000_000, ge=100)
    """Memories a user may have; the least valuable beyond are let go."""
    memory_daily_quota: int = Field(5000, ge=1)
    """Memories that one source may add in 24 hours; imports are not counted."""
    mood: bool = True
    """Let what happens move the persona's variables; false: they move by hand alone."""
    temperament: tuple[str, ...] = ()
    """Where the mood rests: openness=0.3, conscientiousness, extraversion, agreeableness, neuroticism; from -1 to 1."""
    abstention_drafts: int = Field(5, ge=0, le=15)
    """Drafts that a reply which gives a fact about whoever asks is compared with before it is shown; 0: none."""
    heartbeat: bool = True
    """Beat: look after the machine and the database, choose a pace; false: nothing is done by itself but nights."""
    heartbeat_seconds: float = Field(30.0, gt=0)
    """Between two beats, of an agent at rest on a machine at rest."""
    heartbeat_least_seconds: float = Field(2.0, ge=2)
    """No beat comes sooner, whoever wishes it; 30 beats a minute are the most."""
    heartbeat_greatest_seconds: float = Field(300.0, gt=0)
    """Nor later, while there is memory and processor time for it."""
    heartbeat_beats_an_hour: float = Field(600.0, gt=0)
    heartbeat_cpu_seconds_an_hour: float = Field(360.0, gt=0)
    """Processor time that beats may take."""
    sleep_at: str = "03:30"
    """The local hour at which a night is due; 'none': only when asked to."""
    sleep_timezone: str = ""
    """Of that hour, as in Europe/Lisbon; by default the machine's."""
    sleep_catch_up_hours: float = Field(6.0, gt=0, le=23)
    """For so long after its hour a missed night is made up for."""
    sleep_least_new: int = Field(3, ge=1)
    """Experiences since the last night that make one due."""
    sleep_pressure: float = Field(0.0, ge=0)
    """Salience gathered since the last night that brings the next one forward; 0: never."""
    sleep_idle_minutes: float = Field(10.0, ge=0)
    """So long must nobody have talked before it is brought forward."""
    sleep_import_hold_hours: float = Field(24.0, ge=0)
    """So long what was imported is recalled and not learnt, so that one can look at it first."""
    sleep_memory_mib: int | None = Field(None, ge=256)
    """The most that a night's process may have; by default half of the machine's."""
    sleep_threads: int | None = Field(None, ge=1, le=1024)
    """Threads of a night's process; by default one a core. It stops while somebody is answered."""
    sleep_recipe: tuple[str, ...] = ()
    """How to train, where it is to differ: rank=32, epochs=2, learning_rate=0.002, ..."""
    exam_bars: tuple[str, ...] = ()
    """What a night must reach, where it is to differ: recall=0.6, invented=0.1, drift=0.08, ..."""
    adapters_kept: int = Field(8, ge=1)
    """Adapters of a user whose files stay on disk, to go back to."""
    checkpoint_codec: Literal["none", "lossless", "bf16", "int8", "int4", "learned", "learned-fine"] = "none"
    """How the states of suspended sessions are written; none and lossless are exact."""
    checkpoint_mib: int = Field(4096, ge=16)
    """Suspended states on disk, of all sessions; the least valuable beyond are let go, and their tokens read again."""
    checkpoint_most_mib: int = Field(2048, ge=1)
    """The largest file that is taken in."""
    suspend_idle_minutes: float = Field(30.0, ge=0)
    """A session that nobody has talked in for so long gives its memory back, by way of a file; 0: never."""
    trusted_signers: tuple[str, ...] = ()
    """Public keys (64 hex digits) whose signed files are known, beside one's own."""
    require_signature: bool = False
    """Take in only files that one of these, or one's own key, has signed."""
    max_body_bytes: int = Field(2 << 20, ge=1024)
    api_keys: tuple[str, ...] = ()
    """Keys that open the service, in clear or as sha256:HEX, each with its `scopes=chat+memory+export+admin` and its
    `user=NAME` if wanted. Required off loopback."""
    api_key: str | None = None
    """One more, which administers, and which the command line uses to call the service."""
    api_key_file: Path | None = None
    """The same, one a line, from a file."""
    key_requests_per_minute: int = Field(0, ge=0)
    """Each key's quota; 0: none."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may call the service, beside localhost and addresses."""
    allowed_origins: tuple[str, ...] = ()
    """Pages elsewhere that may use it from a browser, such as http://localhost:3000."""
    traces: bool = False
    """Send OpenTelemetry spans of replies, without what was said, where OTEL_EXPORTER_OTLP_ENDPOINT says."""
    drain_seconds: float = Field(20.0, ge=0, le=3600)
    """How long replies may go on after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator(
        "api_keys",
        "allowed_hosts",
        "allowed_origins",
        "sleep_recipe",
        "exam_bars",
        "trusted_signers",
        "temperament",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_dir", "cache_dir", "api_key_file", mode="after")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("trusted_signers")
    @classmethod
    def _public_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[0-9a-f]{64}", key) for key in value):
            raise ValueError("public keys of 64 hex digits each, as 'slowwave checkpoint inspect' shows them")
        return value

    @field_validator("sleep_at")
    @classmethod
    def _hour(cls, value: str) -> str:
        if value != "none" and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError("an hour as in 03:30, or none")
        return value

    @field_validator("sleep_timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        if value:
            try:
                ZoneInfo(value)
            except (KeyError, ValueError, OSError) as error:
                raise ValueError("a name of the time zone database, as in Europe/Lisbon") from error
        return value

    @property
    def model_name(self) -> str:
        """The name by which clients ask for the model."""
        path = Path(self.model).expanduser()
        return path.stem if path.suffix == ".gguf" else path.name if path.exists() else self.model

    @property
    def adaptable(self) -> bool:
        """Whether the model can be steered and taught at night: not the scripted one, nor a network trained here."""
        return self.model != "scripted" and self.run_folder is None

    @property
    def run_folder(self) -> Path | None:
        """Where the model lies, if it is a network that was trained here."""
        path = Path(self.model).expanduser()
        return path if (path / "plan.json").is_file() else None

    def keys(self) -> tuple[str, ...]:
        """All API keys.

        Raises:
            SettingsError: the key file cannot be read.
        """
        given = (*self.api_keys, *((self.api_key,) if self.api_key else ()))
        if self.api_key_file is None:
            return given
        try:
            lines = self.api_key_file.read_text().splitlines()
        except OSError as error:
            raise SettingsError(f"api_key_file: {error}") from error
        return (*given, *(s for line in lines if (s := line.strip()) and not s.startswith("#")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings, and where each that is not a default was given."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    options: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the settings. `options`: those of the command line; None values count as not given.

    Raises:
        SettingsError: a name or a value that cannot be.
    """
    environment = os.environ if environment is None else environment
    if config is None and environment.get("SLOWWAVE_CONFIG"):
        config = Path(environment["SLOWWAVE_CONFIG"])
    layers = [
        *([(str(config), _from_file(config))] if config else []),
        ("the environment", _from_environment(environment)),
        ("the command line", {k: v for k, v in (options or {}).items() if v is not None}),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for name, value in layer.items():
            if name not in Settings.model_fields:
                raise SettingsError(_unknown(name, origin))
            values[name], origins[name] = value, origin
    try:
        return Loaded(settings=Settings(**values), origins=origins)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SettingsError(
            f"{name} = {first['input']!r} (from {origins.get(name, 'the defaults')}): {first['msg']}"
        ) from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS
    }


def _from_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:  # no TOML, or not even UTF-8
        raise SettingsError(f"the settings file {path} cannot be read: {error}") from error


def _unknown(name: str, origin: str) -> str:
    shown = PREFIX + name.upper() if origin == "the environment" else name
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    hint = f" Did you mean {PREFIX + close[0].upper() if origin == 'the environment' else close[0]}?" if close else ""
    return f"there is no setting {shown} (from {origin}).{hint} 'slowwave doctor --settings' lists them all."
