"""slowwave checkpoint ..."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from commands import sealed, transfer
from commands.terminal import Failure, Json, Url, call, connect, err, out, print_json
from models.state_file import BrokenStateFile, Contents, inspect, opened

app = typer.Typer(help="Put sessions away, bring them back, and carry them to other machines.", no_args_is_help=True)

Codec = Annotated[
    str, typer.Option("--codec", help="none, lossless (the same bits), bf16, learned-fine, int8, int4 or learned.")
]
PassphraseFile = Annotated[Path | None, typer.Option("--passphrase-file", help="Its first line is the passphrase.")]
Passphrase = Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase.")]
Recipient = Annotated[list[str] | None, typer.Option("--recipient", help="Encrypt for this key of age's (age1...).")]
IdentityFile = Annotated[list[Path] | None, typer.Option("--identity", help="A file with a secret key of age's.")]
Trusted = Annotated[list[str] | None, typer.Option("--trusted", help="Only this signer will do (64 hex digits).")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite.")]


@app.command("suspend")
def suspend(session: str, url: Url = None, json_output: Json = False) -> None:
    """Put what has been read of a session into a file, and free its memory. Its next turn brings it back by itself."""
    with connect(url) as client:
        done = call(client, "POST", f"/v1/sessions/{session}/suspend")
    if json_output:
        print_json(done)
        return
    if done["state"] == "open":
        out.print("Nothing of it was in memory; there is nothing to suspend.")
    else:
        out.print(f"Suspended: {done['tokens']} tokens, {done['bytes'] / 1e6:.1f} MB, {done['seconds'] * 1000:.0f} ms.")
    if done["unfinished"]:
        out.print("Its reply is unfinished: resume writes the rest.")


@app.command("resume")
def resume(
    session: str,
    no_continue: Annotated[bool, typer.Option("--no-continue", help="Leave an unfinished reply as it is.")] = False,
    seed: Annotated[int | None, typer.Option(help="Go on with another seed.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Go on with another temperature.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Bring a suspended session's state back into memory, and say how. An unfinished reply goes on."""
    body: dict[str, Any] = {"continue": not no_continue}
    body |= {name: value for name, value in (("seed", seed), ("temperature", temperature)) if value is not None}
    with connect(url) as client:
        done = call(client, "POST", f"/v1/sessions/{session}/resume", json=body)
    if json_output:
        print_json(done)
        return
    if done["how"] == "open":
        out.print("It is not suspended.")
    else:
        out.print(_resumed(done), soft_wrap=True)
    if done["reply"] is not None:
        out.print(escape(done["reply"]["text"]), soft_wrap=True)


def _resumed(done: dict[str, Any]) -> str:
    cost = f"{done['seconds'] * 1000:.0f} ms"
    if done["otherwise_seconds"] and done["tokens"]:
        cost += f", reading them again {done['otherwise_seconds'] * 1000:.0f}"
    deviates = "" if done["deviation"] is None else f"; next token off by {done['deviation']:.1e} nats"
    return f"{done['how']}: {escape(done['why'])}; {done['tokens']} tokens need not be read again ({cost}){deviates}."


@app.command("log")
def log(session: str, url: Url = None, json_output: Json = False) -> None:
    """What became of a session's state."""
    with connect(url) as client:
        found = call(client, "GET", f"/v1/sessions/{session}/checkpoints")["data"]
    if json_output:
        print_json(found)
        return
    table = Table("at", "what", "how", "codec", "tokens", "MB", "ms")
    for one in found:
        how = one["how"] or ""
        size, took = f"{one['bytes'] / 1e6:.1f}", f"{one['seconds'] * 1000:.0f}"
        table.add_row(one["at"][:19], one["event"], how, one["codec"] or "", str(one["tokens"]), size, took)
    out.print(table)


