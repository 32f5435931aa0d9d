"""A reward: how many letters a text has, so that long words are worth more."""


def letters(texts):
    """A list of texts → a list of as many numbers, here 1 for 100 letters."""
    return [sum(map(str.isalpha, text)) / 100 for text in texts]
