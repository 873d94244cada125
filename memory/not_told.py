"""Pure: the words in which a reply says that one was not told."""

from __future__ import annotations

import re

_ABSTAINS = re.compile(
    r"\b(have(n't| not) (told|mentioned|said|shared)|never (told|mentioned|said)|do(n't| not) (know|have that)"
    r"|not (been )?told|did(n't| not) (tell|mention)|not sure)\b",
    re.IGNORECASE,
)


def abstains(reply: str) -> bool:
    """Whether a reply says that one was not told."""
    return bool(_ABSTAINS.search(reply.replace("’", "'")))
