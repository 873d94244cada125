"""Who made a file: Ed25519 (RFC 8032) over the digest of what it says. Knows no file and no format."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PURPOSE = b"slowwave state\n"
"""Before what is signed: a signature made for something else does not pass here."""
_PUBLIC = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


class BrokenKey(Exception):
    """A file that should hold a private key, and does not."""


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key."""

    _key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> str:
        """The public key, 64 hex digits: by this others know the signer."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, seal: str) -> str:
        """The signature, 128 hex digits."""
        return self._key.sign(_PURPOSE + seal.encode()).hex()


def holds(public: str, seal: str, signature: str) -> bool:
    """Whether `signature` of `seal` is that of the key `public`."""
    if not _PUBLIC.fullmatch(public) or not _SIGNATURE.fullmatch(signature):
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _PURPOSE + seal.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def is_public(text: str) -> bool:
    """Whether a text has the form of a public key."""
    return _PUBLIC.fullmatch(text) is not None


def own(path: Path) -> Signer:
    """The key in a file, for its owner alone to read; made at first.

    Raises:
        BrokenKey: what is there is no key.
        OSError: it cannot be read, or made.
    """
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        return _make(path)
    if not _PUBLIC.fullmatch(found):
        raise BrokenKey(f"{path} does not hold a key: 64 hex digits. Put back the one that was there, or remove it.")
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(found)))


def _make(path: Path) -> Signer:
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(key.private_bytes_raw().hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return Signer(key)
