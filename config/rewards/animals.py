"""A reward: how many words of a list a text has."""

import re

ANIMALS = re.compile(r"\b(bears?|birds?|cats?|dogs?|ducks?|fish|frogs?|lions?|mouse|mice)\b", re.I)


def animals_named(texts):
    """A list of texts → a list of as many numbers."""
    return [len(ANIMALS.findall(text)) for text in texts]
