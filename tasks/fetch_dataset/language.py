"""Which language a dataset is in, for people: nothing is decided by it."""

from collections.abc import Sequence

#: Fewer letters than this are a guess.
FEWEST_LETTERS = 20
#: More text than this changes nothing.
ENOUGH_CHARACTERS = 4000


def language_of(texts: Sequence[str]) -> str | None:
    """Return the ISO 639-1 code of the likeliest language of the texts together; None for too little text."""
    sample, size = [], 0
    step = max(len(texts) // 200, 1)
    for text in texts[::step]:
        sample.append(text)
        size += len(text)
        if size > ENOUGH_CHARACTERS:
            break
    together = " ".join(sample)[:ENOUGH_CHARACTERS]
    if sum(character.isalpha() for character in together) < FEWEST_LETTERS:
        return None
    import py3langid

    language: str = py3langid.classify(together)[0]
    return language
