"""A question in other words, made by rule: what a fact that the file words once is asked in for the test.

English, German, French and Spanish questions become statements, keywords and requests; a question in any other
language, and one that no rule fits, gets typing slips. The rules know no synonyms, so a made question is nearer to the
one that it was made from than a person's own words would be: what is measured on made questions is marked as such
(``made_by``) and told apart from what is measured on real ones.
"""

import hashlib
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tasks.fetch_dataset.text import comparable, word_set

#: Words that carry no subject, in the languages for which there are rules.
_SMALL = """
    a an the is are was were am be been do does did can could may might must shall should will would have has
    had i you he she it we they me my your our their his her its to of in on at for from with by and or what
    which who whom whose when where why how there this that these those please if as about any some der die
    das ein eine einen einem einer eines ist sind war waren bin wird werden wurde kann können konnte darf
    dürfen muss müssen soll will möchte hat haben hatte ich du er sie es wir ihr mein meine dein ihre unser
    den dem des zu im in am an auf für von vom mit bei und oder was welche welcher welches wer wem wen wann wo
    warum wie gibt man bitte wenn le la les l un une des du de d est sont était es suis peut peux puis pouvez
    dois doit faut fait ai as a avez avons je j tu il elle on nous vous ils elles mon ma mes votre vos notre
    ce cette ces c à au aux en dans sur pour par avec et ou que qu quoi quel quelle quels quelles qui quand où
    pourquoi comment combien y el los las una unos unas del al es son era está están soy puede puedo pueden
    debo hay he ha tengo tiene tienen yo tú él ella nosotros mi mis su sus nuestro esto este esta lo que qué
    cuál cuáles quién cuándo dónde cómo cuánto cuánta cuántos cuántas por con para y o si se me te sin
"""
_SMALL_WORDS = frozenset(_SMALL.split())
#: How a question begins, and how somebody says the same who does not ask; ``{}`` is the rest.
_STATEMENTS: tuple[tuple[str, str], ...] = (
    (r"how (?:do|can|could|may|should) (?:i|we|you) (.+)", "I want to {}"),
    (r"how (?:do|can) (?:people|customers|members|students) (.+)", "people want to {}"),
    (r"(?:can|may|could) (?:i|we) (.+)", "I would like to {}"),
    (r"do (?:i|we) (?:have|need) to (.+)", "is it necessary to {}"),
    (r"where (?:can|do|could) (?:i|we) (.+)", "looking for a place to {}"),
    (r"(?:what|which) (?:is|are|was|were) (.+)", "tell me about {}"),
    (r"what's (.+)", "tell me about {}"),
    (r"who (?:is|are|was|were) (.+)", "the person: {}"),
    (r"where (?:is|are|was|were) (.+)", "the place of {}"),
    (r"(?:is|are) there (.+)", "I am looking for {}"),
    (r"do you have (.+)", "I am looking for {}"),
    (r"wie (?:kann|könnte|soll|muss) ich (.+)", "Ich möchte {}"),
    (r"wo (?:kann|finde) ich (.+)", "Ich suche {}"),
    (r"(?:kann|darf) ich (.+)", "Ich möchte {}"),
    (r"was (?:ist|sind|war) (.+)", "Erzähl mir von: {}"),
    (r"(?:gibt es|habt ihr|haben sie) (.+)", "Ich suche {}"),
    (r"(?:welche|welcher|welches|wann|wo|wer|wie) (?:ist|sind|hat|haben|war) (.+)", "Ich hätte gern gewusst: {}"),
    (r"comment (?:puis-je|peut-on|je peux|faire pour) (.+)", "Je voudrais {}"),
    (r"(?:puis-je|est-ce que je peux|peut-on) (.+)", "Je voudrais {}"),
    (r"où (?:puis-je|peut-on) (.+)", "Je cherche à {}"),
    (r"(?:quel|quelle|quels|quelles) (?:est|sont) (.+)", "Dites-moi {}"),
    (r"(?:avez-vous|y a-t-il|est-ce qu'il y a) (.+)", "Je cherche {}"),
    (r"cómo (?:puedo|se puede) (.+)", "Quiero {}"),
    (r"cómo (.+)", "Necesito saber: {}"),
    (r"(?:puedo|se puede) (.+)", "Quiero {}"),
    (r"dónde (?:puedo|se puede) (.+)", "Busco dónde {}"),
    (r"(?:cuál|cuáles) (?:es|son) (.+)", "Dígame {}"),
    (r"(?:hay|tienen|tenéis) (.+)", "Busco {}"),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), form) for pattern, form in _STATEMENTS)
_OPENINGS = {
    "en": ("could you tell me", "hello,", "one question:", "I was wondering:"),
    "de": ("könnten Sie mir sagen:", "hallo,", "eine Frage:", "ich wüsste gern:"),
    "fr": ("pourriez-vous me dire :", "bonjour,", "une question :", "je me demandais :"),
    "es": ("podría decirme:", "hola,", "una pregunta:", "me gustaría saber:"),
}
#: Words by which a question shows its language; a tie or none of them means that no opening is put in front.
_TELLING = {
    "en": "the what how is are do does can where when which who why i you my of for",
    "de": "der die das wie was ist sind kann wo wann welche wer warum ich sie mein und für gibt",
    "fr": "le la les comment est sont puis où quand quel quelle pourquoi je vous mon des pour que",
    "es": "el la los las cómo qué es son puedo dónde cuándo cuál por mi del para hay cuánto",
}
_CONTRACTIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), short)
    for pattern, short in (
        (r"\b(what|where|who|how|when|that|there|it|he|she) is\b", r"\1's"),
        (r"\b(do|does|did|is|are|was|were|have|has|should|would|could) not\b", r"\1n't"),
        (r"\bcannot\b", "can't"),
        (r"\bI am\b", "I'm"),
        (r"\b(you|we|they) are\b", r"\1're"),
        (r"\b(I|you|we|they) have\b", r"\1've"),
        (r"\bpeut-on\b", "on peut"),
        (r"\best-ce que je peux\b", "j'peux"),
        (r"\bgibt es\b", "gibt's"),
        (r"\bgeht es\b", "geht's"),
    )
)
_WORD = re.compile(r"[^\W\d_]+")


