"""Counts of n characters with Witten and Bell's smoothing (1991): what a table of what followed what can foretell."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence


def nats(train: Sequence[int], held: Sequence[int], order: int, vocab_size: int) -> float:
    """Of a held character, by what followed its last `order` - 1."""
    tables: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
    told = tuple(train)
    for n, table in enumerate(tables):
        for at in range(n, len(told)):
            table[told[at - n : at]][told[at]] += 1
    totals = [{context: sum(c.values()) for context, c in table.items()} for table in tables]
    asked, sum_of = tuple(held), 0.0
    for at in range(order - 1, len(asked)):
        p = 1.0 / vocab_size
        for n in range(order):
            context = asked[at - n : at]
            seen = tables[n].get(context)
            if seen is None:
                break
            kinds, total = len(seen), totals[n][context]
            p = (seen[asked[at]] + kinds * p) / (total + kinds)
        sum_of -= math.log(p)
    return sum_of / (len(asked) - order + 1)
