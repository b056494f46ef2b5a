"""ChatterBot's corpus: a list of conversations, each a list of what was said in turn. Also bare lists of pairs."""

from typing import Any

from tasks.fetch_dataset.content import asks
from tasks.fetch_dataset.readers.request import Pairs, Request
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.values import cell_text


def read_chatterbot(tree: Any, request: Request) -> Table | None:
    """Read ``conversations: [[question, answer, …], …]``, or a list of lists of texts."""
    named = isinstance(tree, dict)
    items = (tree.get("conversations") or tree.get("pairs") or tree.get("data")) if named else tree
    if not isinstance(items, list) or not items:
        return None
    told = [item for item in items if isinstance(item, list)]
    if len(told) * 2 <= len(items) or not all(_plain(turn) for item in told for turn in item):
        return None
    if not named and request.lines and any(len(item) > 6 for item in told):
        return None
    texts = [[cell_text(turn, "") for turn in item] for item in told]
    long = [turns for turns in texts if len(turns) > 2]
    # A third line may be the next question, or one more answer to the first: questions tell.
    in_turns = bool(long) and sum(asks(turns[2]) for turns in long) >= 0.3 * len(long)
    shape = "ChatterBot corpus" if named else "list of pairs"
    pairs = Pairs(request, shape, "a list of lists of texts: what is asked, then what is answered")
    more = 0
    for number, item in enumerate(items):
        line = request.line(number) if not named else None
        if not isinstance(item, list):
            pairs.malformed(item, "expected a list of a question and its answer", line)
            continue
        turns = [turn for turn in (cell_text(turn, "") for turn in item) if turn.strip()]
        if in_turns:
            for start in range(0, len(turns) - 1, 2):
                pairs.add([turns[start]], [turns[start + 1]], turns[start], line=line)
                more += start > 0
        elif turns:
            pairs.add(turns[:1], turns[1:], turns[0], line=line)
    if more:
        pairs.notes.append(
            f"{request.name}: conversations of several turns give one row a turn ({more} rows after the first turn); a "
            "question that only makes sense after the one before is better written out"
        )
    return pairs.table()


def _plain(turn: Any) -> bool:
    return turn is None or isinstance(turn, (str, int, float))