class OtherWords(NamedTuple):
    """One made question."""

    text: str
    made_by: str
    """The rule's name."""


class Maker:
    """Makes questions in other words that could be meant for no other fact.

    Parameters
    ----------
    questions
        Every question of the file with the fact that it asks for: what is made for one fact must stand in none of
        them, and hold other words than every question of another fact.
    seed
        Another seed, other slips; the same seed and question give the same.
    """

    def __init__(self, questions: Iterable[tuple[str, str]], seed: int) -> None:
        self._seed = seed
        self._taken: set[str] = set()
        self._facts: dict[str, set[str]] = defaultdict(set)
        for question, fact in questions:
            self._taken.add(comparable(question))
            for words in (word_set(question), _subjects(question)):
                self._facts[words].add(fact)

    def make(self, question: str, fact: str, count: int) -> list[OtherWords]:
        """Return up to ``count`` questions that ask what ``question`` does, each made by another rule where it can."""
        made: list[OtherWords] = []
        for rule, text in self._candidates(question):
            if len(made) == count:
                break
            text = " ".join(text.split())
            key = comparable(text)
            if not text or key in self._taken or self._meant_elsewhere(text, fact):
                continue
            self._taken.add(key)
            made.append(OtherWords(text, rule))
        return made

    def _meant_elsewhere(self, text: str, fact: str) -> bool:
        return any(self._facts.get(words, {fact}) - {fact} for words in (word_set(text), _subjects(text)))

    def _candidates(self, question: str) -> Iterator[tuple[str, str]]:
        rng = random.Random(hashlib.sha256(f"{self._seed}\n{question}".encode()).digest())  # noqa: S311 - no secret
        bare = question.strip(" \t?!.¿¡？。")
        language = _language(question)
        for pattern, form in _COMPILED:
            if found := pattern.fullmatch(bare):
                yield "statement", form.format(found[1])
                break
        keywords = [word for word in bare.split() if comparable(word) not in _SMALL_WORDS]
        if language is not None and 2 <= len(keywords) < len(bare.split()):
            yield "keywords", " ".join(keywords)
        if language is not None:
            opening = rng.choice(_OPENINGS[language])
            yield "opening", f"{opening} {_slip(_decapitalised(bare), rng)}"
        short = question
        for contraction, with_apostrophe in _CONTRACTIONS:
            short = contraction.sub(with_apostrophe, short)
        if short != question:
            yield "contraction", short
        without = without_accents(bare)
        if without != bare:
            yield "no accents", without.lower()
        words = bare.split()
        if len(words) > 3:
            gone = rng.randrange(len(words))
            yield "word left out", " ".join(words[:gone] + words[gone + 1 :])
        for _ in range(8):
            yield "typing slip", _slip(bare.lower() if rng.random() < 0.5 else bare, rng)
        for _ in range(4):
            yield "typing slip", _slip(_slip(bare, rng), rng)
        yield "typing slip", f"{bare}{bare[-1:]}"
        yield "typing slip", question + question[-1:]


def without_accents(text: str) -> str:
    """Return a text in which letters of the Latin script have lost their accents; other scripts stay as they are."""
    taken_apart = unicodedata.normalize("NFD", text)
    kept = [
        character
        for before, character in zip("\0" + taken_apart, taken_apart, strict=False)
        if not (unicodedata.combining(character) and "a" <= before.lower() <= "z")
    ]
    return unicodedata.normalize("NFC", "".join(kept))


def _subjects(question: str) -> str:
    """Return the sorted words of a question that carry its subject; equal for two that differ in small words only."""
    words = [word for word in word_set(question).split() if word not in _SMALL_WORDS]
    return "subjects: " + " ".join(words) if words else word_set(question)


def _language(question: str) -> str | None:
    words = set(_WORD.findall(question.lower()))
    ranked = sorted(
        ((len(words.intersection(telling.split())), language) for language, telling in _TELLING.items()), reverse=True
    )
    return ranked[0][1] if ranked[0][0] > ranked[1][0] else None


def _decapitalised(text: str) -> str:
    """Return the text with its first letter small, unless its first word is an abbreviation or stands alone."""
    first, _, rest = text.partition(" ")
    return text if not rest or first == "I" or not first.istitle() else text[0].lower() + text[1:]


def _slip(text: str, rng: random.Random) -> str:
    """Return the text as typed in a hurry: in one word two letters change places, or one is missing or doubled."""
    words = [found for found in _WORD.finditer(text) if len(found[0]) > 3] or list(_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    # The first letter stays: it is the one that people type right, and without it a word is often another one.
    at = word.start() + (rng.randrange(1, len(word[0])) if len(word[0]) > 1 else 0)
    way = rng.choice(("swap", "miss", "double"))
    if way == "swap" and at + 1 < word.end() and text[at] != text[at + 1]:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if way == "double" or len(word[0]) < 3:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1 :]
