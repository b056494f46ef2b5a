"""The archive's own engine: T5's two graphs on ONNX Runtime, without torch or transformers.

It reads ``encoder.onnx``, ``decoder.onnx`` and their ``weights.bin``, ``tokenizer.json`` and
``generation_config.json``. It needs numpy, which every container holds, and onnxruntime and tokenizers, which travel in
the archive: so the answers do not depend on the transformers that the container holds.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from inference.trie import Posterior, Trie

#: The caches of one decoded batch, and its logits, may take so many bytes; a larger batch is decoded in parts.
BATCH_BYTES = 64 * 2**20
#: Rows that are finished are dropped from a batch once they are so large a share of it.
DROP_SHARE = 0.25
#: Rows of one question, on average, that a batch of known answers is cut for; most questions need one or two.
KNOWN_ROWS = 2
_NEVER = np.float32(-1e9)


class OnnxEngine:
    """Two ONNX Runtime sessions and a tokenizer.

    Parameters
    ----------
    folder
        The unpacked archive.
    max_source_tokens
        A longer prompt is truncated.
    max_target_tokens
        No answer is longer; the graphs' tables reach so far.
    threads
        Threads for one product of matrices.
    batch_bytes
        What the caches of one decoded batch may take.

    Raises
    ------
    RuntimeError
        If a file is missing or is not what it should be.
    """

    def __init__(
        self,
        folder: Path,
        max_source_tokens: int,
        max_target_tokens: int,
        *,
        threads: int = 1,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        try:
            generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
            self._start, self._end = int(generation["decoder_start_token_id"]), int(generation["eos_token_id"])
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._encoder = _session(folder / "encoder.onnx", threads)
            self._decoder = _session(folder / "decoder.onnx", threads)
            caches = [item for item in self._decoder.get_inputs() if item.name.startswith("past_key_")]
            self._heads, self._head_size = int(caches[0].shape[1]), int(caches[0].shape[3])
            self._vocabulary = int(self._decoder.get_outputs()[0].shape[1])
        except Exception as error:  # ONNX Runtime and tokenizers raise types of their own
            raise RuntimeError(f"{folder} does not hold a whole ONNX package: {error}") from error
        pieces = self._tokenizer.get_vocab_size()
        if pieces > self._vocabulary:
            raise RuntimeError(
                f"{folder} holds the tokenizer of another model: it has {pieces} pieces, and the graphs know "
                f"{self._vocabulary}"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_source_tokens)
        self._max_target_tokens = max_target_tokens
        self._batch_bytes = batch_bytes
        self._layers = len(caches)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        num_beams: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[tuple[str, float, int]]:
        """Return for each prompt, in order: the answer, exp(mean token log-probability), and its number of tokens.

        Greedy by default; ``num_beams`` above 1 is beam search (no length penalty but the mean), and a ``temperature``
        above 0 draws from the most likely tokens that together reach a probability of ``top_p``. Each prompt has
        chances of its own, by the seed and its place, so that no other prompt changes what is drawn for it.
        """
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))]
        order = sorted(range(len(prompts)), key=lambda index: len(tokens[index]))
        chances = [np.random.default_rng([seed, index]) for index in range(len(prompts))] if temperature > 0 else []
        found: list[tuple[str, float, int]] = [("", 0.0, 0)] * len(prompts)
        start = 0
        while start < len(order):
            rows = self._rows_together(tokens, order[start:], max_new_tokens, num_beams)
            batch = order[start : start + rows]
            decoding = _Decoding(self, [tokens[index] for index in batch], max_new_tokens, num_beams)
            if num_beams > 1:
                answers = decoding.beam_search(num_beams)
            else:
                answers = decoding.token_by_token(
                    temperature, top_p, [chances[index] for index in batch] if chances else []
                )
            for index, (ids, log_probability) in zip(batch, answers, strict=True):
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
                found[index] = (text.strip(), float(np.exp(min(log_probability, 0.0))), len(ids))
            start += rows
        return found

    def known(self, prompts: Sequence[str], trie: "Trie", k: int | None = None) -> "list[Posterior]":
        """Return for each prompt, in order, the ``k`` most probable known answers; all of them by default.

        Raises
        ------
        ValueError
            If the trie is deeper than the graphs' tables of positions.
        """
        if trie.depth > self._max_target_tokens:
            raise ValueError(
                f"the known answers differ only after {trie.depth} tokens, and the graphs reach "
                f"{self._max_target_tokens}"
            )
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))]
        waiting = sorted(range(len(prompts)), key=lambda index: len(tokens[index]))
        found: dict[int, Any] = {}
        while waiting:
            count = self._rows_together(tokens, waiting, trie.depth, KNOWN_ROWS)
            batch = waiting[:count]
            decoding = _Decoding(self, [tokens[index] for index in batch], trie.depth, 1, with_logits=True)
            posteriors, postponed = decoding.through(trie, k, most_rows=KNOWN_ROWS * count)
            again = set(postponed)
            found |= {
                index: each
                for place, (index, each) in enumerate(zip(batch, posteriors, strict=True))
                if place not in again
            }
            waiting = [batch[place] for place in postponed] + waiting[count:]
        return [found[index] for index in range(len(prompts))]

    def _rows_together(self, tokens: list[list[int]], order: list[int], new_tokens: int, beams: int) -> int:
        """Return how many of the next prompts, which come by length, fit into the memory of one batch."""
        for count, index in enumerate(order, start=1):
            cached = 2 * self._layers * self._heads * self._head_size * (new_tokens + len(tokens[index]))
            if beams * count * 4 * (cached + 3 * self._vocabulary) > self._batch_bytes:
                return max(1, count - 1)
        return len(order)


class _Decoding:
    """One batch on its way: the buffers that ONNX Runtime reads and writes in place."""

    def __init__(
        self,
        engine: OnnxEngine,
        tokens: list[list[int]],
        max_new_tokens: int,
        beams: int,
        *,
        with_logits: bool = False,
    ) -> None:
        self._engine = engine
        self._max_new_tokens = max_new_tokens
        length = max(len(row) for row in tokens)
        ids = np.zeros((len(tokens), length), np.int64)
        self._mask = np.zeros((len(tokens), length), np.int32)
        for row, own in enumerate(tokens):
            ids[row, : len(own)] = own
            self._mask[row, : len(own)] = 1
        self._cross = self._encode(ids)
        self._past = np.zeros((0, 0), np.float32)
        self._take(np.repeat(np.arange(len(tokens)), beams), with_logits=with_logits or beams > 1)

    def _encode(self, ids: Any) -> Any:
        engine = self._engine
        cross = np.empty((2 * engine._layers, len(ids), engine._heads, ids.shape[1], engine._head_size), np.float32)
        binding = engine._encoder.io_binding()
        _bind(binding.bind_input, "input_ids", ids)
        _bind(binding.bind_input, "attention_mask", self._mask)
        for name, values in zip(_names("cross", engine._layers), cross, strict=True):
            _bind(binding.bind_output, name, values)
        engine._encoder.run_with_iobinding(binding)
        return cross

    def _take(self, rows: Any, *, with_logits: bool) -> None:
        """Go on with these rows only, in this order; a row may come several times."""
        engine, count = self._engine, len(rows)
        self._mask = np.ascontiguousarray(self._mask[rows])
        self._cross = np.ascontiguousarray(self._cross[:, rows])
        if self._past.size:
            self._past = np.ascontiguousarray(self._past[:, rows])
        else:
            size = (2 * engine._layers, count, engine._heads, self._max_new_tokens, engine._head_size)
            self._past = np.zeros(size, np.float32)
        self._token = np.full((count, 1), engine._start, np.int64)
        self._log_probability = np.zeros(count, np.float32)
        self._length = np.zeros(1, np.int32)
        self._binding = engine._decoder.io_binding()
        _bind(self._binding.bind_input, "token", self._token)
        _bind(self._binding.bind_input, "attention_mask", self._mask)
        _bind(self._binding.bind_input, "past_length", self._length)
        for name, values in zip(_names("cross", engine._layers), self._cross, strict=True):
            _bind(self._binding.bind_input, name, values)
        for kind, bind in (("past", self._binding.bind_input), ("present", self._binding.bind_output)):
            for name, values in zip(_names(kind, engine._layers), self._past, strict=True):
                _bind(bind, name, values)
        if with_logits:
            self._logits = np.empty((count, engine._vocabulary), np.float32)
            _bind(self._binding.bind_output, "logits", self._logits)
        else:
            _bind(self._binding.bind_output, "next_token", self._token.reshape(count))
            _bind(self._binding.bind_output, "log_probability", self._log_probability)

    def _step(self, number: int) -> None:
        self._length[0] = number
        self._engine._decoder.run_with_iobinding(self._binding)

    def token_by_token(self, temperature: float, top_p: float, chances: Sequence[Any]) -> list[tuple[list[int], float]]:
        """Return the tokens of each row, and their mean log-probability; the most likely, or drawn by ``chances``."""
        engine = self._engine
        ids: list[list[int]] = [[] for _ in self._mask]
        total = np.zeros(len(ids))
        active = np.arange(len(ids))
        if chances:
            self._take(active, with_logits=True)
        for number in range(self._max_new_tokens):
            self._step(number)
            if chances:
                self._draw(temperature, top_p, [chances[int(row)] for row in active])
            running = np.ones(len(active), bool)
            for place, row in enumerate(active):
                if ids[row] and ids[row][-1] == engine._end:
                    running[place] = False
                    continue
                ids[row].append(int(self._token[place, 0]))
                total[row] += self._log_probability[place]
                running[place] = ids[row][-1] != engine._end
            if not running.any():
                break
            if (~running).sum() >= max(1, DROP_SHARE * len(active)) and number + 1 < self._max_new_tokens:
                kept = np.flatnonzero(running)
                token = self._token[kept].copy()
                active = active[kept]
                self._take(kept, with_logits=bool(chances))
                self._token[:] = token
        return [(own, float(log) / len(own)) for own, log in zip(ids, total, strict=True)]

    def through(self, trie: "Trie", k: int | None, *, most_rows: int) -> "tuple[list[Posterior], list[int]]":
        """Return each row's known answers, and the rows to be asked again later, which took too much memory.

        Only where the likeliest tokens disagree does a question take several rows; where the batch's take more than
        ``most_rows``, its last questions wait for another batch, so that no question is answered less carefully for the
        sake of its neighbours.
        """
        search = trie.search(len(self._mask))
        postponed: list[int] = []
        number = 0
        while True:
            self._step(number)
            highest = self._logits.max(axis=1)
            sums = np.exp(self._logits - highest[:, None]).sum(axis=1, dtype=np.float64)
            search.step(self._logits, highest + np.log(sums))
            questions = search.questions
            if not len(questions):
                return search.posteriors(k), sorted(postponed)
            number += 1
            if len(questions) > most_rows and questions[0] != questions[-1]:
                late = np.unique(questions[most_rows:])
                late = late[late != questions[0]].tolist()
                postponed += late
                search.postpone(late)
            tokens, rows = search.tokens, search.parents
            if not np.array_equal(rows, np.arange(len(self._token))):
                self._take(rows, with_logits=True)
            self._token[:, 0] = tokens

    def _draw(self, temperature: float, top_p: float, chances: Sequence[Any]) -> None:
        logs = _log_softmax(self._logits.astype(np.float64))
        for row, (own, chance) in enumerate(zip(logs, chances, strict=True)):
            with np.errstate(over="ignore"):  # the coldest temperatures leave only the most likely
                sharp = _log_softmax((own - own.max()) / temperature)
            likely = np.argsort(-sharp, kind="stable")
            probability = np.exp(sharp[likely])
            kept = int(np.searchsorted(np.cumsum(probability), top_p)) + 1
            probability = probability[:kept] / probability[:kept].sum()
            token = int(
                likely[min(int(np.searchsorted(np.cumsum(probability), chance.random())), len(probability) - 1)]
            )
            self._token[row, 0] = token
            self._log_probability[row] = own[token]

    def beam_search(self, beams: int) -> list[tuple[list[int], float]]:
        """Return the best of ``beams`` sequences by mean token log-probability.

        A sentence stops once it has ``beams`` finished sequences and the best unfinished one, by its mean so far, is no
        better than the worst of them. This is what transformers does with a length penalty of 1 and without early
        stopping.
        """
        end, batch = self._engine._end, len(self._mask) // beams
        scores = np.full((batch, beams), _NEVER, np.float64)
        scores[:, 0] = 0.0
        ids: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(batch)]
        finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
        done = [False] * batch
        for number in range(self._max_new_tokens):
            self._step(number)
            logs = _log_softmax(self._logits.astype(np.float64)).reshape(batch, beams, -1)
            order = np.arange(batch * beams)
            tokens = np.full((batch * beams, 1), end, np.int64)
            for row in range(batch):
                if done[row]:
                    continue
                sums = (scores[row][:, None] + logs[row]).ravel()
                best = np.argpartition(-sums, 2 * beams)[: 2 * beams]
                best = best[np.argsort(-sums[best], kind="stable")]
                following: list[tuple[float, int, int]] = []
                for rank, flat in enumerate(best):
                    beam, token = divmod(int(flat), logs.shape[2])
                    if token == end:
                        if rank < beams:
                            finished[row].append((float(sums[flat]) / (number + 1), [*ids[row][beam], token]))
                    elif len(following) < beams:
                        following.append((float(sums[flat]), beam, token))
                finished[row] = sorted(finished[row], key=lambda item: -item[0])[:beams]
                for place, (score, beam, token) in enumerate(following):
                    scores[row, place] = score
                    order[row * beams + place] = row * beams + beam
                    tokens[row * beams + place, 0] = token
                ids[row] = [[*ids[row][beam], token] for _, beam, token in following]
                done[row] = len(finished[row]) == beams and finished[row][-1][0] >= scores[row, 0] / (number + 1)
            if all(done):
                break
            self._take(order, with_logits=True)
            self._token[:] = tokens
        answers = []
        for row in range(batch):
            running = [(score / self._max_new_tokens, own) for score, own in zip(scores[row], ids[row], strict=True)]
            pool = finished[row] + ([] if done[row] else running)
            score, own = max(pool, key=lambda item: item[0])
            answers.append((own, float(score)))
        return answers


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The graphs are written as the optimiser would leave them; looking again would only take time.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A waiting thread that spins takes the processor from whoever shares it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _names(kind: str, layers: int) -> list[str]:
    return [f"{kind}_{part}_{layer}" for layer in range(layers) for part in ("key", "value")]


def _bind(bind: Any, name: str, values: Any) -> None:
    """Bind an array where it stands; it must outlive the binding."""
    bind(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
