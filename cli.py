"""The terminal's door: serve, chat, sessions, memory, sleep, checkpoint, persona, heartbeat, rooms, backup, audit,
doctor, train, causality. Every command takes --json.

Exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 3 no service answers, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from commands import audit, backup, chat, checkpoint, heartbeat, memory, persona, rooms, sessions, sleep
from commands.terminal import FAILED, INTERRUPTED, USAGE, Failure, Json, err, out, print_json
from settings import Settings, SettingsError, load
from training import app as train
from training import causality as order_causality

if TYPE_CHECKING:
    from agent.core_self import Core

app = typer.Typer(
    name="slowwave",
    help="An agent runtime that sleeps on what it learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(chat.chat)
app.add_typer(sessions.app, name="sessions")
app.add_typer(memory.app, name="memory")
app.add_typer(sleep.app, name="sleep")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(persona.app, name="persona")
app.add_typer(heartbeat.app, name="heartbeat")
app.add_typer(rooms.app, name="rooms")
app.add_typer(backup.app, name="backup")
app.command()(audit.audit)
app.add_typer(train, name="train")
app.command("causality")(order_causality)

Config = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings, else SLOWWAVE_CONFIG.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="All state of one agent.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as NAME=VALUE. May be repeated.")]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        out.print(metadata.version("slowwave"))
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What every command takes."""


@app.command()
def serve(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option("--host")] = None,
    port: Annotated[int | None, typer.Option("--port")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A name, folder, .gguf or hub name; or 'scripted'.")
    ] = None,
    config: Config = None,
    sets: Set = None,
    json_output: Json = False,
) -> None:
    """Serve the agent over HTTP until Ctrl-C or SIGTERM. With --json, the log is JSON lines."""
    options = {"data_dir": data_dir, "host": host, "port": port, "model": model}
    _refuse_if_held(_loaded(config, options, sets).settings.data_dir)  # at once: torch takes seconds to import
    settings = _settings(config, options, sets)
    from memory.errors import MemoryFault
    from service import serve as run

    try:
        run(settings, json_log=json_output)
    except (MemoryFault, OSError) as error:
        raise Failure(str(error)) from error


@app.command()
def doctor(
    data_dir: DataDir = None,
    config: Config = None,
    sets: Set = None,
    show_settings: Annotated[
        bool, typer.Option("--settings", help="Show every setting and where it was given.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend the data directory first; what is broken is kept."),
    ] = False,
    json_output: Json = False,
) -> None:
    """Check this machine, the installation, the model's files and the data directory. Exit code 1 on a fault."""
    loaded = _loaded(config, {"data_dir": data_dir}, sets)
    repaired = _repair(loaded.settings.data_dir, json_output=json_output) if repair else []
    if show_settings:
        _show_settings(loaded.settings, dict(loaded.origins), json_output=json_output)
        return
    from doctor import examine

    findings = []
    marks = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "fault": "[red]fault[/red]  "}
    for finding in examine(loaded.settings):
        findings.append(finding)
        if not json_output:
            out.print(f"{marks[finding.level]}  {finding.name:15} {escape(finding.found)}", soft_wrap=True)
            if finding.advice:
                out.print(f"{'':26}→ {escape(finding.advice)}", soft_wrap=True)
    healthy = all(f.level != "fault" for f in findings)
    if json_output:
        rows = [{"name": f.name, "level": f.level, "found": f.found, "advice": f.advice} for f in findings]
        print_json({"healthy": healthy, "findings": rows} | ({"repaired": repaired} if repair else {}))
    if not healthy:
        raise typer.Exit(FAILED)


def _refuse_if_held(folder: Path) -> None:
    from memory import data_dir

    if held := data_dir.holder(folder):
        raise Failure(data_dir.in_use(folder, held))


def _repair(folder: Path, *, json_output: bool) -> list[dict[str, str]]:
    """Mend a data directory; returns what was done."""
    from memory.errors import MemoryFault
    from mending import mend

    done = []
    try:
        for one in mend(folder, at=datetime.now(UTC)) if folder.exists() else ():
            done.append({"what": one.what, "done": one.done})
            if not json_output:
                out.print(
                    f"[green]mended[/green]   {escape(one.what)}\n           → {escape(one.done)}", soft_wrap=True
                )
    except (MemoryFault, OSError) as error:
        raise Failure(f"{error}. What was mended so far stays mended.") from error
    if not done and not json_output:
        out.print(f"there is nothing to mend in {folder}")
    return done


@backup.app.command("verify")
def backup_verify(
    file: Annotated[Path, typer.Argument(help="A core self.")],
    json_output: Json = False,
) -> None:
    """Check a core self: every digest, the signature, and that it comes back as it went in. Needs no service."""
    from agent.core_self import prove

    _show_core(lambda: prove(file), json_output=json_output)


@backup.app.command("restore")
def backup_restore(
    file: Annotated[Path, typer.Argument(help="A core self.")],
    data_dir: DataDir = None,
    signer: Annotated[str | None, typer.Option("--signer", help="Take it only if this public key signed it.")] = None,
    config: Config = None,
    sets: Set = None,
    json_output: Json = False,
) -> None:
    """Make an empty data directory the agent that a core self is of. Needs no service; with require_signature only one
    that a trusted signer signed."""
    settings = _settings(config, {"data_dir": data_dir}, sets)
    from agent.core_self import restore

    trusted = None  # by whomever it is signed
    if signer is not None:
        trusted = frozenset({signer})
    elif settings.require_signature:
        trusted = frozenset(settings.trusted_signers)
    _show_core(
        lambda: restore(file, settings.data_dir, owner="slowwave backup restore", trusted=trusted),
        json_output=json_output,
    )


