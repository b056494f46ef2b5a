"""What serving costs: the package, a plain Transformers handler, ONNX Runtime in fp32 and CTranslate2, on one core.

``python -m benchmarks.serving [--rounds 7] [--size base]`` makes a Flan-T5 of the given size with random weights, packs
it as the pipeline does, and gives the same checkpoint to every other way of serving. Each runs in a process of its own
that is pinned to one core. Cold starts are taken in turn, and then the loaded processes are asked in turn, so that a
busy moment of the machine falls on all of them. Medians are printed; "plain" is what the first version deployed.

Random weights cost what trained ones cost; whether answers stay right in bytes is what the package's gates and
``tests/package/test_package.py`` show. The end mark is never the likeliest token, so that every answer has the same
length.
CTranslate2 must be installed (the extra ``dev`` has it); it takes about 6 GB of disk and 5 GB of memory at size base.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from askline.config import PackageConfig
from askline.records import ModelRef
from tasks.package import archive, contents
from tasks.package.libraries import own_python

#: Width, heads, layers (of the encoder, and of the decoder), feed-forward width.
SIZES = {"small": (512, 6, 8, 1024), "base": (768, 12, 12, 2048), "large": (1024, 16, 24, 2816)}
VOCABULARY = 32_128
TOKENS = 32
SINGLE_QUESTIONS = 3
BATCHES = (8, 32)
PROMPT = "question: {question} answer:"

_CHILD = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[3])})
def peak_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
folder, tokens = sys.argv[1], int(sys.argv[2])
"""
_LOOP = """
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    count = answer(json.loads(line))
    facts = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(facts | {"peak_mb": peak_mb(), "tokens": count}), flush=True)
"""
#: What a handler of a few lines around transformers does.
PLAIN = """
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
def answer(questions):
    prompts = [f"question: {question} answer:" for question in questions]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, num_beams=1)
    tokenizer.batch_decode(output, skip_special_tokens=True)
    return (output.shape[1] - 1) * len(questions)
"""
PACKAGE = """
sys.path.insert(0, folder + "/code")
import inference
model = inference.model_fn(folder)
def answer(questions):
    body = json.dumps({"inputs": questions, "parameters": {"max_new_tokens": tokens}})
    found = json.loads(inference.output_fn(inference.predict_fn(inference.input_fn(body), model)))
    return sum(item["tokens"] for item in found["answers"])
"""
CTRANSLATE2 = """
import ctranslate2
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
translator = ctranslate2.Translator(folder, device="cpu", compute_type="COMPUTE", intra_threads=1, inter_threads=1)
def answer(questions):
    sources = [tokenizer.encode(f"question: {question} answer:").tokens for question in questions]
    found = translator.translate_batch(sources, beam_size=1, max_decoding_length=tokens, return_scores=True)
    texts = [tokenizer.decode([tokenizer.token_to_id(token) for token in each.hypotheses[0]]) for each in found]
    return sum(len(each.hypotheses[0]) for each in found)
"""


class Way(NamedTuple):
    """One way to serve the checkpoint."""

    name: str
    program: str
    folder: Path
    archive_mb: float
    bytes_a_weight: int


