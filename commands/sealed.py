"""Encrypted files: age (https://age-encryption.org/v1), by a passphrase or for a recipient's key.

The key never leaves this machine: a file is encrypted after it was fetched, and decrypted before it is sent. What is
made here, the program age opens too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyrage
from pyrage import passphrase as by_passphrase
from pyrage import x25519

from commands.terminal import Failure

_MAGIC = b"age-encryption.org/v1"


def is_encrypted(path: Path) -> bool:
    """Whether a file is one of age's."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def encrypt(path: Path, *, passphrase: str | None, recipients: Sequence[str]) -> None:
    """Encrypt a file in its place: a passphrase, or recipients' public keys (age1...).

    Raises:
        Failure: a recipient that is none.
    """
    part = path.with_name(f".{path.name}.age")
    try:
        if passphrase is not None:
            _write(part, by_passphrase.encrypt(path.read_bytes(), passphrase))
        else:
            keys = [x25519.Recipient.from_str(key) for key in recipients]
            with path.open("rb") as source, _private(part) as target:
                pyrage.encrypt_io(source, target, keys)
        part.replace(path)
    except pyrage.RecipientError as error:
        raise Failure(f"no public key of age's: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def decrypt(path: Path, to: Path, *, passphrase: str | None, identities: Sequence[Path]) -> None:
    """Decrypt a file into another.

    Raises:
        Failure: not with this passphrase or these keys.
    """
    try:
        if passphrase is not None:
            _write(to, by_passphrase.decrypt(path.read_bytes(), passphrase))
            return
        lines = [line.strip() for file in identities for line in file.read_text().splitlines()]
        keys = [x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-")]
        with path.open("rb") as source, _private(to) as target:
            pyrage.decrypt_io(source, target, keys)
    except (pyrage.DecryptError, pyrage.IdentityError) as error:
        to.unlink(missing_ok=True)
        raise Failure(f"{path} is encrypted, and this does not open it: {error}") from error


def _private(path: Path):  # type: ignore[no-untyped-def]
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _write(path: Path, raw: bytes) -> None:
    with _private(path) as file:
        file.write(raw)
