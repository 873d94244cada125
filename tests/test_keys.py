"""API keys: who is let in, who one is, how often one may ask."""

from __future__ import annotations

import hashlib

import pytest

from web.keys import LOCAL_OWNER, Keyring


def test_without_keys_everybody_is_local() -> None:
    assert Keyring([]).owner(None) == LOCAL_OWNER
    assert not Keyring([]).required


def test_a_key_opens_in_clear_or_by_digest() -> None:
    digest = hashlib.sha256(b"correct horse").hexdigest()
    for ring in (Keyring(["correct horse"]), Keyring([f"sha256:{digest}"]), Keyring(["another key", "correct horse"])):
        assert ring.owner("Bearer correct horse") == f"key-{digest[:16]}"
        for wrong in (
            None,
            "",
            "correct horse",
            "Basic correct horse",
            "Bearer correct hors",
            "Bearer ",
            f"Bearer {digest}",
        ):
            assert ring.owner(wrong) is None


@pytest.mark.parametrize("key", ["short", "sha256:abc", "sha256:" + "g" * 64])
def test_impossible_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        Keyring([key])


def test_a_quota_refills_with_time_and_is_each_owners_own() -> None:
    now = [0.0]
    ring = Keyring([], requests_per_minute=2, clock=lambda: now[0])
    assert [ring.seconds_until_allowed("a") for _ in range(3)] == [0.0, 0.0, 30.0]
    assert ring.seconds_until_allowed("b") == 0.0
    now[0] = 29.0
    assert ring.seconds_until_allowed("a") == pytest.approx(1.0)
    now[0] = 30.0
    assert ring.seconds_until_allowed("a") == 0.0
