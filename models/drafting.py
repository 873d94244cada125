"""Guessing what a reply will say next from what stands in its context, without a second model. Pure.

Prompt lookup (Saxena 2023): where the latest tokens stood together before, what followed then is proposed now. Several
tokens of one sequence are decoded in one step, and each is kept only if it is what would have been drawn: a draw is a
function of logits, seed and position, and a row's logits do not depend on the rows beside it. So drafts change how fast
a reply comes and not one of its tokens, sampled or not.
"""

from __future__ import annotations

from collections.abc import Iterable

_LENGTHS = (3, 2)
"""Latest tokens that have to have stood together; the longer is looked up first."""
_COST = (1.0, 1.5, 1.65, 1.7)
"""What a step of 1, 2, ... rows takes, in steps of one (bench.engine --drafts)."""
MOST = len(_COST) - 1
_FIRST, _WEIGHT = 0.5, 0.08
"""How likely a draft is thought to be right at first, and what one more says of it."""
_AGAIN = 48
"""Steps without drafts after which one is tried."""


class Lookup:
    """What followed where, in one sequence."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in _LENGTHS]
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The sequence goes on."""
        for token in tokens:
            at = len(self._tokens)
            for length, after in zip(_LENGTHS, self._after, strict=True):
                if at >= length:
                    after[tuple(self._tokens[at - length :])] = at
            self._tokens.append(token)

    def propose(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next."""
        for length, after in zip(_LENGTHS, self._after, strict=True):
            at = after.get(tuple(self._tokens[-length:])) if len(self._tokens) >= length else None
            if at is not None:
                return self._tokens[at : at + most]
        return []


class Pace:
    """How many tokens to draft: as many as come soonest at the rate at which drafts of late were right; often none."""

    def __init__(self) -> None:
        self._right = _FIRST
        self._idle = 0

    def many(self, most: int) -> int:
        """So many now, `most` at most."""
        p = self._right
        tokens, best, gain = 1.0, 0, 1.0
        for n in range(1, min(most, MOST) + 1):
            tokens += p**n  # that this step gives, on average
            if tokens / _COST[n] > gain:
                best, gain = n, tokens / _COST[n]
        self._idle = 0 if best else self._idle + 1
        if best == 0 and self._idle >= _AGAIN and most > 0:
            self._idle = 0
            return 1
        return best

    def learn(self, drafted: int, right: int) -> None:
        """Of so many drafts so many were right, from the first on; behind a wrong one nothing was compared."""
        for outcome in [1.0] * right + [0.0] * (right < drafted):
            self._right += _WEIGHT * (outcome - self._right)
