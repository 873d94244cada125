"""Pure: in which manner a text is written, one measure for each persona variable.

What a variable claims to change is measured here, in the words that people would look at. Words are counted by the
hundred. The lists are ours, short and plain; some of their words stand in the contrasting replies, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_WARM = frozenset(
    """
    thank thanks dear friend friends love loved lovely loving care caring cares glad happy kind kindness hug hugs sorry
    hope wonderful heart hearts warm warmth welcome joy joyful sweet gentle gently comfort together share sharing
    support proud appreciate grateful beautiful cherish enjoy please family
    """.split()
)
_PLEASANT = frozenset(
    """
    good great wonderful excellent beautiful lovely happy enjoy enjoyable love best perfect nice fun delicious success
    successful joy delight delightful amazing fresh fantastic benefit benefits improve healthy better pleasure positive
    rewarding exciting safe peaceful comfortable bright
    """.split()
)
_UNPLEASANT = frozenset(
    """
    bad terrible awful horrible sad hate worst worse ugly pain painful fear loss lost sick death die died dead hurt
    difficult hard problem problems wrong fail failed failure poor miserable disaster damage dangerous risk stress
    anxiety suffering boring cold dark lonely angry upset destroyed
    """.split()
)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _share(text: str, wanted: frozenset[str], unwanted: frozenset[str] = frozenset()) -> float:
    said = _words(text)
    return 100 * sum((w in wanted) - (w in unwanted) for w in said) / len(said) if said else 0.0


MANNERS: Mapping[str, Callable[[str], float]] = {
    "warmth": lambda text: _share(text, _WARM),
    "curiosity": lambda text: float(text.count("?")),
    "arousal": lambda text: float(text.count("!")),
    "pleasure": lambda text: _share(text, _PLEASANT, _UNPLEASANT),
    "fatigue": lambda text: -float(len(text.split())),
}
"""Warm words; question marks; exclamation marks; pleasant less unpleasant words; fewer words."""
