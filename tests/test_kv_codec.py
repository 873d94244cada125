"""Codecs: what is lossless comes back bit for bit, what is not within its steps; nothing odd is taken for a state."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import kv_transform
from models.kv_codec import CODECS, SINKS, Codec, CodecMissing, block_of, coded, decoded, floats
from models.kv_transform import Transform
from models.state_file import Block, BrokenStateFile

HEADS, D, LAYERS = 2, 8, 3
MOST = 1 << 20
CODED = [c for c in CODECS if c != "none"]


def numbers(seed: int, tokens: int, scale: float = 1.0) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    made = chance.standard_normal((HEADS, tokens, D)) * scale * chance.uniform(0.1, 3.0, (HEADS, 1, D))
    return made.astype(np.float32)


def state(tokens: int, *, seed: int = 0, scale: float = 1.0) -> dict[str, Block]:
    return {
        f"{kind}.{layer:03d}": block_of(numbers(seed + 10 * layer + n, tokens, scale), "F32")
        for n, kind in enumerate(("keys", "values"))
        for layer in range(LAYERS)
    }


def made_up() -> Transform:
    chance = np.random.default_rng(5)
    made = Transform(
        forward=(chance.standard_normal((LAYERS, 2, HEADS, D, D)) + 3 * np.eye(D)).astype(np.float32),
        centre=chance.standard_normal((LAYERS, 2, HEADS, D)).astype(np.float32),
        turns=np.power(10000.0, -np.arange(D // 2) / (D // 2)).astype(np.float32),
        steps={"learned": 0.5, "learned-fine": 0.02},
        alphabets=kv_transform.alphabets(1.4),
        layout="tiny",
        digest="",
    )
    return kv_transform.of_bytes(kv_transform.to_bytes(made))


TRANSFORM = made_up()
"""No fixture: hypothesis prints those, whole."""


def there_and_back(held: dict[str, Block], codec: Codec) -> dict[str, Block]:
    made = coded(held, codec, TRANSFORM)
    return decoded(made.blocks, made.manifest, most_bytes=MOST, transforms={TRANSFORM.digest: TRANSFORM})


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(CODECS),
    st.sampled_from([0, 1, SINKS - 1, SINKS, SINKS + 1, 63, 64, 65, SINKS + 64, 130]),
    st.sampled_from([1e-6, 0.1, 1.0, 300.0]),
)
def test_any_length_comes_back_whole_and_near(codec: Codec, tokens: int, scale: float) -> None:
    held = state(tokens, scale=scale)
    back = there_and_back(held, codec)
    assert set(back) == set(held)
    for name, block in held.items():
        was, now = floats(block), floats(back[name])
        assert was.shape == now.shape
        if codec in ("none", "lossless"):
            assert back[name].dtype == block.dtype and bytes(back[name].data) == bytes(block.data)
        elif codec != "bf16":
            assert np.array_equal(was[:, :SINKS], now[:, :SINKS]), "what attention rests on stays exact"
        if codec == "bf16":
            assert np.all(np.abs(was - now) <= np.abs(was) * 2.0**-8)
        elif codec in ("int8", "int4") and tokens > SINKS:
            reach = was[:, SINKS:].max() - was[:, SINKS:].min()
            assert np.abs(was - now).max() <= reach / (250 if codec == "int8" else 14) + 1e-2 * max(scale, 1e-4)


@pytest.mark.parametrize("codec", ["learned", "learned-fine"])
def test_a_learned_error_is_half_a_step_at_most_whatever_the_numbers_are(codec: Codec) -> None:
    held = state(200, seed=3, scale=40.0)  # nothing like what it was made for
    back = there_and_back(held, codec)
    for name in held:
        parts = [TRANSFORM.whole(name, floats(b[name])[:, SINKS:], codec, first=SINKS) for b in (held, back)]
        assert np.abs(parts[0] - parts[1]).max() <= 1, "the same whole steps, but for rounding at their edges"
        assert np.mean(parts[0] != parts[1]) < 1e-3


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_lossless_packs_every_kind_of_float(dtype: str) -> None:
    raw = (np.random.default_rng(1).integers(0, 1 << 16, (HEADS, 70, D)) & 0xBFFF).astype("<u2")  # finite
    held = {"keys.000": block_of(raw, dtype)}
    assert bytes(there_and_back(held, "lossless")["keys.000"].data) == raw.tobytes()


def test_fewer_bits_are_fewer_bytes() -> None:
    held = state(640)
    sizes = {codec: sum(b.nbytes for b in coded(held, codec, TRANSFORM).blocks.values()) for codec in CODECS}
    whole = sizes["none"]
    assert sizes["bf16"] == whole / 2 and sizes["lossless"] < 0.9 * whole
    assert sizes["int4"] < 0.65 * sizes["int8"] < 0.3 * whole
    assert sizes["learned"] < sizes["learned-fine"] < sizes["bf16"]


def test_what_no_codec_knows_stays_as_it_is() -> None:
    odd = {"state.read": block_of(np.arange(5, dtype="<i4"), "I32"), "keys.000": block_of(np.ones(3, "<f4"), "F32")}
    far = {"values.000": block_of(np.full((HEADS, 70, D), 1e30, "<f4"), "F32")}
    for codec in CODECS:
        for held in (odd, far) if codec != "bf16" else (odd,):
            back = there_and_back(held, codec)
            assert {n: bytes(b.data) for n, b in back.items()} == {n: bytes(b.data) for n, b in held.items()}


def test_what_was_learnt_elsewhere_is_missed_and_not_guessed() -> None:
    made = coded(state(80), "learned", TRANSFORM)
    with pytest.raises(CodecMissing, match="not here"):
        decoded(made.blocks, made.manifest, most_bytes=MOST, transforms={})
    with pytest.raises(CodecMissing, match="another codec"):
        coded(state(80), "learned", None)


def changed(of: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(of), **more}


@pytest.mark.parametrize("codec", CODED)
def test_what_does_not_fit_together_is_refused(codec: Codec) -> None:
    made = coded(state(70), codec, TRANSFORM)
    blocks, manifest = dict(made.blocks), dict(made.manifest)
    first = next(iter(blocks))
    half = Block.of("U8", (1,), memoryview(b"\1"))
    tensors = manifest["tensors"]
    wrong: list[tuple[dict[str, Block], dict[str, Any]]] = [
        (blocks, changed(manifest, name="gzip")),
        (blocks, changed(manifest, name=None)),
        (blocks, changed(manifest, tensors=[])),
        (blocks, changed(manifest, tensors={**tensors, "../keys.000": tensors["keys.000"]})),
        (blocks, changed(manifest, tensors={**tensors, "keys.900": {"dtype": "F32", "shape": [2, 70, 8]}})),
        (blocks, changed(manifest, tensors={**tensors, "keys.000": {"dtype": "F32", "shape": [1 << 30, 1 << 30, 8]}})),
        (blocks, changed(manifest, tensors={**tensors, "keys.000": {"dtype": "F32", "shape": [2, -1, 8]}})),
        (blocks, changed(manifest, tensors={**tensors, "keys.000": {"dtype": "I8", "shape": [2, 70, 8]}})),
        ({n: b for n, b in blocks.items() if n != first}, manifest),
        ({**blocks, first: half}, manifest),
        ({**blocks, "keys.000": block_of(numbers(1, 70), "F32")}, manifest),
    ]
    for n, (bad_blocks, bad_manifest) in enumerate(wrong):
        with pytest.raises(BrokenStateFile):
            decoded(bad_blocks, bad_manifest, most_bytes=MOST, transforms={TRANSFORM.digest: TRANSFORM})
            pytest.fail(f"case {n} was taken")
    with pytest.raises(BrokenStateFile, match="more than"):
        decoded(blocks, manifest, most_bytes=100, transforms={TRANSFORM.digest: TRANSFORM})


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CODED), st.integers(0, 2**32), st.binary(min_size=1, max_size=64))
def test_noise_in_a_coded_block_is_refused_or_becomes_numbers_of_the_right_shape(
    codec: Codec, seed: int, noise: bytes
) -> None:
    made = coded(state(70), codec, TRANSFORM)
    chance = np.random.default_rng(seed)
    name = sorted(made.blocks)[int(chance.integers(len(made.blocks)))]
    raw = bytearray(made.blocks[name].data)
    at = int(chance.integers(max(len(raw), 1)))
    raw[at : at + len(noise)] = noise[: max(len(raw) - at, 0)]
    block = Block.of(made.blocks[name].dtype, made.blocks[name].shape, memoryview(bytes(raw)))
    try:
        back = decoded(
            {**made.blocks, name: block}, made.manifest, most_bytes=MOST, transforms={TRANSFORM.digest: TRANSFORM}
        )
    except BrokenStateFile:
        return
    assert all(b.shape == (HEADS, 70, D) for b in back.values())


def test_a_transform_is_a_file_that_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(kv_transform.to_bytes(TRANSFORM))
    again = kv_transform.known(tmp_path)[TRANSFORM.digest]
    assert np.array_equal(again.forward, TRANSFORM.forward) and again.layout == "tiny"
    turned = replace(TRANSFORM, forward=TRANSFORM.forward.swapaxes(0, 0).copy(order="F"))
    assert kv_transform.of_bytes(kv_transform.to_bytes(turned)).digest == TRANSFORM.digest, "however it lies in memory"
    for bad in (b"", b"PK\x03\x04", path.read_bytes()[:-9], b"\x80\x04\x95" + bytes(90)):
        with pytest.raises(ValueError, match="transform"):
            kv_transform.of_bytes(bad)


def test_the_default_models_transform_comes_along() -> None:
    assert any(t.forward.shape == (30, 2, 3, 64, 64) for t in kv_transform.known().values())
