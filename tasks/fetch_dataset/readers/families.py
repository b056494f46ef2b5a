"""The table of readers: one line a family of files, in the order in which they are tried.

What ``reads`` is given:

=========  ==============================================================================================
``tree``   the document of a JSON, JSON Lines or YAML file: objects, lists and texts
``text``   the text of any other file
``files``  the files of a folder or zip archive, by their paths
=========  ==============================================================================================

A reader returns None where the content is not its own. Delimited text, Excel and Parquet, which are told by their
bytes and names, stand at the end for completeness; :mod:`~tasks.fetch_dataset.readers.reading` calls them itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tasks.fetch_dataset.readers.chats import read_chats
from tasks.fetch_dataset.readers.chatterbot import read_chatterbot
from tasks.fetch_dataset.readers.delimited import read_delimited
from tasks.fetch_dataset.readers.dialogflow import read_dialogflow
from tasks.fetch_dataset.readers.intents import read_intents
from tasks.fetch_dataset.readers.maps import read_keyword_map, read_map, read_parallel
from tasks.fetch_dataset.readers.markdown import read_markdown
from tasks.fetch_dataset.readers.parquet import read_parquet
from tasks.fetch_dataset.readers.q_and_a import read_asking_lines, read_q_and_a
from tasks.fetch_dataset.readers.rasa import read_rasa, read_rasa_tree
from tasks.fetch_dataset.readers.records import read_records
from tasks.fetch_dataset.readers.spreadsheet import read_spreadsheet
from tasks.fetch_dataset.readers.squad import read_squad


@dataclass(frozen=True, slots=True)
class Family:
    """Files of one kind."""

    name: str
    given: Literal["tree", "text", "files", "delimited", "xlsx", "parquet"]
    recognises: str
    read: Callable[..., Any]


FAMILIES = (
    Family("Dialogflow", "files", "<intent>_usersays_<language>.json beside <intent>.json", read_dialogflow),
    Family("Rasa folder", "files", "nlu.yml (or nlu.md) and domain.yml, with rules and stories", read_rasa),
    Family("SQuAD", "tree", "data → paragraphs → qas", read_squad),
    Family("Rasa file", "tree", "nlu: and responses: in one file", read_rasa_tree),
    Family("chats", "tree", "messages, conversations or contents, each with who speaks", read_chats),
    Family("intents", "tree", "patterns and responses, utterances and answers, q and a (QnABot)", read_intents),
    Family("lists side by side", "tree", "an object of columns: lists of one length", read_parallel),
    Family("ChatterBot", "tree", "conversations: lists of what is said in turn; lists of pairs", read_chatterbot),
    Family("map of questions", "tree", "{question: answer}, flat or by category", read_map),
    Family("objects", "tree", "objects with a question and an answer: listed, wrapped, nested, by id", read_records),
    Family("map of keywords", "tree", "{keyword: answer}", read_keyword_map),
    Family("Q: and A:", "text", "lines that begin with Q: and A:, in a dozen languages", read_q_and_a),
    Family("Markdown", "text", "headings, bold lines or summaries that ask", read_markdown),
    Family("questions above answers", "text", "lines that end with a question mark", read_asking_lines),
    Family("delimited text", "delimited", "CSV, TSV and kin, with a header or without", read_delimited),
    Family("Excel", "xlsx", ".xlsx", read_spreadsheet),
    Family("Parquet", "parquet", ".parquet", read_parquet),
)
