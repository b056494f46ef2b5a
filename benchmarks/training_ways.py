"""The ways of training that ``benchmarks.training`` compares, each timed between the starts of two forward passes."""

import gc
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    default_data_collator,
)

from askline.config import TrainingConfig
from askline.progress import quiet
from tasks.fine_tune.batches import loader
from tasks.fine_tune.examples import IGNORED, Examples
from tasks.fine_tune.lengths import SOURCE, TARGET
from tasks.fine_tune.loop import choices_for, train
from tasks.fine_tune.machine import Choices
from tasks.fine_tune.recipe import Recipe, resolve_recipe
from tasks.fine_tune.throughput import forward_backward_flops
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row
from tasks.t5.scratch import small_t5
from tasks.t5.threads import threads_for

#: The first steps of every run are not timed: memory is first taken and libraries are set up in them.
WARM_UP = 2
#: A compiled model is compiled for the first few lengths.
WARM_UP_COMPILED = 12


class Timed(NamedTuple):
    """What one run of one way took."""

    seconds: float
    """A step: of the processor on a CPU, of the clock on a GPU."""
    batch: int
    memory_mb: float


class Setting(NamedTuple):
    """What all ways share."""

    shape: str
    config: T5Config
    tokenizer: Any
    rows: Sequence[Row]
    device: str
    settings: TrainingConfig

    def model(self) -> Any:
        """Return a model with the same random weights each time."""
        torch.manual_seed(0)
        return empty(self.config).to(self.device)

    def tokens(self) -> tuple[float, float]:
        """Return mean source and target tokens of an example, without padding."""
        prompts = [format_prompt(self.settings.prompt, row.question) for row in self.rows]
        lengths = [
            sum(map(len, self.tokenizer(texts)["input_ids"])) for texts in (prompts, [r.answer for r in self.rows])
        ]
        return lengths[0] / len(self.rows), lengths[1] / len(self.rows)

    def flops(self) -> float:
        """Return floating-point operations of one example's training, without padding."""
        source, target = self.tokens()
        return forward_backward_flops(self.config, round(1000 * source), round(1000 * target), 1000) / 1000


def base_config() -> T5Config:
    """Return the configuration of google/flan-t5-base."""
    return T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=12,
        num_decoder_layers=12,
        num_heads=12,
        dropout_rate=0.1,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        # Its output layer has weights of its own, unlike the first T5's.
        tie_word_embeddings=False,
    )


def empty(config: T5Config) -> Any:
    """Return a model with random weights; where the output is not scaled, with a matrix of its own for the output."""
    model = T5ForConditionalGeneration(config)
    if not config.scale_decoder_outputs:  # Flan-T5; transformers 5 ties the two matrices whatever is asked for
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
        model.config.tie_word_embeddings = False
    return model


def config_of(shape: str, vocabulary: int) -> T5Config:
    """Return the configuration of a shape, "base" or "small"."""
    return base_config() if shape == "base" else small_t5(vocabulary)


class EnoughError(Exception):
    """All steps are timed: what would follow, such as a checkpoint, is no part of them."""


class Stopwatch:
    """Takes the time at each optimizer step, whoever takes it, and ends the training after so many.

    On a CPU a step's time is the mean; on a GPU, where a new length may be compiled for in between, the median.
    """

    def __init__(self, device: str, steps: int, warm_up: int = WARM_UP) -> None:
        self._device = device
        self._times: list[float] = []
        self._warm_up = warm_up
        self._passes = steps + warm_up + 1
        reset_memory(device)

    def __enter__(self) -> "Stopwatch":
        self._hook = register_optimizer_step_pre_hook(self._stepped)
        return self

    def _stepped(self, optimizer: Any, arguments: Any, options: Any) -> None:
        self._times.append(clock(self._device))
        if len(self._times) == self._passes:
            raise EnoughError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        self._hook.remove()
        self._memory = peak_memory(self._device)
        return kind is EnoughError

    def read(self, batch: int) -> Timed:
        """Return a step's time."""
        times = self._times[self._warm_up :]
        between = [after - before for before, after in pairwise(times)]
        middle = statistics.mean if self._device == "cpu" else statistics.median
        return Timed(middle(between), batch, self._memory)


