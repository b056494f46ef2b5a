"""The plain checkpoint through transformers, in fp32: what the evaluation ran, and the first version deployed.

The calls to torch and transformers are those that transformers 4.49 and 5.23 share. Nothing is imported before it is
needed.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.trie import Posterior, Trie

#: The scores of a generated batch take rows × beams × tokens × vocabulary × 4 bytes, and about three times that while
#: the confidence is computed; larger batches are decoded in parts.
SCORE_BYTES = 64 * 2**20
#: Logits are divided by the temperature in float32, and must stay finite.
COLDEST = 1e-4


class TransformersEngine:
    """The checkpoint through transformers, in fp32.

    Parameters
    ----------
    folder
        Where ``config.json``, the safetensors weights and the tokenizer lie.
    max_source_tokens
        A longer prompt is truncated.
    threads
        Threads that torch may use.
    score_bytes
        Bytes that the scores of one generated batch may take; a larger batch is decoded in parts.
    """

    def __init__(
        self, folder: Path, max_source_tokens: int, *, threads: int = 1, score_bytes: int = SCORE_BYTES
    ) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        torch.set_num_threads(threads)
        self._max_source_tokens = max_source_tokens
        self._score_bytes = score_bytes
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        # Safetensors only: the other format is a pickle. float(): 5.x keeps the checkpoint's own precision.
        self._model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), use_safetensors=True, **options).float().eval()
        self._may_pad = masks_padding(self._model, self._tokenizer)

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

        Greedy by default; ``num_beams`` above 1 is beam search, and a ``temperature`` above 0 draws from the most
        likely tokens that together reach a probability of ``top_p``; the seed is that of the whole call.
        """
        import torch

        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False}
        if temperature > 0:
            torch.manual_seed(seed)
            options |= {"do_sample": True, "temperature": max(temperature, COLDEST), "top_p": top_p, "top_k": 0}
        tokens = self._tokenizer(list(prompts), truncation=True, max_length=self._max_source_tokens)["input_ids"]
        rows = max(1, self._score_bytes // (num_beams * max_new_tokens * self._model.config.vocab_size * 4))
        answers = [("", 0.0, 0)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(tokens[index]))
        for _, same in groupby(order, key=lambda index: 0 if self._may_pad else len(tokens[index])):
            group = list(same)
            for start in range(0, len(group), rows):
                batch = group[start : start + rows]
                given = self._generate([tokens[index] for index in batch], options)
                for index, answer in zip(batch, given, strict=True):
                    answers[index] = answer
        return answers

    def known(self, prompts: Sequence[str], trie: "Trie", k: int | None = None) -> "list[Posterior]":
        """Return for each prompt, in order, the ``k`` most probable known answers; all of them by default.

        The few tokens of a path are read anew at each step: keeping them is done in one way by transformers 4, in
        another by 5.
        """
        tokens = self._tokenizer(list(prompts), truncation=True, max_length=self._max_source_tokens)["input_ids"]
        order = sorted(range(len(prompts)), key=lambda index: len(tokens[index]))
        rows = max(1, self._score_bytes // (trie.depth * self._model.config.vocab_size * 4))
        found: list[Any] = [None] * len(prompts)
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            for index, posterior in zip(batch, self._through(trie, k, [tokens[each] for each in batch]), strict=True):
                found[index] = posterior
        return found

    def _through(self, trie: "Trie", k: int | None, tokens: list[list[int]]) -> "list[Posterior]":
        import torch

        batch = self._tokenizer.pad({"input_ids": tokens}, return_tensors="pt")
        search = trie.search(len(tokens))
        start = self._model.generation_config.decoder_start_token_id
        written = torch.full((len(tokens), 1), start, dtype=torch.long)
        with torch.inference_mode():
            hidden = self._model.get_encoder()(**batch).last_hidden_state
            while len(search.questions):
                questions = torch.as_tensor(search.questions)
                logits = self._model(
                    encoder_outputs=(hidden[questions],),
                    attention_mask=batch["attention_mask"][questions],
                    decoder_input_ids=written,
                    use_cache=False,
                ).logits[:, -1]
                search.step(logits.numpy(), torch.logsumexp(logits.double(), dim=-1).numpy())
                if len(search.questions):
                    last = torch.as_tensor(search.tokens)[:, None]
                    written = torch.cat([written[torch.as_tensor(search.parents)], last], dim=1)
        return search.posteriors(k)

    def _generate(self, tokens: list[list[int]], options: dict[str, Any]) -> list[tuple[str, float, int]]:
        import torch

        batch = self._tokenizer.pad({"input_ids": tokens}, return_tensors="pt")
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_scores=True,
                output_logits=options["do_sample"],
                return_dict_in_generate=True,
                **options,
            )
            # Beam search keeps log-probabilities already, greedy search keeps logits; what was drawn counts as the
            # model itself saw it, before the temperature.
            scores = self._model.compute_transition_scores(
                output.sequences,
                output.logits if options["do_sample"] else output.scores,
                beam_indices=getattr(output, "beam_indices", None),
                normalize_logits=options["num_beams"] == 1,
            )
        generated = output.sequences[:, -scores.shape[1] :]
        # A row that ends early is padded: count its tokens up to and with the end mark.
        is_end = generated == self._tokenizer.eos_token_id
        counted = is_end.long().cumsum(dim=1) - is_end.long() == 0
        mean = torch.where(counted, scores, 0.0).sum(dim=1) / counted.sum(dim=1)
        texts = self._tokenizer.batch_decode(
            output.sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        lengths = counted.sum(dim=1)
        return [
            (text.strip(), float(value), int(length))
            for text, value, length in zip(texts, mean.exp().clamp(max=1.0), lengths, strict=True)
        ]


def masks_padding(model: Any, tokenizer: Any) -> bool:
    """Say whether a padded question gets the scores that it gets alone.

    In transformers 4.49, which a SageMaker image holds, generation lets T5's decoder look at the padding (mended
    upstream after that), and a question's answer then depends on its neighbours in the batch. There, only questions of
    equal length may share one.
    """
    import torch

    ids = tokenizer("Is this padded?", return_tensors="pt")["input_ids"]
    padding = torch.full((1, 8), tokenizer.pad_token_id)
    first = []
    for extra in (padding[:, :0], padding):
        padded = torch.cat([ids, extra], dim=1)
        mask = torch.cat([torch.ones_like(ids), torch.zeros_like(extra)], dim=1)
        with torch.inference_mode():
            output = model.generate(
                input_ids=padded,
                attention_mask=mask,
                max_new_tokens=1,
                num_beams=1,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        first.append(output.scores[0])
    # Rounding differs in the fourth digit; what the decoder makes of padding, in the first or second.
    return bool(torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-2))
