"""What lies where for the compiled step of decoding: the fields of its tables, which are int64, and its constants."""

from __future__ import annotations

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
SPLIT = 256
"""Positions that one unit of attention looks back on."""
INT4, INT8, BFLOAT16, FLOAT32 = range(4)
"""Of a product's weights (`grouped_weights.KINDS`)."""
QKV, OUTPUT, GATE_UP, DOWN, HEAD = range(5)
"""A layer's products, and what makes logits of the last one's residuals."""
# A plan's fields: sizes, and addresses of what threads share.
(
    HIDDEN, INNER, HEADS, KV_HEADS, WIDTH, VOCABULARY_BLOCKS, ROWS, ADAPTERS, RANK, SPLITS, HALF, GRAIN, DRAFTED,
    RESIDUALS, MIXED, PARTS, LOW, GATED, LOGITS, COSINES, SINES, SHARES, PLAN,
) = range(23)  # fmt: skip
# A layer's fields: its norms, and of each product these four.
INPUT_NORM, MLP_NORM, PRODUCTS = range(3)
WEIGHTS_KIND, CODES, SCALES, BLOCKS = range(4)
LAYER = PRODUCTS + 4 * 4
# A row's fields: its cache, where it stands, what is added to it after some layers, where its logits go, and whether
# an adapter's codebook found what it says.
KEYS, VALUES, CAPACITY, POSITION, STEERED_FROM, STEERED_TO, STEERING, PLACE, BY_HEART, ROW = range(10)
# A low-rank product's fields; of its way up, where each block's inputs begin and how many they are.
DOWN_CODES, DOWN_BLOCKS, UP_CODES, SPANS, LOW_RANK, LOW_RANK_PRODUCT = range(6)
# An adapter's own: whose rows it acts on; its gate, which judges what enters its layer (-1: it has none); whether it
# acts on any of them; and whether it does wholly on those that say what its codebook found.
BEGIN, END, GATE_LAYER, MEAN, DEVIATION, INTO, INTO_BLOCKS, INTO_BIAS, OUT, OUT_BIAS, OPEN, WHOLLY, ADAPTER = range(13)
CLOSED = 2.0**-10
"""An adapter that acts by less adds less than its own rounding to bfloat16 takes away: it is left out."""
LINE = 8
"""int64 of a phase's counters: a cache line."""
FARTHEST = 8.0
"""Deviations from the mean that a gate (gate.py) sees: a few of a model's numbers are a hundred times the others."""