def clock(device: str) -> float:
    """Return seconds: of the processor on a CPU, so that a busy machine counts less; else of the clock."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def reset_memory(device: str) -> None:
    """Forget the peak so far."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forgets the peak of resident memory


def peak_memory(device: str) -> float:
    """Return the most memory since :func:`reset_memory`, in MiB; on a CPU the whole process's."""
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def measured_peak(device: str, precision: str) -> float:
    """Return floating-point operations a second of large matrix products, the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size, repeats = (8192, 10) if device != "cpu" else (1536, 1)
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        started = clock(device)
        for _ in range(repeats):
            a @ b
        best = min(best, (clock(device) - started) / repeats)
    return 2 * size**3 / best


def first_version(setting: Setting, steps: int, *, padded: tuple[int, int] | None = None, batch: int = 4) -> Timed:
    """Train as the first version did: fp32, four rows a step, padded to the batch, the trainer's defaults.

    With ``padded``, as many tutorials do: every prompt and answer padded to a fixed number of tokens.
    """
    model, tokenizer = setting.model(), setting.tokenizer
    features = []
    for row in itertools.islice(itertools.cycle(setting.rows), (steps + WARM_UP + 1) * batch):
        prompt = format_prompt(setting.settings.prompt, row.question)
        options = ({"padding": "max_length", "max_length": n} for n in padded) if padded else ({}, {})
        source, target = (
            tokenizer(text, truncation=True, **option)
            for text, option in zip((prompt, row.answer), options, strict=True)
        )
        labels = [token if keep else IGNORED for token, keep in zip(*target.values(), strict=True)]
        features.append({**source, "labels": labels})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=folder,
                max_steps=10**6,
                per_device_train_batch_size=batch,
                learning_rate=3e-4,
                weight_decay=0.01,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=setting.device == "cpu",
            ),
            train_dataset=features,  # type: ignore[arg-type]
            data_collator=default_data_collator if padded else DataCollatorForSeq2Seq(tokenizer, model=model),
        )
        with Stopwatch(setting.device, steps) as watch:
            trainer.train()
        return watch.read(batch)


def recipe_for(setting: Setting, batch: int | None) -> tuple[TrainingConfig, Recipe]:
    """Return the project's own settings, with examples as they are: all ways see the same ones."""
    values: dict[str, Any] = {"augment": False, "batch_size": batch, "max_steps": 2000, "checkpoint_steps": 10**6}
    if setting.shape == "base":
        values["base"] = "google/flan-t5-base"
    config = setting.settings.model_copy(update=values)
    return config, resolve_recipe(config, rows=len(setting.rows), has_out_of_scope=False)


def examples_for(setting: Setting, recipe: Recipe) -> Examples:
    """Return the sample's questions as the project's training sees them."""
    return Examples(
        setting.rows,
        setting.tokenizer,
        recipe,
        prompt=setting.settings.prompt,
        max_source_tokens=setting.settings.max_source_tokens or SOURCE,
        max_target_tokens=setting.settings.max_target_tokens or TARGET,
        unanswerable="",
    )


def ours(
    setting: Setting,
    steps: int,
    *,
    batch: int | None = None,
    compiled: bool | None = None,
    told: list[str] | None = None,
) -> Timed:
    """Train with the project's own code and what it chooses on this machine."""
    model = setting.model()
    config, recipe = recipe_for(setting, batch)
    if compiled is not None:
        config = config.model_copy(update={"compile": "on" if compiled else "off"})
    examples = examples_for(setting, recipe)
    choices = choices_for(model, examples, recipe, config)
    if told is not None:
        told[:] = choices.reasons
    warm_up = WARM_UP_COMPILED if choices.compile else WARM_UP
    with tempfile.TemporaryDirectory() as folder:
        with Stopwatch(setting.device, steps, warm_up) as watch:
            train(
                model, examples, recipe, config, choices, folder=Path(folder), questions=lambda rows: "", progress=quiet
            )
        return watch.read(recipe.batch_size)


