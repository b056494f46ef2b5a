"""Bytes to text, the delimiter of a CSV, and the forms of a text that comparisons use."""

import codecs
import contextlib
import csv
import io
import itertools
import re
import sys
import unicodedata

from askline.errors import ConfigError, DatasetFormatError
from tasks.fetch_dataset.names import is_usual

DELIMITERS = (",", ";", "\t", "|", ":", "^", "~")
"""What a CSV without a named delimiter may be separated by, the likeliest first."""

_BOMS = (  # the UTF-32 marks begin with the UTF-16 ones, so they come first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LEGACY = """
    cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 koi8_r iso8859_5 iso8859_2
    cp932 euc_jp gb18030 big5 cp949 mac_roman
"""
_SAMPLE_BYTES = 65_536
_SAMPLE_CHARACTERS = 1_000_000
_SAMPLE_RECORDS = 200
_SIGNS = ":^~"
_SENTENCE_MARKS = " \t.,;:!?…。、！？¿¡؟\"'`()[]{}«»„“”"
_APOSTROPHES = str.maketrans("’‘ʼ`´", "'" * 5)
# "urodzi³a": a sign inside a word tells that the Western code page was not the one it was written in.
_SIGN_IN_WORD = re.compile(r"[^\W\d_][¡-©«-´¶¸¹»-¿×÷][^\W\d_]")
_WORDS = re.compile(r"\w+")


def decode(data: bytes, encoding: str | None, name: str) -> tuple[str, str]:
    """Return a file's text without a byte-order mark, and the encoding that it was read with.

    Parameters
    ----------
    data
        The whole file.
    encoding
        A codec's name; None finds it: a byte-order mark, else UTF-8, else what charset-normalizer finds likeliest.
    name
        The file's name, for messages.

    Raises
    ------
    ConfigError
        If there is no such encoding.
    DatasetFormatError
        If the bytes are not text in it.
    """
    mark = next((codec for bom, codec in _BOMS if data.startswith(bom)), None) or _unmarked_utf16(data)
    if encoding is not None:
        try:
            codec = codecs.lookup(encoding).name
            text = data.decode("utf-8-sig" if codec == "utf-8" else codec)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DatasetFormatError(
                f"{name}, line {line}: the byte 0x{data[error.start]:02x} is not {encoding}. "
                "Give the file's encoding with --dataset.encoding, or leave it out to have it found."
            ) from None
        except (LookupError, ValueError, TypeError):
            raise ConfigError(
                f"there is no text encoding {encoding!r}; --dataset.encoding takes names such as utf-8, latin-1, cp1252"
            ) from None
        return text.removeprefix("\ufeff"), codec
    codec = mark or "utf-8"
    try:
        return data.decode(codec), codec
    except UnicodeDecodeError as error:
        if not mark and _is_mostly_utf8(data):
            line = data.count(b"\n", 0, error.start) + 1
            raise DatasetFormatError(
                f"{name}, line {line}: the byte 0x{data[error.start]:02x} is not UTF-8, though the rest is. "
                "Mend that line, or name the file's encoding with --dataset.encoding."
            ) from None
        guess = None if mark else _guess_encoding(data)
        if guess is None:
            raise DatasetFormatError(
                f"{name} is not readable text: {codec} fails at byte {error.start} and no other encoding fits. "
                "Save it as UTF-8, or name its encoding with --dataset.encoding."
            ) from None
        return data.decode(guess), guess


def _unmarked_utf16(data: bytes) -> str | None:
    """Tell UTF-16 without a byte-order mark: of its bytes every other one is zero, as far as letters are Latin."""
    sample = data[:_SAMPLE_BYTES]
    if len(sample) < 8:
        return None
    for codec, zeros, others in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        if zeros.count(0) > 0.6 * len(zeros) and others.count(0) < 0.05 * len(others):
            return codec
    return None


def _is_mostly_utf8(data: bytes) -> bool:
    """Tell a UTF-8 file with a broken byte from one in another encoding, where sequences fit by chance only."""
    text = data.decode(errors="replace")
    broken = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - broken > 4 * broken


def _guess_encoding(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    if b"\r" in data and b"\n" not in data:
        return "mac_roman"  # lines end so in files of the old Mac OS alone, and every byte is a letter in its encoding
    # Only lines with a byte above 127 tell the encodings apart.
    telling = b"".join(line for line in data.splitlines(keepends=True) if not line.isascii())
    matches = from_bytes(telling[:_SAMPLE_BYTES], cp_isolation=_LEGACY.split())
    best = matches.best()
    if best is None:
        return None
    # On short texts the single-byte code pages often tie; the Western one is by far the commonest of them.
    tied = [match for match in matches if match.chaos <= best.chaos]
    western = any("cp1252" in (match.encoding, *match.could_be_from_charset) for match in tied)
    turkish = best.encoding == "cp1254" and best.language == "Turkish"
    guesses = ["cp1252"] * (western and not turkish) + [str(match.encoding) for match in tied] + ["cp1252", "latin-1"]
    if _SIGN_IN_WORD.search(telling.decode("cp1252", errors="replace")):
        guesses.sort(key=lambda guess: guess in ("cp1252", "latin-1"))
    return next((guess for guess in guesses if _decodes(data, guess)), None)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def find_delimiter(text: str, wanted: frozenset[str] = frozenset()) -> str:
    """Return the delimiter of a CSV: the one that its header and first records agree on best.

    Parameters
    ----------
    text
        The file's text.
    wanted
        Column names (casefolded) that the header should hold; a delimiter that yields them wins.

    Notes
    -----
    :class:`csv.Sniffer` counts characters line by line, so quoted newlines mislead it; here every candidate
    parses the first records. A comma is returned where no candidate gives two columns.
    """
    best, best_score = ",", (0, 0.0, 0)
    text = text[:_SAMPLE_CHARACTERS]
    csv.field_size_limit(sys.maxsize)  # the library's own is 131,072 characters
    for delimiter in DELIMITERS:
        records: list[list[str]] = []
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        with contextlib.suppress(csv.Error):  # a field that never ends under this candidate; the rest still counts
            records.extend(record for record in itertools.islice(reader, _SAMPLE_RECORDS) if record)
        if not records or len(records[0]) < 2:
            continue
        header = records[0]
        found = sum(cell.strip().casefold() in wanted or is_usual(cell) for cell in header if len(cell) < 60)
        agreeing = sum(len(record) == len(header) for record in records) / len(records)
        if delimiter in _SIGNS and not found and agreeing < 0.8:
            continue  # times of day, roots and approximations in sentences
        score = (found, agreeing, len(header))
        if score > best_score:
            best, best_score = delimiter, score
    return best


def tidy(text: str) -> str:
    """Return a text in Unicode NFC, without control characters, every run of white space one space."""
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # spaces other than U+0020 count as unprintable too
        text = "".join(c if c.isspace() or unicodedata.category(c) != "Cc" else "" for c in text)
    return " ".join(text.split())


def comparable(text: str) -> str:
    """Return the form by which two texts count as the same: case, typographic variants and outer punctuation left out.

    Punctuation inside stays, since "2+2" and "2-2" differ.
    """
    folded = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).casefold()
    return " ".join(folded.split()).strip(_SENTENCE_MARKS) or folded


def word_set(text: str) -> str:
    """Return the sorted words of a text: equal for two wordings that differ only in order, case and punctuation."""
    return " ".join(sorted(_WORDS.findall(comparable(text)))) or comparable(text)
