"""What the name of a column or key says about what stands under it."""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

Role = Literal["question", "answer"]

# The first kind is named for what it holds; the second and third are borne by other columns too.
_NAMES: dict[Role, tuple[str, str, str]] = {
    "question": (
        """question questions q qs quest frage fragen fråga frågor spørgsmål spørsmål vraag vragen pregunta preguntas
        pergunta perguntas questão questões domanda domande pytanie pytania otázka otázky kérdés întrebare intrebari
        soru sorular вопрос вопросы питання ερώτηση ερωτήσεις سؤال أسئلة שאלה שאלות प्रश्न सवाल 问题 問題 質問 質問文 질문
        คำถาม
        câu_hỏi pertanyaan kysymys küsimus klausimas jautājums vprašanje pitanje въпрос swali""",
        """prompt query queries instruction input source_text patterns pattern utterances utterance examples samples
        phrases phrase training_phrases wordings paraphrases trigger triggers usersays anfrage consulta""",
        "user human customer client visitor caller patient student utilisateur usuario benutzer kunde",
    ),
    "answer": (
        """answer answers a ans antwort antworten svar antwoord antwoorden respuesta respuestas réponse réponses
        resposta respostas risposta risposte odpowiedź odpowiedzi odpověď odpovědi válasz răspuns raspunsuri
        cevap cevaplar ответ ответы відповідь απάντηση απαντήσεις جواب إجابة الإجابة תשובה תשובות उत्तर जवाब
        答案 回答 回答文 答え 答 답변 답 คำตอบ
        câu_trả_lời trả_lời jawaban vastaus vastus atsakymas atbilde odgovor отговор jibu accepted_answer""",
        "response responses output outputs completion completions reply replies target target_text label",
        "bot assistant agent chatbot gpt model operator solution doctor teacher advisor reaction asistente",
    ),
}
GROUP_NAMES = ("group", "group_id", "fact", "fact_id")

# "question_id" is no question, "answer_count" no answer.
_ABOUT_TEXT = """
    id ids uid uuid key type types kind count counts num number no nr category categories class date time created
    updated length len lang language url link links href source sources score scores rating votes start end offset
    index idx order is has status state author tag tags topic suggested related follow followup embedding vector
    hash token tokens image level difficulty position rank format metadata incorrect wrong false rejected distractor
"""
_ABOUT = frozenset(_ABOUT_TEXT.split())
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)")
_SPLIT = re.compile(r"[\W_]+")


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Return a name without case, accents, and the signs between its words: ``Întrebare``, ``intrebare`` are one."""
    return "_".join(words(name))


def words(name: str) -> list[str]:
    """Return the words of a name in snake_case, camelCase, kebab-case or with spaces, without case and accents."""
    if name.isascii():
        return [word.casefold() for word in _SPLIT.split(_CAMEL.sub(" ", name)) if word]
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    # NFKC of what is left puts scripts together again that are decomposed, such as Hangul.
    bare = unicodedata.normalize("NFKC", bare)
    return [word.casefold() for word in _SPLIT.split(_CAMEL.sub(" ", bare)) if word]


_TIERS: dict[Role, tuple[frozenset[str], ...]] = {
    role: tuple(frozenset(plain(name) for name in tier.split()) for tier in tiers) for role, tiers in _NAMES.items()
}
USUAL_NAMES = frozenset(name for tiers in _TIERS.values() for tier in tiers for name in tier) | frozenset(GROUP_NAMES)


@lru_cache(maxsize=4096)
def rank(name: str, role: Role) -> int | None:
    """Say how surely a name stands for a role: 0 is surest, None not at all.

    0 and 2 are whole names of the first and second kind, 1 and 3 names with such a word in them (``question_en``,
    ``customerQuestion``), 4 whole names of the third kind.
    """
    first, second, third = _TIERS[role]
    whole = plain(name)
    if whole in first:
        return 0
    if whole in second:
        return 2
    if whole in third:
        return 4
    found = [word for word in words(name) if not word.isdigit()]
    if len(found) > 4 or _ABOUT & set(found):
        return None
    if any(word in first and (len(word) > 2 or not word.isascii()) for word in found) or found[:1] in (["q"], ["a"]):
        return 1 if any(word in first for word in found) else None
    return 3 if any(word in second for word in found) else None


def is_usual(name: str) -> bool:
    """Say whether a name is one of those that columns of questions, answers or groups usually have."""
    return plain(name) in USUAL_NAMES or any(rank(name, role) in (0, 1, 2) for role in ("question", "answer"))