def _show_core(work: Callable[[], Core], *, json_output: bool) -> None:
    from dataclasses import asdict

    from memory.errors import MemoryFault

    try:
        found = work()
    except (MemoryFault, OSError) as error:
        raise Failure(str(error)) from error
    if json_output:
        print_json({**asdict(found), "at": found.at.isoformat()})
        return
    out.print(f"core self of {found.at:%Y-%m-%d %H:%M} UTC, {found.nbytes / 1e6:.1f} MB, signed by {found.signer}")
    out.print(f"base {escape(found.model)}; adapters: {', '.join(found.adapters) or 'none'}", soft_wrap=True)
    out.print(
        f"{found.counts.get('experiences', 0)} memories, {found.counts.get('moods', 0)} moods. {escape(found.note)}"
    )
    if found.settings.get("temperament"):
        given = ",".join(found.settings["temperament"])
        out.print(f"set its temperament too, it is a setting: temperament={escape(given)}")


@persona.app.command("test")
def persona_test(
    model: Annotated[str | None, typer.Option("--model", help="A name, folder, .gguf or hub name.")] = None,
    count: Annotated[
        int, typer.Option("--prompts", min=20, max=180, help="How many each is tried on; with fewer, chance says more.")
    ] = 180,
    only: Annotated[list[str] | None, typer.Option("--variable", help="One alone; may be repeated.")] = None,
    config: Config = None,
    sets: Set = None,
    json_output: Json = False,
) -> None:
    """Force every variable and see whether replies follow, beside placebos. Needs no service; on two cores an hour or
    more, a variable at a time: what is measured is kept. Exit code 1 if one does not act as it should."""
    settings = _settings(config, {"model": model}, sets)
    if not settings.adaptable:
        raise Failure("this model cannot be steered: name another one with --model", USAGE)
    from rich.progress import Progress

    import causality
    from agent.measured import Act
    from agent.steering import VARIABLES

    names = tuple(only or VARIABLES)
    if unknown := sorted(set(names) - set(VARIABLES)):
        raise Failure(f"there is no variable {unknown[0]!r}; there are {', '.join(VARIABLES)}", USAGE)
    engine, steerer = causality.opened(settings)
    try:
        bench = causality.Bench(engine, steerer, causality.prompts()[:count])
        found: dict[str, Any] = {}
        with Progress(console=err, disable=json_output, transient=True) as bar:
            task = bar.add_task("", total=len(names) * causality.SETS)
            for name in names:
                bar.update(task, description=name)
                found[name] = causality.intervention(bench, name, each=lambda: bar.advance(task))
                at = datetime.now(UTC).isoformat(timespec="seconds")
                steerer.keep(
                    {name: Act.of(found[name], prompts=len(bench.said), at=at)}
                )  # Ctrl-C loses no more than one
    finally:
        engine.close()
    done = {"prompts": len(bench.said), "variables": found, "replayed": causality.replayed()}
    if json_output:
        print_json(done)
    else:
        _show_tested(done)
    if not all(one["kept"] for one in found.values()):
        raise typer.Exit(FAILED)


def _show_tested(done: dict[str, Any]) -> None:
    table = Table("variable", "effect (95 %)", "placebo", "levels, -1 to 1", "surprise at -1, 1", "follows", "acts")
    for name, one in done["variables"].items():
        low, high = one["interval"]
        table.add_row(
            name,
            f"{one['effect']:.2f} ({low:.2f} to {high:.2f})",
            f"{one['placebo']:.2f}",
            ", ".join(f"{mean:.2f}" for mean in one["levels"].values()),
            ", ".join(f"{more:+.0%}" for more in one["perplexity_more"].values()),
            f"{done['replayed'][name]['follows']:.2f}",
            "[green]yes[/green]" if one["kept"] else "[red]no[/red]",
        )
    out.print(table)
    out.print(f"On {done['prompts']} prompts, in standard deviations of what each claims to change (docs/persona.md).")


def main() -> None:
    """Run a command; say what went wrong in one line, with a traceback only if `--debug` asks for it."""
    debug = "--debug" in sys.argv
    try:
        app()
    except Failure as failure:
        if debug:
            raise
        _complain(str(failure), failure.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error} ('slowwave --debug ...' shows where)", FAILED)


def _complain(message: str, code: int) -> None:
    if "--json" in sys.argv:
        err.print_json(json.dumps({"error": message, "exit_code": code}), indent=None)
    else:
        err.print(f"[bold red]slowwave:[/bold red] {escape(message)}", soft_wrap=True)
    sys.exit(code)


def _loaded(config: Path | None, options: dict[str, Any], sets: list[str] | None) -> Any:
    for item in sets or ():
        name, equals, value = item.partition("=")
        if not equals:
            raise Failure(f"--set {item}: write NAME=VALUE", USAGE)
        options[name] = value
    try:
        return load(options, config=config)
    except SettingsError as error:
        raise Failure(str(error), USAGE) from error


def _settings(config: Path | None, options: dict[str, Any], sets: list[str] | None) -> Settings:
    settings: Settings = _loaded(config, options, sets).settings
    from service import check_keys

    try:
        check_keys(settings)
    except SettingsError as error:
        raise Failure(str(error), USAGE) from error
    return settings


def _show_settings(settings: Settings, origins: dict[str, str], *, json_output: bool) -> None:
    values = settings.model_dump(mode="json")
    for secret in ("api_keys", "api_key"):
        values[secret] = "(set)" if values[secret] else None
    if json_output:
        print_json({n: {"value": v, "origin": origins.get(n, "default")} for n, v in values.items()})
        return
    table = Table("setting", "value", "from")
    for name, value in values.items():
        table.add_row(name, escape(str(value)), origins.get(name, "default"))
    out.print(table)


if __name__ == "__main__":
    main()
