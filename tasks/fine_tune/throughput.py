"""How fast training goes, and what share of the machine's arithmetic it uses."""

import resource
import sys
import time
from typing import Any

import torch

from tasks.fine_tune.batches import Facts

#: Operations a second below which arithmetic is taken for emulated; one core without bf16 was measured at 1e9 in bf16.
_EMULATED = 5e9


def forward_backward_flops(config: Any, source_tokens: int, target_tokens: int, rows: int) -> float:
    """Return the floating-point operations of one training step's matrix products, for tokens that are no padding.

    Two for each weight and token in the forward pass, twice that in the backward pass: 6 N for each token (Kaplan et
    al. 2020, section 2.1). In an encoder-decoder each half sees its own tokens; the decoder's keys and values over the
    source see the source's. To that come the products of queries, keys and values, 12 L H Q T a token (Chowdhery et
    al. 2022, appendix B), with the mean lengths.

    Parameters
    ----------
    config
        A ``T5Config``.
    source_tokens, target_tokens
        Of the whole batch of ``rows`` rows.
    """
    inner = config.num_heads * config.d_kv
    attention = 4 * config.d_model * inner
    feed_forward = (3 if config.is_gated_act else 2) * config.d_model * config.d_ff
    encoder = config.num_layers * (attention + feed_forward)
    decoder = config.num_decoder_layers * (attention + attention / 2 + feed_forward)
    across = config.num_decoder_layers * attention / 2
    weights = source_tokens * (encoder + across) + target_tokens * (decoder + config.d_model * config.vocab_size)
    source, target = source_tokens / max(1, rows), target_tokens / max(1, rows)
    scores = config.num_layers * source_tokens * source + config.num_decoder_layers * target_tokens * (source + target)
    return float(6 * weights + 12 * inner * scores)


def peak_flops(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the floating-point operations a second of large matrix products here, best of five.

    With the threads that torch now has. On a CPU this takes about a tenth of a second.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _best_rate(8192, device, dtype)
    rate = _best_rate(256, device, dtype)
    # Half precision that the processor lacks is emulated, a hundred times slower: the larger product would take long.
    return rate if rate < _EMULATED else max(rate, _best_rate(1024, device, dtype))


def _best_rate(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.ones(size, size, device=device, dtype=dtype).uniform_() for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory so far, in MiB: on a GPU what torch held, else resident memory of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device)) / 2**20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


class Meter:
    """Counts tokens and samples, and turns them into rates over the last seconds."""

    def __init__(self, config: Any, device: torch.device, peak: float | None, processes: int) -> None:
        self._config = config
        self._device = device
        self._peak = peak
        self._processes = processes
        self._started = self._since = time.monotonic()
        self._window = [0.0, 0.0, 0.0]
        self._all = [0.0, 0.0, 0.0]
        self.steps = 0

    def start(self) -> None:
        """Begin to count time."""
        self._started = self._since = time.monotonic()

    def add(self, facts: Facts) -> None:
        """Count one step of all processes."""
        tokens = facts.source_tokens + facts.target_tokens
        flops = forward_backward_flops(self._config, facts.source_tokens, facts.target_tokens, facts.samples)
        self.steps += 1
        for counts in (self._all, self._window):
            counts[0] += tokens
            counts[1] += facts.samples
            counts[2] += flops

    def rates(self, *, whole: bool = False) -> dict[str, float]:
        """Return tokens and samples a second, peak memory in MiB and the share of the peak, since the last call.

        With ``whole``, since :meth:`start`.
        """
        now = time.monotonic()
        tokens, samples, flops = self._all if whole else self._window
        seconds = max(1e-9, now - (self._started if whole else self._since))
        if not whole:
            self._window, self._since = [0.0, 0.0, 0.0], now
        rates = {
            "tokens_per_second": tokens / seconds,
            "samples_per_second": samples / seconds,
            "memory_mb": peak_memory_mb(self._device),
        }
        if self._peak:
            rates["mfu"] = flops / self._processes / seconds / self._peak
        return rates

    def seconds_a_step(self) -> float:
        """Return the mean over this process's steps."""
        return (time.monotonic() - self._started) / max(1, self.steps)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
