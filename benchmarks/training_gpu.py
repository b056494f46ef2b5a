"""What a GPU reaches at flan-t5-base's shape: larger batches, short examples packed into rows, compiled.

A row of the sample has 17 tokens and an attention kernel's tile 64, so that most of what attention does is padding.
Packed, several examples share a row of 64 source and 16 target tokens; masks keep them apart. The relative bias depends
on the distance alone, so that every example gets the numbers that it would have got in a row of its own.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from benchmarks.training_ways import Setting, examples_for, measured_peak, ours, recipe_for
from tasks.fine_tune.examples import IGNORED

SOURCE, TARGET = 64, 16
#: Packed rows a step; about four examples share one.
PACKED_ROWS = (64, 256, 512)
#: The rate of an H100 SXM's matrix units in bf16, without sparsity, as NVIDIA's data sheet gives it.
NOMINAL_H100 = 989e12
STEPS = 12


class Packed(NamedTuple):
    """Examples side by side in rows; segments number the examples of a row from 1, 0 is padding."""

    ids: Any
    segments: Any
    decoder_ids: Any
    decoder_segments: Any
    labels: Any
    examples: int


def pack(features: list[dict[str, list[int]]], rows: int, start: int = 0) -> Packed:
    """Fill ``rows`` rows with examples in their order, each in the first row that has room, round and round.

    ``ids`` and ``segments`` are (rows, SOURCE), the decoder's and ``labels`` (rows, TARGET).
    """
    ids, segments = torch.zeros(rows, SOURCE, dtype=torch.long), torch.zeros(rows, SOURCE, dtype=torch.long)
    decoder_ids, decoder_segments = (torch.zeros(rows, TARGET, dtype=torch.long) for _ in range(2))
    labels = torch.full((rows, TARGET), IGNORED)
    row, count, number = 0, 0, start
    used = [0, 0, 0]
    while row < rows:
        feature = features[number % len(features)]
        source, target = feature["input_ids"], feature["labels"]
        if used[0] + len(source) > SOURCE or used[1] + len(target) > TARGET:
            row, used = row + 1, [0, 0, 0]
            continue
        here, there = slice(used[0], used[0] + len(source)), slice(used[1], used[1] + len(target))
        used = [here.stop, there.stop, used[2] + 1]
        ids[row, here], segments[row, here] = torch.tensor(source), used[2]
        labels[row, there], decoder_segments[row, there] = torch.tensor(target), used[2]
        decoder_ids[row, there] = torch.tensor([0, *target[:-1]])
        number, count = number + 1, count + 1
    return Packed(ids, segments, decoder_ids, decoder_segments, labels, count)


def packed_loss(model: Any, batch: Packed) -> Any:
    """Return the mean loss over the label tokens of packed rows."""
    own, other = batch.segments[:, None, :, None], batch.segments[:, None, None, :]
    asked = batch.decoder_segments[:, None, :, None]
    within = (asked == batch.decoder_segments[:, None, None, :]).tril()
    hidden = model.encoder(input_ids=batch.ids, attention_mask=own == other).last_hidden_state
    output = model.decoder(
        input_ids=batch.decoder_ids,
        attention_mask=within,
        encoder_hidden_states=hidden,
        encoder_attention_mask=asked == other,
        use_cache=False,
    ).last_hidden_state
    if model.config.scale_decoder_outputs:
        output = output * model.model_dim**-0.5
    return cross_entropy(model.lm_head(output).flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED)


def sweep(setting: Setting, folder: Path | None) -> dict[str, Any]:
    """Print and return what several batches reach, and write the tables of kernels into ``folder``."""
    peak = measured_peak("cuda", "bf16")
    print(f"\n## packed and compiled; bf16 products measured at {peak / 1e12:,.0f} TFLOP/s\n")
    print(
        "| way | examples a step | ms | samples/s | peak MB | of the measured rate | of 989 TFLOP/s |\n"
        + "|---" * 7
        + "|"
    )
    lines: list[dict[str, Any]] = []

    def note(way: str, examples: int, seconds: float, memory: float) -> None:
        rate = examples / seconds * setting.flops()
        lines.append({"way": way, "examples": examples, "seconds": seconds, "memory_mb": memory, "flops": rate})
        print(
            f"| {way} | {examples} | {seconds * 1e3:,.1f} | {examples / seconds:,.0f} | {memory:,.0f} "
            f"| {rate / peak:.1%} | {rate / NOMINAL_H100:.1%} |",
            flush=True,
        )

    many = setting._replace(rows=[row for _ in range(8) for row in setting.rows])
    for batch in (64, 256, 1024):
        taken = ours(many, STEPS, batch=batch)
        note("ours", batch, taken.seconds, taken.memory_mb)
    for compiled in (False, True):
        for rows in PACKED_ROWS[1:] if compiled else PACKED_ROWS:
            note(*_packed(setting, rows, compiled=compiled, folder=folder))
    return {"peak": peak, "lines": lines}


def _packed(setting: Setting, rows: int, *, compiled: bool, folder: Path | None) -> tuple[str, int, float, float]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = setting.model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    _, recipe = recipe_for(setting, 4)
    examples = examples_for(setting, recipe)
    features = [examples[0, index] for index in range(len(examples))]
    batches = [pack(features, rows, start=97 * number) for number in range(3)]
    batches = [
        batch._replace(**{name: getattr(batch, name).cuda() for name in Packed._fields if name != "examples"})
        for batch in batches
    ]
    loss_of = torch.compile(packed_loss, dynamic=False) if compiled else packed_loss
    fixed = batches[0].examples

    def step(batch: Packed) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            # The number of examples is left out of what is compiled, or each would be compiled for.
            loss = loss_of(model, batch._replace(examples=fixed))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for number in range(4):
        step(batches[number % 3])
    torch.cuda.synchronize()
    times = []
    for number in range(STEPS):
        started = time.perf_counter()
        step(batches[number % 3])
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**20
    name = f"packed{', compiled' if compiled else ''}, {rows} rows"
    if folder is not None and rows == PACKED_ROWS[-1]:
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.txt"

        def profiled() -> None:
            for batch in batches:
                step(batch)

        _profile(profiled, path)
    return name, round(statistics.mean(batch.examples for batch in batches)), statistics.median(times), memory


def _profile(run: Callable[[], None], path: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    path.parent.mkdir(parents=True, exist_ok=True)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    averages = profiler.key_averages()
    path.write_text(averages.table(sort_by="self_cuda_time_total", row_limit=50, max_name_column_width=120))