class Running:
    """A loaded process that answers line by line."""

    def __init__(self, way: Way, core: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ASKLINE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD + way.program + _LOOP, str(way.folder), str(TOKENS), str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=way.folder,
            text=True,
        )

    def ask(self, questions: list[str]) -> dict[str, float]:
        """Return seconds, peak memory and tokens of one request."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(questions) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"a process ended with {self._process.wait()}: is everything installed, and enough memory?"
            )
        answer: dict[str, float] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def make_checkpoint(folder: Path, size: str) -> dict[str, int]:
    """Write a Flan-T5 with random weights and a vocabulary of the same size; return the weights each token reads."""
    import torch
    from transformers import T5Config, T5Tokenizer

    from benchmarks.training_ways import empty
    from tasks.fine_tune.export import export

    width, heads, layers, inner = SIZES[size]
    chance = random.Random(0)  # noqa: S311 - made-up words
    pieces = {"▁", "▁question", "▁answer", *(chr(code) for code in range(33, 127))}
    while len(pieces) < VOCABULARY - 128:
        pieces.add(chance.choice(["", "▁"]) + "".join(chance.choices("aeioubcdfghlmnprst", k=chance.randint(2, 8))))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -10.0 + len(piece)) for piece in sorted(pieces)][: VOCABULARY - 103]
    vocabulary += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=100)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_kv=64,
        d_ff=inner,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        dropout_rate=0.0,
        tie_word_embeddings=False,
    )
    model = empty(config)
    model.lm_head.weight.data *= 0.05
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0.0
    export(model, tokenizer, folder, pieces=None, max_target_tokens=64)
    about = {"prompt": PROMPT, "max_source_tokens": 128, "max_target_tokens": 64, "versions": {}}
    (folder / contents.MANIFEST).write_text(json.dumps(about), encoding="utf-8")
    attention = 6 * width * heads * 64
    decoder = layers * (attention + 3 * width * inner) + VOCABULARY * width
    return {"parameters": sum(p.numel() for p in model.parameters()), "read": decoder}


def pack(checkpoint: Path, scratch: Path, variant: contents.Variant, parameters: int) -> tuple[Path, float]:
    """Pack as the pipeline does, unpack, and return the folder and the archive's size in MB."""
    name = str(variant).replace(" ", "-")
    folder = scratch / name
    made = scratch / f"{name}-made"
    made.mkdir()
    model = ModelRef(
        sha256="0" * 64, base="random", base_revision=None, dataset_sha256="0", prompt=PROMPT, parameters=parameters,
        steps=0, epochs=0, train_loss=0, precision="fp32", seconds=0, max_source_tokens=128, max_target_tokens=64,
    )  # fmt: skip
    files = contents.gather(
        variant, checkpoint, model, made, config=PackageConfig(), python=own_python(), cache=scratch / "wheels"
    )
    about = json.loads((checkpoint / contents.MANIFEST).read_text(encoding="utf-8"))
    about |= {"engine": variant.engine, "parameters": parameters}
    (made / contents.MANIFEST).write_text(json.dumps(about), encoding="utf-8")
    files[contents.MANIFEST] = made / contents.MANIFEST
    packed = scratch / f"{name}.tar.gz"
    archive.pack(files, packed)
    archive.unpack(packed, folder)
    return folder, packed.stat().st_size / 1e6


def convert(checkpoint: Path, scratch: Path, quantisation: str) -> tuple[Path, float]:
    """Convert for CTranslate2; return the folder and the size in MB of an archive with the model and its libraries."""
    from importlib.metadata import version

    from ctranslate2.converters import TransformersConverter

    from tasks.package.libraries import Requirement, collect, own_platform

    folder = scratch / f"ctranslate2-{quantisation}"
    TransformersConverter(str(checkpoint)).convert(str(folder), quantization=quantisation)
    (folder / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    libraries = collect(
        [Requirement(name, version(name)) for name in ("ctranslate2", "tokenizers")],
        python=own_python(),
        platform=own_platform(),
        destination=scratch / "libraries",
        cache=scratch / "wheels",
    )
    files = {path.name: path for path in folder.iterdir()} | libraries.members()
    packed = scratch / f"ctranslate2-{quantisation}.tar.gz"
    archive.pack(files, packed)
    return folder, packed.stat().st_size / 1e6


def bandwidth(core: int) -> float:
    """Return GB/s that one core reads from memory: the best of the dot products of a gigabyte with itself."""
    program = (
        "import os,sys,time; os.sched_setaffinity(0, {int(sys.argv[1])})\n"
        "import numpy as np; x = np.ones(2**28, np.float32); best = 1e9\n"
        "for _ in range(5):\n t = time.perf_counter(); np.dot(x, x); best = min(best, time.perf_counter() - t)\n"
        "print(x.nbytes / best / 1e9)"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(core)], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)


