"""Whom a text speaks of, by what they are to the speaker: relatives, friends, animals. Data; English."""

from __future__ import annotations

from memory.words import words

PEOPLE = frozenset(
    """
    mother mum mom father dad parents brother sister brothers sisters sibling siblings son daughter sons daughters child
    children kid kids husband wife partner boyfriend girlfriend fiancé fiancée fiance fiancee spouse uncle aunt cousin
    grandmother grandfather grandma grandpa nan granny niece nephew godmother godfather friend friends boss manager
    colleague coworker workmate neighbour neighbor neighbours flatmate roommate housemate landlord landlady dentist
    doctor therapist teacher tutor coach trainer hairdresser barber mechanic plumber lawyer accountant gardener nanny
    babysitter mother-in-law father-in-law sister-in-law brother-in-law stepmother stepfather stepson stepdaughter twin
    eldest oldest youngest missus mam mammy hubby maid bandmate teammate gran grandad granddad granddaughter
    granddaughters grandson grandsons grandchild grandchildren stepmum stepmom stepdad stepbrother stepsister ex
    professor supervisor student intern assistant apprentice mentor
    """.split()
)
PETS = frozenset(
    """
    dog cat puppy kitten rabbit hamster parrot budgie horse pony tortoise turtle goldfish fish snake lizard gecko hen
    chicken goat sheep cow donkey guinea-pig ferret rat mouse canary iguana duck
    whippet labrador poodle spaniel terrier beagle collie dachshund greyhound lurcher retriever tabby
    goose pet chickens dogs cats rabbits hens
    """.split()
)
_SAME = {
    "whippet": "dog", "labrador": "dog", "poodle": "dog", "spaniel": "dog", "terrier": "dog", "beagle": "dog",
    "collie": "dog", "dachshund": "dog", "greyhound": "dog", "lurcher": "dog", "retriever": "dog", "tabby": "cat",
    "mum": "mother", "mom": "mother", "dad": "father", "grandma": "grandmother", "granny": "grandmother",
    "nan": "grandmother", "gran": "grandmother", "grandpa": "grandfather", "grandad": "grandfather",
    "kid": "child", "kids": "child", "children": "child", "son": "child", "daughter": "child", "sons": "child",
    "daughters": "child", "husband": "spouse", "wife": "spouse", "partner": "spouse", "boyfriend": "spouse",
    "girlfriend": "spouse", "fiancé": "spouse", "fiancée": "spouse", "fiance": "spouse", "fiancee": "spouse",
    "puppy": "dog", "dogs": "dog", "kitten": "cat", "cats": "cat", "pony": "horse", "hens": "hen", "chicken": "hen",
    "chickens": "hen", "rabbits": "rabbit", "neighbor": "neighbour", "neighbours": "neighbour", "manager": "boss",
    "supervisor": "boss", "coworker": "colleague", "workmate": "colleague", "roommate": "flatmate",
    "housemate": "flatmate", "brothers": "brother", "sisters": "sister", "siblings": "sibling", "friends": "friend",
    "landlady": "landlord", "barber": "hairdresser", "trainer": "coach", "professor": "teacher", "tutor": "teacher",
}  # fmt: skip
"""Words that may stand for each other; to tell son from daughter is left to the reader of the memory."""


def kin(text: str) -> frozenset[str]:
    """The relatives, friends and animals in a text, each by one name."""
    said = {w.removesuffix("'s") for w in words(text)} | {w for w in text.lower().split() if "-" in w}
    return frozenset(_SAME.get(w, w) for w in said if w in PEOPLE or w in PETS or w in _SAME)