def bare_loop(
    setting: Setting, steps: int, *, batch: int | None = None, prepare: Callable[[Any], Any] | None = None
) -> Timed:
    """Train in a loop of a few lines, with the order, the padding, the arithmetic and the optimizer of :func:`ours`."""
    model = setting.model().train()
    config, recipe = recipe_for(setting, batch)
    examples = examples_for(setting, recipe)
    choices: Choices = choices_for(model, examples, recipe, config)
    batches = loader(examples, recipe, rank=0, processes=1, multiple=choices.multiple, workers=0, pin_memory=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, fused=True)
    run, warm_up = (prepare(model), WARM_UP_COMPILED) if prepare else (model, WARM_UP)
    with threads_for(model), Stopwatch(setting.device, steps, warm_up) as watch:
        for inputs in _for_ever(batches):
            tensors = {name: value.to(setting.device) for name, value in inputs.items() if name != "facts"}
            with torch.autocast(setting.device, torch.bfloat16, enabled=choices.precision == "bf16"):
                loss = run(**tensors, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    return watch.read(recipe.batch_size)


def trained(setting: Setting, steps: int) -> Any:
    """Return a model that the project has trained for so many steps: its answers end where the sample's do."""
    model = setting.model()
    config, recipe = recipe_for(setting, None)
    recipe = recipe.model_copy(update={"steps": steps})
    examples = examples_for(setting, recipe)
    choices = choices_for(model, examples, recipe, config)
    with tempfile.TemporaryDirectory() as folder:
        train(model, examples, recipe, config, choices, folder=Path(folder), questions=lambda rows: "", progress=quiet)
    return model


def enlarged(small: Any, config: T5Config) -> Any:
    """Return a model of shape ``config`` that answers as ``small`` does, at what a model of that shape costs.

    Every weight of ``small`` stands in the first places of the larger one and the rest is zero, so that further layers,
    heads and channels add nothing (after Net2Net, Chen et al. 2016, https://arxiv.org/abs/1511.05641). Products with
    zeros take as long as any others. Random weights would never end an answer, and be unsure of every token.
    """
    model, width, wider = empty(config), small.config.d_model, config.d_model
    own = small.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.zero_()
            if name not in own:
                continue
            source = own[name]
            if name.endswith("layer_norm.weight"):
                source = source * (width / wider) ** 0.5  # the mean square is over more channels
            elif name == "lm_head.weight" and small.config.scale_decoder_outputs:
                source = source * width**-0.5
            rows, columns = weight, source
            if name.endswith(("Attention.q.weight", "Attention.k.weight", "Attention.v.weight")):
                rows = weight.view(config.num_heads, config.d_kv, wider)
                columns = source.view(small.config.num_heads, small.config.d_kv, width)
            elif name.endswith("Attention.o.weight"):
                rows = weight.view(wider, config.num_heads, config.d_kv)
                columns = source.view(width, small.config.num_heads, small.config.d_kv)
            rows[tuple(map(slice, columns.shape))] = columns
    model.generation_config = small.generation_config
    return model


def reasons(setting: Setting) -> tuple[str, ...]:
    """Return what the project chooses here, and why."""
    return _choices(setting).reasons


def precision_of(setting: Setting) -> str:
    """Return the arithmetic that the project chooses here."""
    return _choices(setting).precision


def _choices(setting: Setting) -> Choices:
    config, recipe = recipe_for(setting, None)
    return choices_for(setting.model(), examples_for(setting, recipe), recipe, config)


def _for_ever(batches: Any) -> Iterator[dict[str, Any]]:
    for epoch in itertools.count():
        batches.batch_sampler.set_epoch(epoch)
        yield from batches


def be_quiet() -> None:
    """Keep transformers from printing."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
