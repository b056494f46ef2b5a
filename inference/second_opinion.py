"""The second opinion: a sentence encoder, a linear layer over the known answers, and the nearest known question.

It looks at a question beside the model. The encoder was not trained on these answers and knows what questions in other
words look like; the model was trained on them alone. ``judgement.py`` makes one verdict of the two.

Needs numpy, which every container holds, and onnxruntime and tokenizers, which travel in the archive.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GRAPH = "second_opinion.onnx"
TOKENIZER = "second_opinion_tokenizer.json"
LAYER = "second_opinion.safetensors"
#: The probability that an answer has at least, so that its logarithm is finite.
_TINY = 1e-9
_DTYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I32": np.int32}


class Opinion(NamedTuple):
    """What the encoder says to one question; arrays in the order of the known answers."""

    log_probabilities: Any
    """Natural logarithms (answers,) by the linear layer; with ``none_log_probability`` their exponentials sum to 1."""
    none_log_probability: float
    """The same of the question being about none of the answers."""
    cosines: Any
    """Largest cosine between the question and the texts that stand for each answer (answers,), -1 to 1."""
    matched: Any
    """Index in :attr:`SecondOpinion.questions` of each answer's nearest known question (answers,); -1: it has none."""
    nearest_question: int
    """Index of the known question that is nearest of all; -1 where none is known."""
    nearest_answer: int
    """Index of its answer; -1 where none is known."""
    nearest_cosine: float


class SecondOpinion:
    """An ONNX Runtime session, a tokenizer and the linear layer.

    Parameters
    ----------
    folder
        The unpacked archive.
    answer_ids
        The known answers' ids, in the order in which opinions are to be given. An answer that the layer does not know
        has no probability by it.
    threads
        Threads for one product of matrices.

    Raises
    ------
    RuntimeError
        If a file is missing or is not what it should be.
    """

    def __init__(self, folder: Path, answer_ids: Sequence[str], *, threads: int = 1) -> None:
        try:
            layer, about = read_tensors(folder / LAYER)
            known: list[str] = about["answer_ids"]
            self.questions: list[str] = about["questions"]
            self._prefix = str(about["prefix"])
            weights, bias = layer["weights"].astype(np.float32), layer["bias"]
            self._mean, self._turn = layer["mean"], layer["turn"].astype(np.float32)
            texts = layer["embeddings"].astype(np.float32) * layer["scales"]
            text_answer, self._text_question = layer["text_answer"], layer["text_question"]
            self.encoder = Encoder(folder, int(about["max_tokens"]), threads=threads)
        except Exception as error:  # numpy, ONNX Runtime and tokenizers raise types of their own
            raise RuntimeError(f"{folder} does not hold a whole second opinion: {error}") from error
        places = {name: place for place, name in enumerate(answer_ids)}
        self._answers = len(places)
        self._classes = np.array([places.get(name, -1) for name in known], np.int64)
        self._weights, self._bias = weights, bias
        to_answer = np.array([self._classes[answer] for answer in text_answer], np.int64)
        self._keep_texts(texts, to_answer)

    def _keep_texts(self, texts: Any, to_answer: Any) -> None:
        """Keep the texts of the answers that are asked for, those of one answer side by side."""
        order = np.argsort(to_answer, kind="stable")
        order = order[to_answer[order] >= 0]
        self._texts, self._text_answer = texts[order], to_answer[order]
        self._text_question = self._text_question[order]
        self._is_question = self._text_question >= 0

    def opinion(self, questions: Sequence[str]) -> list[Opinion]:
        """Return the opinion on each question, in order; none depends on the others."""
        return [self.of_embedding(embedding) for embedding in self.embed(questions)]

    def embed(self, questions: Sequence[str]) -> Any:
        """Return the questions' embeddings (questions, width), each of length 1."""
        return self.encoder.embed([self._prefix + " ".join(question.split()) for question in questions])

    def of_embedding(self, embedding: Any) -> Opinion:
        """Return the opinion on a question by its embedding (width,)."""
        embedding = spread_out(embedding[None], self._mean, self._turn)[0]
        logits = (self._weights @ embedding + self._bias).astype(np.float64)
        logs = logits - logits.max()
        logs -= np.log(np.exp(logs).sum())
        every = np.full(self._answers, np.log(_TINY))
        here = self._classes >= 0
        every[self._classes[here]] = np.maximum(logs[:-1][here], np.log(_TINY))
        similar = (self._texts @ embedding).astype(np.float64)
        cosines = np.full(self._answers, -1.0)
        np.maximum.at(cosines, self._text_answer, similar)
        matched = np.full(self._answers, -1, np.int64)
        asked = np.flatnonzero(self._is_question)
        # From the farthest to the nearest, so that the nearest is written last.
        order = asked[np.argsort(similar[asked], kind="stable")]
        matched[self._text_answer[order]] = self._text_question[order]
        nearest = int(order[-1]) if len(order) else -1
        return Opinion(
            log_probabilities=every,
            none_log_probability=float(max(logs[-1], np.log(_TINY))),
            cosines=cosines,
            matched=matched,
            nearest_question=int(self._text_question[nearest]) if nearest >= 0 else -1,
            nearest_answer=int(self._text_answer[nearest]) if nearest >= 0 else -1,
            nearest_cosine=float(similar[nearest]) if nearest >= 0 else -1.0,
        )


def spread_out(embeddings: Any, mean: Any, turn: Any) -> Any:
    """Return embeddings (texts, width) without what all texts of the data share, each of length 1 again."""
    turned = (embeddings - mean) @ turn
    return turned / np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-9)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a safetensors file: its arrays, and what is told about them.

    The format is a JSON header after its length in eight bytes, and the arrays' bytes; the container has no library
    for it.

    Raises
    ------
    ValueError, KeyError
        If it is not such a file.
    """
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    about = json.loads(header.pop("__metadata__")["about"])
    arrays = {}
    for name, entry in header.items():
        low, high = (start + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[low:high], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, about


class Encoder:
    """From texts to embeddings, one text at a time: what a text's embedding is does not depend on others.

    Parameters
    ----------
    max_tokens
        A longer text is truncated.
    """

    def __init__(self, folder: Path, max_tokens: int, *, threads: int = 1) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph is written as the optimiser would leave it.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        self.width = int(self._session.get_outputs()[0].shape[1])

    def embed(self, texts: Sequence[str]) -> Any:
        """Return the embeddings (texts, width), float32, each of length 1."""
        found = np.zeros((len(texts), self.width), np.float32)
        for place, encoding in enumerate(self._tokenizer.encode_batch(list(texts))):
            ids = np.array([encoding.ids], np.int64)
            if ids.size:
                found[place] = self._session.run(["sentence"], {"input_ids": ids})[0][0]
        return found