@app.command("export")
def export(
    session: str,
    file: Path,
    codec: Codec = "lossless",
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    recipient: Recipient = None,
    force: Force = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """All of a session in one file, signed by the service: its transcript, and what was read of it."""
    transfer.not_there(file, force=force)
    secret = _secret(passphrase, passphrase_file, confirm=True)
    with connect(url) as client:
        _fetch(client, session, file, codec, shown=not json_output)
    found = _read(file)
    if secret is not None or recipient:
        sealed.encrypt(file, passphrase=secret, recipients=recipient or [])
    if json_output:
        print_json({"file": str(file), "bytes": file.stat().st_size, **_told(found)})
        return
    how = ", encrypted" if sealed.is_encrypted(file) else ""
    out.print(f"{escape(str(file))}: {file.stat().st_size / 1e6:.1f} MB{how}.")


@app.command("import")
def import_(
    file: Path,
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    identity: IdentityFile = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Take in a session from a file. Refused with the reason before anything changes."""
    with connect(url) as client, _clear(file, passphrase, passphrase_file, identity) as clear:
        done = _send(client, clear, shown=not json_output)
    _say_imported(done, json_output=json_output)


@app.command("push")
def push(
    session: str,
    to: Annotated[str, typer.Argument(help="s3://bucket/name, sftp://host/path, a file: any place of fsspec's.")],
    codec: Codec = "lossless",
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    recipient: Recipient = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Export a session to a place elsewhere."""
    secret = _secret(passphrase, passphrase_file, confirm=True)
    with tempfile.TemporaryDirectory() as folder, connect(url) as client:
        file = Path(folder) / "session.slowwave"
        _fetch(client, session, file, codec, shown=not json_output)
        if secret is not None or recipient:
            sealed.encrypt(file, passphrase=secret, recipients=recipient or [])
        with _place(to) as (files, path):
            part = f"{path}.part"
            files.put_file(str(file), part)
            files.mv(part, path)
        size = file.stat().st_size
    if json_output:
        print_json({"to": to, "bytes": size})
    else:
        out.print(f"{escape(to)}: {size / 1e6:.1f} MB.")


@app.command("pull")
def pull(
    source: Annotated[str, typer.Argument(help="s3://bucket/name, sftp://host/path, a file: any place of fsspec's.")],
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    identity: IdentityFile = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Import a session from a place elsewhere."""
    with tempfile.TemporaryDirectory() as folder, connect(url) as client:
        file = Path(folder) / "session.slowwave"
        with _place(source) as (files, path):
            files.get_file(path, str(file))
        with _clear(file, passphrase, passphrase_file, identity) as clear:
            done = _send(client, clear, shown=not json_output)
    _say_imported(done, json_output=json_output)


@app.command("inspect")
def inspect_(
    file: Path,
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    identity: IdentityFile = None,
    json_output: Json = False,
) -> None:
    """What a file says of itself, by its header. Needs no service."""
    with _clear(file, passphrase, passphrase_file, identity) as clear:
        told = _told(_inspected(clear))
    if json_output:
        print_json(told)
        return
    session = told["manifest"].get("session", {})
    identity_ = told["manifest"].get("identity", {})
    rows = {
        "made": told["manifest"].get("made"),
        "session": f"{session.get('id')}, {session.get('messages')} messages" if session else None,
        "tokens read": told["tokens"],
        "codec": told["manifest"].get("codec", {}).get("name"),
        "signed by": told["signer"] or "nobody",
        **{name: identity_.get(name) for name in ("weights", "tokenizer", "adapter", "dtype", "device", "kernels")},
        "seal": told["seal"],
        "MB": f"{told['bytes'] / 1e6:.1f}",
    }
    for name, value in rows.items():
        out.print(f"{name:12} {escape(str(value if value not in (None, '') else '-'))}", soft_wrap=True)


@app.command("verify")
def verify(
    file: Path,
    trusted: Trusted = None,
    passphrase: Passphrase = False,
    passphrase_file: PassphraseFile = None,
    identity: IdentityFile = None,
    json_output: Json = False,
) -> None:
    """Check every digest of a file, and its signature. Needs no service. Exits with 1 if anything is wrong."""
    with _clear(file, passphrase, passphrase_file, identity) as clear:
        found = _read(clear)
    if trusted and found.signer not in trusted:
        raise Failure(f"{file} is {'unsigned' if found.signer is None else f'signed by {found.signer}'}")
    if json_output:
        print_json({"ok": True, **_told(found)})
    else:
        out.print(f"Whole; {'unsigned' if found.signer is None else f'signed by {found.signer}'}.", soft_wrap=True)


def _fetch(client: Any, session: str, file: Path, codec: str, *, shown: bool) -> None:
    path = f"/v1/sessions/{session}/checkpoint"
    transfer.fetch(client, path, file, params={"codec": codec}, shown=shown)


def _send(client: Any, file: Path, *, shown: bool) -> dict[str, Any]:
    found = _inspected(file)
    with file.open("rb") as source:
        beginning = source.read(min(t.start for t in found.tensors.values()) if found.tensors else found.nbytes)
    seen = call(
        client,
        "POST",
        "/v1/checkpoints/look",
        params={"bytes": found.nbytes},
        content=beginning,
        headers={"Content-Type": "application/octet-stream"},
    )
    if seen["refused"]:
        raise Failure(f"the service does not take it in: {seen['refused']}")
    done: dict[str, Any] = transfer.send(client, file, shown=shown)
    return done


def _say_imported(done: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(done)
        return
    out.print(f"Session {done['session']}: {done['messages']} messages, {done['bytes'] / 1e6:.1f} MB.")
    out.print(f"{done['how']}: {escape(done['why'])}; {done['tokens']} tokens need not be read again.", soft_wrap=True)
    if done["signature"] in ("unsigned", "unknown"):
        err.print("Nobody you have named has signed it (trusted_signers).")


def _secret(ask: bool, file: Path | None, *, confirm: bool = False) -> str | None:
    if file is not None:
        lines = file.read_text().splitlines()
        if not lines or not lines[0]:
            raise Failure(f"the first line of {file} is empty")
        return lines[0]
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm)) if ask else None


@contextmanager
def _clear(file: Path, passphrase: bool, passphrase_file: Path | None, identity: list[Path] | None) -> Iterator[Path]:
    """The file itself, or what it becomes when it is decrypted, for a while."""
    if not file.is_file():
        raise Failure(f"there is no file {file}")
    if not sealed.is_encrypted(file):
        yield file
        return
    secret = _secret(passphrase, passphrase_file)
    if secret is None and not identity:
        raise Failure(f"{file} is encrypted: --passphrase, --passphrase-file or --identity opens it")
    with tempfile.TemporaryDirectory() as folder:
        clear = Path(folder) / "clear"
        sealed.decrypt(file, clear, passphrase=secret, identities=identity or [])
        yield clear


def _inspected(file: Path) -> Contents:
    try:
        return inspect(file)
    except BrokenStateFile as error:
        raise Failure(f"{file} is no file of a session, or not a whole one: {error}") from error


def _read(file: Path) -> Contents:
    try:
        return opened(file)[0]
    except BrokenStateFile as error:
        raise Failure(f"{file} is no file of a session, or not a whole one: {error}") from error


def _told(found: Contents) -> dict[str, Any]:
    ids = found.tensors.get("token_ids")
    return {
        "manifest": dict(found.manifest),
        "tokens": ids.shape[0] if ids is not None and ids.shape else 0,
        "tensors": len(found.tensors),
        "bytes": found.nbytes,
        "seal": found.seal,
        "signer": found.signer,
    }


@contextmanager
def _place(url: str) -> Iterator[tuple[Any, str]]:
    """A file system of fsspec's and a path in it. Raises: Failure: it is not there, or cannot be used from here."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
        yield files, path
    except (OSError, ValueError, ImportError) as error:
        raise Failure(f"{url}: {error}") from error