def measure(ways: list[Way], rounds: int, core: int) -> dict[str, dict[str, float]]:
    """Take every way in turn, round after round; return medians by way."""
    chance = random.Random(1)  # noqa: S311 - made-up words
    words = ["".join(chance.choices("aeioubcdfghlmnprst", k=5)) for _ in range(200)]
    questions = [" ".join(chance.sample(words, 5)) + "?" for _ in range(max(BATCHES))]
    seen: dict[str, dict[str, list[float]]] = {way.name: {} for way in ways}

    def note(way: Way, name: str, value: float) -> None:
        seen[way.name].setdefault(name, []).append(value)

    for _ in range(rounds):
        for way in ways:
            started = time.perf_counter()
            running = Running(way, core)
            first = running.ask(questions[:1])
            note(way, "cold", time.perf_counter() - started)
            note(way, "cold_peak", first["peak_mb"])
            running.end()
    loaded = [(way, Running(way, core)) for way in ways]
    try:
        for way, running in loaded:
            assert running.ask(questions[:1])["tokens"] == TOKENS, f"{way.name} gives answers of another length"
        for _ in range(rounds):
            for way, running in loaded:
                for question in questions[:SINGLE_QUESTIONS]:
                    given = running.ask([question])
                    note(way, "single", given["cpu"])
                    note(way, "single_wall", given["wall"])
                note(way, "peak", given["peak_mb"])
        for count in BATCHES:
            for _ in range(max(2, rounds // 2)):
                for way, running in loaded:
                    given = running.ask(questions[:count])
                    note(way, f"batch{count}", given["tokens"] / given["cpu"])
                    note(way, f"peak{count}", given["peak_mb"])
    finally:
        for _, running in loaded:
            running.end()
    return {way: {name: statistics.median(values) for name, values in facts.items()} for way, facts in seen.items()}


def report(ways: list[Way], found: dict[str, dict[str, float]], *, read: int, gigabytes_a_second: float) -> str:
    """Return the table and the ratios to the plain handler."""
    plain = found["Transformers fp32 (plain)"]
    plain_mb = next(way.archive_mb for way in ways if way.name == "Transformers fp32 (plain)")
    columns = (
        *("cold start s", "answer s", "wall s", "× faster", "tok/s 8", "tok/s 32"),
        *("peak MB", "MB at 32", "archive MB", "of the bound"),
    )
    lines = [f"{'':28}" + "".join(f"{name:>13}" for name in columns)]
    for way in ways:
        facts = found[way.name]
        bound = gigabytes_a_second * 1e9 / (read * way.bytes_a_weight)
        values = (
            f"{facts['cold']:.2f}", f"{facts['single']:.3f}", f"{facts['single_wall']:.3f}",
            f"{plain['single'] / facts['single']:.1f}", f"{facts['batch8']:.0f}", f"{facts['batch32']:.0f}",
            f"{facts['peak']:.0f}", f"{facts['peak32']:.0f}", f"{way.archive_mb:.0f}",
            f"{TOKENS / facts['single'] / bound:.0%}",
        )  # fmt: skip
        lines.append(f"{way.name:28}" + "".join(f"{value:>13}" for value in values))
    package = found["package int8"]
    ours = next(way.archive_mb for way in ways if way.name == "package int8")
    lines += [
        "",
        "The package against plain Transformers:",
        f"  answers {plain['single'] / package['single']:.2f}× faster (bar 5×)",
        f"  cold start {plain['cold'] / package['cold']:.2f}× shorter (bar 6×)",
        f"  peak memory {package['peak'] / plain['peak']:.2f}× (bar 0.30×)",
        f"  archive {ours / plain_mb:.2f}× (bar 0.30×)",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way")
    parser.add_argument("--size", choices=SIZES, default="base", help="which Flan-T5's shape")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core that all run on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="askline-serving-") as made:
        scratch = Path(made)
        checkpoint = scratch / "checkpoint"
        checkpoint.mkdir()
        print(f"making a Flan-T5 {options.size} with random weights", flush=True)
        about = make_checkpoint(checkpoint, options.size)
        archive.pack({path.name: path for path in checkpoint.iterdir()}, scratch / "plain.tar.gz")
        plain_mb = (scratch / "plain.tar.gz").stat().st_size / 1e6
        ways = [Way("Transformers fp32 (plain)", PLAIN, checkpoint, plain_mb, 4)]
        for name, quantisation, size in (("package int8", "int8", 1), ("package fp32 (ORT)", "fp32", 4)):
            variant = contents.Variant("onnxruntime", quantisation)
            ways.append(Way(name, PACKAGE, *pack(checkpoint, scratch, variant, about["parameters"]), size))
        for name, quantisation, size in (("CTranslate2 int8", "int8", 1), ("CTranslate2 fp32", "float32", 4)):
            program = CTRANSLATE2.replace("COMPUTE", quantisation)
            ways.append(Way(name, program, *convert(checkpoint, scratch, quantisation), size))
        speed = bandwidth(options.core)
        print(
            f"{about['parameters'] / 1e6:.1f} M parameters, {about['read'] / 1e6:.1f} M read for each token, "
            f"{speed:.1f} GB/s on one core: at most {speed * 1e9 / about['read']:.0f} tokens/s in bytes; "
            f"load {os.getloadavg()[0]:.1f} at the start, {options.rounds} rounds, {TOKENS} tokens an answer",
            flush=True,
        )
        found = measure(ways, options.rounds, options.core)
        print(report(ways, found, read=about["read"], gigabytes_a_second=speed))
        print(f"load {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
