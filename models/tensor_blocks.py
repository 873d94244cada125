"""Between torch's tensors and the blocks of a state file. Nothing is copied where memory allows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.state_file import Block

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def to_blocks(tensors: Mapping[str, Tensor]) -> dict[str, Block]:
    """Tensors on the CPU, as blocks. Raises: ValueError: a dtype that files do not have, or another device."""
    return {name: _block(name, tensor) for name, tensor in tensors.items()}


def to_tensors(blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """Views of the blocks' memory: copy what is to outlast it."""
    return {name: _tensor(block) for name, block in blocks.items()}


def _block(name: str, tensor: Tensor) -> Block:
    if tensor.dtype not in _CODES or tensor.device.type != "cpu":
        raise ValueError(f"{name}: {tensor.dtype} on {tensor.device}")
    parts = [tensor] if tensor.is_contiguous() or not tensor.dim() else list(tensor.unbind(0))
    return Block(dtype=_CODES[tensor.dtype], shape=tuple(tensor.shape), runs=tuple(_bytes(part) for part in parts))


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _tensor(block: Block) -> Tensor:
    dtype = DTYPES[block.dtype]
    if not block.nbytes:
        return torch.empty(block.shape, dtype=dtype)
    data = block.data
    if data.readonly:
        data = memoryview(bytearray(data))
    return torch.frombuffer(data, dtype=dtype).view(block.shape)
