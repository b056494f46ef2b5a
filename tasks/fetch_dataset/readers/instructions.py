"""Instruction, input and output: three columns where a question is usually one of the first two, or both."""

from dataclasses import replace

from tasks.fetch_dataset.names import plain
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.values import texts_of

QUESTION = "instruction and input"
"""The column that is made where neither alone is the question."""
_OUTPUTS = ("output", "response", "answer", "completion", "target")


def join_instructions(table: Table) -> None:
    """Decide in place what the question of an instruction table is; other tables stay as they are.

    The same instruction in every row says nothing: the input is the question. Without any input the instruction is.
    Where both say something, the question is both, each on its line.
    """
    names = {plain(column): column for column in table.columns}
    output = next((names[name] for name in _OUTPUTS if name in names), None)
    if table.pair is not None or output is None or "instruction" not in names or "input" not in names:
        return
    instruction, given = names["instruction"], names["input"]
    rows = [row for row in table.rows if row.problem is None]

    def said(column: str, number: int) -> str:
        return " ".join(texts_of(rows[number].values.get(column)))

    instructions = {said(instruction, number).strip() for number in range(len(rows))} - {""}
    inputs = [said(given, number).strip() for number in range(len(rows))]
    table.shape, table.why = "instruction, input, output", "its three columns"
    if not any(inputs):
        table.pair = (instruction, output)
        return
    if len(instructions) <= 1 and all(inputs) and len(rows) > 1:
        table.pair = (given, output)
        table.left_out.append(
            f"{table.file}: the instruction is the same in every row ({next(iter(instructions), '')!r}) and is not used"
        )
        return
    joined = []
    for row in table.rows:
        values = dict(row.values)
        if row.problem is None:
            parts = [" ".join(texts_of(values.get(column))).strip() for column in (instruction, given)]
            values[QUESTION] = "\n".join(part for part in parts if part)
        joined.append(replace(row, values=values))
    table.rows[:] = joined
    table.columns = (*table.columns, QUESTION)
    table.pair = (QUESTION, output)
    table.notes.append(
        f"{table.file}: instructions differ, so a question is the instruction and the input together; one alone is "
        f"taken with --dataset.question-column {given}"
    )
