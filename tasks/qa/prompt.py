"""The prompt: one function for training, evaluation and whoever else asks the model a question."""


def format_prompt(template: str, question: str) -> str:
    """Put the question into the template.

    The place is replaced as plain text, not with :meth:`str.format`, so that braces in a question or elsewhere in
    the template stay what they are. Runs of white space in the question become one space: T5's tokenizer does not
    tell them apart either.

    Parameters
    ----------
    template
        Text that holds ``{question}`` once.
    question
        The question as the person typed it.
    """
    before, _, after = template.partition("{question}")
    return before + " ".join(question.split()) + after
