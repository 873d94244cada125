"""How an adapter is to be trained: every choice there is, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. The defaults are the winner of bench/recipes.py for the default model."""

    method: Literal["lora", "rslora", "dora", "full"] = "lora"
    """LoRA; scaled by the root of its rank (Kalajdzievski 2023); with the weights' lengths apart (Liu et al. 2024); or
    whole weights, kept as an adapter (whole_weights.py)."""
    rank: int = 32
    alpha: int = 64
    targets: tuple[str, ...] = MLP_TARGETS
    trained_share: float = 0.5
    """Of the layers, from the top."""
    upper_targets: tuple[str, ...] = ()
    """Further ones, in the upper quarter of those layers alone: where a codebook's entries are put in words."""
    codebook: bool = True
    """What is learnt is kept in entries (codebook.py), where training begins from an adapter with a gate, in which
    wordings of a question look alike; else, and there with False, in the products alone."""
    learning_rate: float = 1e-3
    warmup_steps: int = 8
    epochs: int = 3
    batch: int = 8
    """Examples a step."""
    rehearsed: int = 1
    """Replies that are held to the base, a step."""
    kl_weight: float = 1.0
    gate: int = 64
    """Width of the classifier that says where the adapter acts; 0: everywhere. It needs something that is rehearsed to
    tell from, and products of low rank: with DoRA and full fine-tuning there is none."""
    noise: float = 0.3
    """What a question looks like beneath the trained layers is blurred by so many deviations, anew each time it is
    learnt from, for it will be asked in other words (as NEFTune does with embeddings, Jain et al. 2023)."""
    ewc_weight: float = 0.0
    """Of elastic weight consolidation (elastic.py) towards the base; 0: none."""
    clip: float = 1.0
    learnt_weight: float = 1.0
    """What a token counts that is likelier than 0.5 already; by MemFT (2605.30260) greedy recall needs no more."""
    rehearsed_tokens: int = 48
    """Of a reply that is rehearsed, so many from its beginning."""
    pack_tokens: int = 1024
    """At most this many in one packed row; more on a GPU."""
    kept: float = 1.0
    """The adapter is scaled to this part of what was trained: between base and tuned weights much of the drift goes
    before what was learnt does (WiSE-FT, 2109.01903). With a gate there is little of it."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method == "dora" and self.kept != 1.0:
            raise ValueError("DoRA cannot be scaled by a factor: kept must be 1.0")

    @property
    def gated(self) -> bool:
        """Whether the adapter is to have a gate."""
        return self.gate > 0 and self.method in ("lora", "rslora")
