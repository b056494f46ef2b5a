"""What a step of training costs, and what an answer does, beside other ways of having them.

``python -m benchmarks.training [--shape base|small|both] [--rounds 3] [--device cpu|cuda] [--json FILE]`` trains the
same model on the sample's questions in turn: as the first version did (fp32, four rows a step, the trainer's defaults),
as many tutorials do (the same, padded to a fixed length), with the project's own code and what it chooses here, and in
a bare loop of torch with the same settings. ``base`` is flan-t5-base's exact shape with random weights, which cost what
trained ones cost; ``small`` is the T5 that is trained from scratch on the sample. Then questions are answered by
``trainer.predict`` at its defaults and in the project's own way, and the answers compared; ``base`` is the small T5's
weights among zeros there, so that its answers are right ones and end where they should.

On a CPU the times are processor seconds with one thread, so that a busy machine distorts them less; ways take turns,
and medians over the rounds count. It takes a few minutes. On a GPU, further batches are tried, and compiled models;
with ``--profile FOLDER`` the table of the kernels that take the time is written there. The exit status is 1 where a bar
does not hold. Figures and what they mean stand in ``docs/training-speed.md``.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.qa.rows import Row

if TYPE_CHECKING:
    from benchmarks.training_ways import Setting, Timed

SAMPLE = Path(__file__).parents[1] / "data" / "biography"
#: Tokens to which a tutorial pads prompts and answers.
FIXED = (128, 64)
#: Rows a step at flan-t5-base's shape where speed is asked for; the default is the first version's four.
LARGER = 32
Way = Callable[[], "Timed"]


class Line(NamedTuple):
    """One line of the table, medians over the rounds."""

    way: str
    batch: int
    samples: float
    tokens: float
    memory_mb: float
    peak_share: float

    def text(self) -> str:
        """Return the line as Markdown."""
        return (
            f"| {self.way} | {self.batch} | {self.samples:,.1f} | {self.tokens:,.0f} | {self.memory_mb:,.0f} "
            f"| {self.peak_share:.1%} |"
        )


def read_questions() -> list[Row]:
    """Return the sample's training questions, as many as make whole batches of 64."""
    with (SAMPLE / "train.csv").open(encoding="utf-8", newline="") as stream:
        rows = [Row(line["question"], line["answer"], line["fact"], True) for line in csv.DictReader(stream)]
    return rows[: len(rows) // 64 * 64]


def settings_of(shape: str, device: str) -> "Setting":
    """Return what all ways share at a shape."""
    from askline.config import TrainingConfig
    from benchmarks.training_ways import Setting, config_of
    from tasks.t5.scratch import train_tokenizer

    rows, settings = read_questions(), TrainingConfig(max_source_tokens=128, max_target_tokens=64)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(rows, settings.prompt, Path(folder))
    return Setting(shape, config_of(shape, len(tokenizer)), tokenizer, rows, device, settings)


def ways_of(setting: "Setting") -> dict[str, Way]:
    """Return what one round of each way runs, by its name."""
    from benchmarks.training_ways import bare_loop, first_version, ours

    fixed = f"padded to {FIXED[0]}/{FIXED[1]}"
    if setting.shape == "base":
        few = 3 if setting.device == "cpu" else 20
        return {
            "first version": lambda: first_version(setting, few),
            fixed: lambda: first_version(setting, 1 if few == 3 else few, padded=FIXED),
            "ours, the default batch": lambda: ours(setting, few),
            f"ours, batch {LARGER}": lambda: ours(setting, few, batch=LARGER),
            f"bare loop, batch {LARGER}": lambda: bare_loop(setting, few, batch=LARGER),
        }
    return {
        "first version": lambda: first_version(setting, 40),
        fixed: lambda: first_version(setting, 6, padded=FIXED),
        "ours": lambda: ours(setting, 14),
        "bare loop": lambda: bare_loop(setting, 14),
    }


def measure(setting: "Setting", rounds: int) -> tuple[list[Line], float]:
    """Run every way in turn, ``rounds`` times; return also the operations a second of matrix products in fp32."""
    from benchmarks.training_ways import measured_peak, precision_of

    taken: dict[str, list[Timed]] = {name: [] for name in ways_of(setting)}
    peaks = []
    for number in range(rounds):
        peaks.append(measured_peak(setting.device, "fp32"))
        for name, run in ways_of(setting).items():
            _say(f"{setting.shape}, round {number + 1}: {name}")
            taken[name].append(run())
    arithmetic = precision_of(setting)
    peak = {"fp32": statistics.median(peaks), "bf16": measured_peak(setting.device, arithmetic)}
    print(f"\nmatrix products: fp32 {peak['fp32'] / 1e9:,.0f} GFLOP/s", end="")
    print(f", {arithmetic} {peak['bf16'] / 1e9:,.0f} GFLOP/s" if arithmetic == "bf16" else "")
    flops, tokens = setting.flops(), sum(setting.tokens())
    lines = []
    for name, runs in taken.items():
        seconds = statistics.median(run.seconds for run in runs)
        samples = runs[0].batch / seconds
        own = arithmetic if name.startswith(("ours", "bare")) else "fp32"
        memory = statistics.median(run.memory_mb for run in runs)
        share = samples * flops / peak["bf16" if own == "bf16" else "fp32"]
        lines.append(Line(name, runs[0].batch, samples, samples * tokens, memory, share))
    return lines, peak["fp32"]


def answering(setting: "Setting", rounds: int) -> Any:
    """Answer the sample's questions both ways with a model of this shape."""
    from askline.config import EvaluationConfig
    from benchmarks.training_evaluation import compare
    from benchmarks.training_ways import enlarged, trained
    from tasks.evaluate.evaluate import precision_for

    _say(f"{setting.shape}: answering")
    small = setting if setting.shape == "small" else settings_of("small", setting.device)
    model, questions = trained(small, 150), len(setting.rows)
    if setting.shape == "base":
        model = enlarged(model, setting.config).to(setting.device)
    config = EvaluationConfig(precision="auto")
    precision = precision_for(config, model.num_parameters())
    print(f"\nanswers in {precision}")
    if setting.shape == "base" and setting.device == "cpu" and precision == "fp32":
        questions = 128
    batch = config.batch_size
    return compare(model, setting, questions=questions, tokens=64, batch=batch, rounds=rounds, precision=precision)


def bars(shape: str, lines: list[Line], answered: Any) -> dict[str, tuple[float, float]]:
    """Return each bar's figure and what it has to reach."""
    by_name = {line.way: line.samples for line in lines}
    own = next(value for name, value in reversed(by_name.items()) if name.startswith("ours"))
    bare = next(value for name, value in by_name.items() if name.startswith("bare"))
    padded = next(value for name, value in by_name.items() if name.startswith("padded"))
    return {
        f"{shape}: ours over the first version": (own / by_name["first version"], 3.0),
        f"{shape}: ours over padding to a fixed length": (own / padded, 10.0),
        f"{shape}: ours over a bare loop": (own / bare, 0.95),
        f"{shape}: answering over trainer.predict": (answered.ratio, 5.0),
        f"{shape}: questions answered differently": (-float(answered.different), 0.0),
    }


def machine(device: str) -> str:
    """Say which machine this is."""
    import torch

    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    found = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    name = next((line.split(":")[1].strip() for line in found.splitlines() if line.startswith("model name")), "")
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in found]
    threads = torch.get_num_threads()
    return (
        f"{name or platform.processor()} ({', '.join(has)}), {os.cpu_count()} cores, {threads} thread(s), "
        f"torch {torch.__version__}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print the tables, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--shape", choices=("base", "small", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    parser.add_argument("--profile", type=Path, help="on a GPU: folder for the table of kernels")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from benchmarks.training_ways import be_quiet, reasons

    be_quiet()
    torch.set_num_threads(options.threads)
    print(f"machine: {machine(options.device)}")
    facts: dict[str, Any] = {"machine": machine(options.device)}
    missed = False
    for shape in ("small", "base") if options.shape == "both" else (options.shape,):
        setting = settings_of(shape, options.device)
        rounds = options.rounds if shape == "small" else max(1, options.rounds - 1)
        lines, peak = measure(setting, rounds)
        answered = answering(setting, rounds)
        source, target = setting.tokens()
        print(f"\n## {shape}: {source:.1f} + {target:.1f} tokens a sample, {setting.flops() / 1e9:.3f} GFLOP\n")
        print("\n".join(f"- {reason}" for reason in reasons(setting)))
        print("\n| way | batch | samples/s | tokens/s | peak MB | of the matrix products' rate |\n" + "|---" * 6 + "|")
        print("\n".join(line.text() for line in lines))
        print(
            f"\nanswering {answered.questions} questions: trainer.predict {answered.predict:,.0f}/s, "
            f"ours {answered.ours:,.0f}/s, {answered.different} answered differently"
        )
        # A forward pass is a third of a training step's operations.
        shares = [rate * setting.flops() / 3 / peak for rate in (answered.predict, answered.ours)]
        print(f"of the matrix products' rate: {shares[0]:.1%} and {shares[1]:.1%}\n")
        found = bars(shape, lines, answered)
        for name, (figure, bar) in found.items():
            missed |= figure < bar
            print(f"{'holds ' if figure >= bar else 'MISSED'} {name}: {figure:.2f} (bar {bar:g})")
        facts[shape] = {"lines": [line._asdict() for line in lines], "answering": answered._asdict(), "bars": found}
        if options.json:
            options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if options.device != "cpu":
        from benchmarks.training_gpu import sweep

        facts["gpu"] = sweep(settings_of("base", "cuda"), options.profile)
        if options.json:
            options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
