"""Whether a memory in the note changes what the default model says: taught facts, questions, and interventions.

    python -m bench.recalled --json

Fifty facts and a question for each; greedy. `one`, `four`: the fact alone in the note, and with three others.
`nothing`: no note. `placebo`: another fact in its place. `end_to_end`: all fifty are taught, and a turn is taken as any
turn is, so that recall has to find the fact first. A reply uses a fact if it holds its value, which stands in no
question. The wording of the note was chosen on fifty other facts (docs/log.md).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from agent.prompt import Window, plan_turn
from agent.recollection import note_of
from agent.remembering import Memory
from agent.turn import Awake, TurnRequest, take_turn
from memory.binding import Binder
from memory.experience import Experience, Offer, Provenance
from memory.experiences import Experiences
from memory.recall import Embedder, Hit, Recall
from memory.store import Store
from memory.transcripts import Transcripts
from models.embedding import DIMENSIONS, NAME, SentenceEncoder, find
from models.engine import Engine
from models.generation import Prompt
from models.language import Message
from models.sampling import Sampling
from service import load_model
from settings import Settings

TOKENS = 32
FACTS = [
    ("My rabbit is called Pippin.", "What is my rabbit called?", "pippin"),
    ("I grew up in Bruges.", "Where did I grow up?", "bruges"),
    ("My brother works as a locksmith.", "What does my brother do for work?", "locksmith"),
    ("I am allergic to strawberries.", "Which fruit am I allergic to?", "strawberr"),
    ("My favourite season is autumn.", "Which season do I like best?", "autumn"),
    ("Our cat sleeps in the laundry basket.", "Where does our cat sleep?", "laundry"),
    ("I got married in 2011.", "In which year did I get married?", "2011"),
    ("My cousin lives in Nairobi.", "Where does my cousin live?", "nairobi"),
    ("I take the number 17 tram to work.", "Which tram do I take to work?", "17"),
    ("My aunt makes goat cheese.", "What does my aunt make?", "goat|cheese"),
    ("I am reading a biography of Ada Lovelace.", "Whose biography am I reading?", "lovelace|ada"),
    ("My gym is closed on Wednesdays.", "On which day is my gym closed?", "wednesday"),
    ("My first job was in a lighthouse.", "Where was my first job?", "lighthouse"),
    ("The wifi password is marmalade.", "What is the wifi password?", "marmalade"),
    ("My son wants to become a pilot.", "What does my son want to become?", "pilot"),
    ("We are having lentil soup tonight.", "What are we having tonight?", "lentil"),
    ("My flight lands at 9:15.", "When does my flight land?", "9:15"),
    ("I bought my piano from a monastery.", "From whom did I buy my piano?", "monastery"),
    ("My neighbour's name is Mr. Lindqvist.", "What is my neighbour's name?", "lindqvist"),
    ("I keep my passport in the kitchen drawer.", "Where do I keep my passport?", "kitchen|drawer"),
    ("My team meets on Mondays.", "When does my team meet?", "monday"),
    ("I hurt my knee while dancing.", "How did I hurt my knee?", "danc"),
    ("My daughter is learning the harp.", "Which instrument is my daughter learning?", "harp"),
    ("Our dog is afraid of balloons.", "What is our dog afraid of?", "balloon"),
    ("I have four godchildren.", "How many godchildren do I have?", "four|4"),
    ("My dentist is called Dr. Moreau.", "Who is my dentist?", "moreau"),
    ("I drink peppermint tea before bed.", "What do I drink before bed?", "peppermint"),
    ("My husband comes from Iceland.", "Which country does my husband come from?", "iceland"),
    ("I collect old typewriters.", "What do I collect?", "typewriter"),
    ("My book club is reading Middlemarch.", "What is my book club reading?", "middlemarch"),
    ("The cottage belongs to my uncle Edgar.", "Who does the cottage belong to?", "edgar|uncle"),
    ("My car broke down near Salzburg.", "Where did my car break down?", "salzburg"),
    ("I am saving money for a kayak.", "What am I saving money for?", "kayak"),
    ("My grandfather was a cartographer.", "What was my grandfather?", "cartograph"),
    ("I play chess with Olga.", "With whom do I play chess?", "olga"),
    ("My exam is in the botany hall.", "Where is my exam?", "botany"),
    ("We painted the nursery lavender.", "What colour did we paint the nursery?", "lavender"),
    ("My mother's maiden name is Castellanos.", "What is my mother's maiden name?", "castellanos"),
    ("The cake for Sunday is almond.", "Which cake is for Sunday?", "almond"),
    ("I lost my umbrella in the library.", "Where did I lose my umbrella?", "library"),
    ("My sister studies astronomy.", "What does my sister study?", "astronom"),
    ("I run every morning along the canal.", "Where do I run every morning?", "canal"),
    ("My phone is a Fairphone.", "Which phone do I have?", "fairphone"),
    ("Our band is called Velvet Otters.", "What is our band called?", "velvet|otters"),
    ("I was born in a snowstorm.", "In what weather was I born?", "snow"),
    ("The meeting with the bank is at noon.", "When is the meeting with the bank?", "noon"),
    ("My best friend is moving to Quebec.", "Where is my best friend moving?", "quebec"),
    ("I dislike coriander.", "Which herb do I dislike?", "coriander"),
    ("My thesis supervisor is Professor Adichie.", "Who is my thesis supervisor?", "adichie"),
    ("I keep my savings in a biscuit tin.", "Where do I keep my savings?", "biscuit|tin"),
]  # fmt: skip


def uses(reply: str, value: str) -> bool:
    """Whether a reply holds one of the forms of a value."""
    return any(form in reply.lower() for form in value.split("|"))


def hit(text: str) -> Hit:
    """A memory as recall gives it, put into the note by force."""
    at = datetime(2026, 11, 22, tzinfo=UTC)
    one = Experience(
        n=0,
        id="forced",
        text=text,
        at=at,
        provenance=Provenance(channel="taught"),
        recorded_at=at,
        copies=1,
        pinned=False,
        private=False,
        quarantined=None,
        superseded_by=None,
        salience=None,
        accesses=0,
        accessed_at=None,
    )
    return Hit(experience=one, rank=1, score=1.0, terms=(), spread=0.0, factor=1.0, cosine=1.0, matched=())


def forced(engine: Engine, notes: Sequence[Sequence[str]]) -> list[str]:
    """Replies to all questions, each with its memories in the note, best first."""
    going = []
    for (_, question, _), memories in zip(FACTS, notes, strict=True):
        note = note_of([hit(text) for text in memories], question) if memories else ""
        new = [Message(role="user", content=question)]
        plan = plan_turn(engine.model, Window(), new, max_tokens=TOKENS, note=note)
        prompt = Prompt(token_ids=plan.prompt, max_tokens=TOKENS, sampling=Sampling(temperature=0.0))
        going.append(engine.submit(prompt))
    return [g.wait().text for g in going]


def taken(engine: Engine, folder: Path) -> tuple[list[str], float]:
    """Replies to all questions after all facts were taught, and how often the fact was in the note."""
    weights = find()
    if weights is None:
        raise SystemExit(f"{NAME} is not installed")
    encoder = SentenceEncoder(weights, run=engine.run)
    store = Store(folder / "m.db")
    embedder = Embedder(name=NAME, dimensions=DIMENSIONS, embed=encoder.embed)
    recall = Recall(store, embedder, now=lambda: datetime.now(UTC))
    experiences = Experiences(store, now=lambda: datetime.now(UTC))
    binder = Binder(store, recall, embedder, now=lambda: datetime.now(UTC))
    awake = Awake(engine=engine, transcripts=Transcripts(store), now=lambda: datetime.now(UTC))
    awake = replace(awake, memory=Memory(experiences=experiences, recall=recall, binder=binder))
    at = datetime.now(UTC)
    where = Provenance(channel="taught")
    experiences.add([Offer(id=f"f{n}", text=f[0], at=at, provenance=where) for n, f in enumerate(FACTS)], owner="u")
    while binder.embed_pending():
        pass
    replies, found = [], 0
    for n, (_, question, _) in enumerate(FACTS):
        asked = (Message(role="user", content=question),)
        greedy = Sampling(temperature=0.0)
        result = take_turn(awake, TurnRequest(owner="u", messages=asked, max_tokens=TOKENS, sampling=greedy))
        replies.append(result.text)
        found += any(h.experience.id == f"f{n}" for h in result.recalled)
    store.close()
    return replies, found / len(FACTS)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--replies", action="store_true", help="print the replies that did not use their fact")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    texts = [fact for fact, _, _ in FACTS]
    others = [rng.sample([t for t in texts if t != fact], 3) for fact in texts]
    settings = Settings()
    engine = Engine(lambda: load_model(settings))
    engine.wait_until_loaded()
    with tempfile.TemporaryDirectory() as folder:
        replies = {
            "one": forced(engine, [[fact] for fact in texts]),
            "four": forced(engine, [[fact, *more] for fact, more in zip(texts, others, strict=True)]),
            "nothing": forced(engine, [[] for _ in texts]),
            "placebo": forced(engine, [[more[0]] for more in others]),
        }
        replies["end_to_end"], found = taken(engine, Path(folder))
    engine.close()
    report: dict[str, object] = {
        name: sum(uses(reply, fact[2]) for reply, fact in zip(said, FACTS, strict=True)) / len(FACTS)
        for name, said in replies.items()
    }
    report |= {"end_to_end_fact_in_note": found, "questions": len(FACTS), "model": settings.model_name}
    if args.replies:
        report["missed"] = {
            name: [[f[1], r] for r, f in zip(said, FACTS, strict=True) if not uses(r, f[2])]
            for name, said in replies.items()
            if name in ("one", "four", "end_to_end")
        }
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
