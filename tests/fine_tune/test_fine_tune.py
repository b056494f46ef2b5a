"""Fine-tuning: repeatable, resumable, from scratch, from a folder and from the Hub, and wrong input."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.hub_server import REPOSITORY, TOKEN, running_hub
from support.tiny_datasets import NOWHERE, UNANSWERABLE, Row, small_rows, write_dataset

from askline.config import TrainingConfig
from askline.errors import HubError, TrainingError
from askline.records import DatasetRef, ModelRef, Target
from askline.store import ArtifactStore, sha256_of_file, sha256_of_folder
from tasks.fine_tune.augment import looks_english, mix, vary
from tasks.fine_tune.checkpoints import MARKER, newest_whole, run_key
from tasks.fine_tune.fine_tune import fine_tune
from tasks.fine_tune.one_at_a_time import turn
from tasks.fine_tune.recipe import resolve_recipe
from tasks.qa.prompt import format_prompt
from tasks.t5.base import find_base, is_hub_id, resolve_base
from tasks.workplace import Workplace

FILES = {
    "askline.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_log.jsonl",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def dataset(store: ArtifactStore) -> DatasetRef:
    return write_dataset(store, small_rows())


def train(
    config: TrainingConfig,
    dataset: DatasetRef,
    store: ArtifactStore,
    state_dir: Path,
    target: Target = NOWHERE,
    **options: Any,
) -> ModelRef:
    return fine_tune(config, dataset, place=Workplace(target, state_dir, store=store, **options))


@pytest.fixture(scope="module")
def base(store: ArtifactStore, dataset: DatasetRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pretrained T5 in a folder, as somebody else's would lie there."""
    model = train(TrainingConfig(max_steps=3), dataset, store, tmp_path_factory.mktemp("work"))
    folder = tmp_path_factory.mktemp("bases") / "little-t5"
    folder.mkdir()
    for path in store.path("model", model.sha256).iterdir():
        if path.name not in ("askline.json", "training_log.jsonl"):
            shutil.copyfile(path, folder / path.name)
    return folder


# --- the prompt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["What is {0}?", "{question}", "a } b {", "%s \\1 {{x}}"])
def test_the_question_goes_into_the_prompt_as_it_is(question: str) -> None:
    assert format_prompt("q: {question} {not a field} a:", question) == f"q: {question} {{not a field}} a:"


def test_white_space_in_a_question_does_not_matter() -> None:
    assert format_prompt("q: {question}", " Who\n was\t it? ") == "q: Who was it?"


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_a_pretrained_base_takes_the_usual_settings_of_flan_t5() -> None:
    recipe = resolve_recipe(TrainingConfig(base="google/flan-t5-base"), rows=10, has_out_of_scope=True)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (4, 3e-4, 0.01)
    assert recipe.steps == 6 * 3
    assert not recipe.augment
    assert recipe.out_of_scope_share == recipe.word_drop == recipe.subword_sampling == recipe.mixing == 0


def test_what_is_given_is_kept() -> None:
    config = TrainingConfig(max_steps=7, batch_size=5, learning_rate=0.1, augment=False, precision="bf16", seed=3)
    recipe = resolve_recipe(config, rows=100, has_out_of_scope=True)
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.seed) == (7, 5, 0.1, 3)
    assert recipe.precision == "bf16"
    assert not recipe.augment
    assert (
        resolve_recipe(TrainingConfig(epochs=0.5, batch_size=10, augment=False), rows=100, has_out_of_scope=True).steps
        == 5
    )


def test_out_of_scope_questions_are_invented_only_where_there_are_real_ones() -> None:
    assert resolve_recipe(TrainingConfig(), rows=100, has_out_of_scope=False).out_of_scope_share == 0
    assert resolve_recipe(TrainingConfig(), rows=100, has_out_of_scope=True).out_of_scope_share > 0


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_augmentation_is_a_function_of_its_seed() -> None:
    def varied(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [vary("When was she born in Warsaw?", rng, word_drop=0.2, english=True) for _ in range(20)]

    assert varied(1) == varied(1)
    assert varied(1) != varied(2)
    assert len(set(varied(1))) > 3
    assert all(varied(1))


def test_augmentation_of_other_languages_only_leaves_words_out() -> None:
    question = "Wo wurde sie geboren ?"
    assert not looks_english([question])
    rng = random.Random(0)
    for _ in range(50):
        words = vary(question, rng, word_drop=0.3, english=False).split()
        assert words
        rest = iter(question.split())
        assert all(word in rest for word in words)


def test_mixing_takes_words_of_both_and_is_never_empty() -> None:
    rng = random.Random(0)
    mixed = [mix("a b", "c d", rng) for _ in range(200)]
    assert all(set(text.split()) <= set("abcd") and text for text in mixed)
    assert any({"a", "d"} <= set(text.split()) for text in mixed)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_the_key_of_a_run_changes_with_what_it_depends_on() -> None:
    assert run_key(a=1, b="x") == run_key(b="x", a=1)
    assert run_key(a=1, b="x") != run_key(a=2, b="x")


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "missing") is None
    (tmp_path / "checkpoint-10").mkdir()
    assert newest_whole(tmp_path) is None


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(store: ArtifactStore, dataset: DatasetRef, tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=4, batch_size=8)
    told: list[tuple[float, str]] = []
    first = train(
        config, dataset, store, tmp_path / "a", progress=lambda share, message="": told.append((share, message))
    )
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    again = write_dataset(elsewhere, small_rows(), location="/another/place/questions.csv")
    second = train(config, again, elsewhere, tmp_path / "b")
    assert first.sha256 == second.sha256
    assert (
        train(TrainingConfig(max_steps=4, batch_size=8, seed=1), dataset, store, tmp_path / "a").sha256 != first.sha256
    )

    folder = store.verify("model", first.sha256)
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert log[-1]["loss"] < log[0]["loss"]
    assert (first.steps, first.base, first.base_revision, first.dataset_sha256) == (4, "scratch", None, dataset.sha256)
    assert first.seconds > 0
    assert told[-1][0] == 1.0
    assert told[-1][1].startswith("step 4/4 loss ")
    left = [path for path in (tmp_path / "a" / "work" / "checkpoints").iterdir() if path.is_dir()]
    assert not left, "checkpoints are removed once the artifact is stored"

    about = json.loads((folder / "askline.json").read_text())
    assert about["prompt"] == config.prompt
    assert about["unanswerable"] == UNANSWERABLE
    assert about["dataset"]["sha256"] == dataset.sha256
    assert about["dataset"]["location"] == "questions.csv"
    assert about["recipe"]["steps"] == 4
    assert set(about["versions"]) >= {"torch", "transformers", "sentencepiece"}


@pytest.mark.slow
def test_what_is_exported_means_the_same_to_older_versions(store: ArtifactStore, base: Path, tmp_path: Path) -> None:
    """transformers 4 ties and scales where the flag says so, and reads the sentinels under another name."""
    from safetensors.torch import load_file

    config = json.loads((base / "config.json").read_text())
    assert config["tie_word_embeddings"] == config["scale_decoder_outputs"]
    assert config["use_cache"]
    weights = load_file(base / "model.safetensors")
    assert {"shared.weight", "lm_head.weight"} <= set(weights)
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in tokenizer
    assert len(tokenizer["additional_special_tokens"]) == 100

    from sentencepiece import SentencePieceProcessor
    from transformers import T5Tokenizer

    pieces = SentencePieceProcessor(model_file=str(base / "spiece.model"))
    fast = T5Tokenizer.from_pretrained(base)
    text = "question: Where was she born? Ünïcode ﬁ answer:"
    assert fast(text)["input_ids"] == [*pieces.encode(text), 1]
    assert fast.convert_tokens_to_ids("<extra_id_0>") == len(fast) - 1


KILLED = """
import json, sys
from pathlib import Path
from askline.config import TrainingConfig
from askline.records import DatasetRef, Target
from askline.store import ArtifactStore
from tasks.fine_tune.fine_tune import fine_tune
from tasks.workplace import Workplace

where, config, dataset, target = sys.argv[1:]
model = fine_tune(
    TrainingConfig.model_validate_json(config),
    DatasetRef.model_validate_json(dataset),
    place=Workplace(
        Target.model_validate_json(target),
        where,
        store=ArtifactStore(where),
        progress=lambda share, message="": print(message, flush=True),
    ),
)
print("DONE", model.sha256, flush=True)
"""


def start(store: ArtifactStore, config: TrainingConfig, dataset: DatasetRef) -> subprocess.Popen[str]:
    arguments = [str(store.root), config.model_dump_json(), dataset.model_dump_json(), NOWHERE.model_dump_json()]
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoint(process: subprocess.Popen[str], store: ArtifactStore, step: int) -> Path:
    """Return the run's folder once it holds the marker of checkpoint ``step``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for marker in (store.root / "work" / "checkpoints").glob(f"*/checkpoint-{step}/{MARKER}"):
            return marker.parents[1]
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint {step} in time")


def finish(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """Return the model's address and what was said on the way."""
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    *said, last = output.splitlines()
    assert last.startswith("DONE ")
    return last.removeprefix("DONE "), said


def waits(messages: list[str]) -> bool:
    return any("another run trains the same model" in message for message in messages)


def test_a_second_training_of_the_same_waits_and_takes_the_first_ones_model(
    store: ArtifactStore, tmp_path: Path
) -> None:
    model = ModelRef.model_validate(
        {
            **dict.fromkeys(("sha256", "dataset_sha256"), "0" * 64),
            **{
                "base": "scratch",
                "base_revision": None,
                "prompt": "{question}",
                "parameters": 1,
                "steps": 1,
                "epochs": 1.0,
            },
            **{"train_loss": 0.1, "precision": "fp32", "seconds": 1.0},
            **{"max_source_tokens": 1, "max_target_tokens": 1, "trained_parameters": 1},
        }
    )
    with store.new("model") as draft:
        (draft.folder / "config.json").write_text("{}")
        model = model.model_copy(update={"sha256": draft.commit()})
    said: list[str] = []
    folder, taken = tmp_path / "checkpoints" / "key", threading.Event()

    def first() -> None:
        with turn(folder, place=Workplace(NOWHERE, tmp_path, store=store)) as mine:
            assert mine.others(store) is None
            taken.set()
            while not waits(said):
                time.sleep(0.01)
            mine.end_with(model)

    thread = threading.Thread(target=first)
    thread.start()
    assert taken.wait(30)
    hears = Workplace(NOWHERE, tmp_path, store=store, progress=lambda _share, message="": said.append(message))
    with turn(folder, place=hears) as second:
        assert second.others(store) == model
    thread.join()
    with turn(folder, place=hears) as third:
        assert third.others(store) is None, "who did not wait asked for a training of its own"


def test_a_run_that_was_killed_frees_the_lock_and_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "key"
    held = (
        "import sys, time; from pathlib import Path; from tasks.fine_tune.one_at_a_time import turn\n"
        "from tasks.workplace import Workplace; from askline.records import Target\n"
        "place = Workplace(Target(kind='local', region='us-east-1'), sys.argv[1])\n"
        "with turn(Path(sys.argv[2]), place=place): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", held, str(tmp_path), str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    said: list[str] = []

    def hear(_share: float, message: str = "") -> None:
        said.append(message)
        process.kill()

    place = Workplace(NOWHERE, tmp_path, progress=hear)
    with turn(folder, place=place) as mine:
        assert mine.others(place.store) is None
    assert waits(said)
    process.wait()


@pytest.mark.slow
def test_two_trainings_at_once_make_one_model(tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=10, batch_size=8, checkpoint_steps=5)
    store = ArtifactStore(tmp_path / "store")
    dataset = write_dataset(store, small_rows())
    both = [start(store, config, dataset) for _ in range(2)]
    models = {finish(process)[0] for process in both}
    assert len(models) == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=40, batch_size=8, checkpoint_steps=5)
    stores = [ArtifactStore(tmp_path / name) for name in ("straight", "killed")]
    datasets = [write_dataset(store, small_rows()) for store in stores]

    expected, _ = finish(start(stores[0], config, datasets[0]))

    process = start(stores[1], config, datasets[1])
    folder = wait_for_checkpoint(process, stores[1], 15)
    process.kill()
    process.communicate()
    newest = newest_whole(folder)
    assert newest is not None
    # As if the machine had gone down while the newest one was being written.
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    before = newest_whole(folder)
    assert before is not None
    assert before != newest

    process = start(stores[1], config, datasets[1])
    sha256, said = finish(process)
    assert sha256 == expected
    first = next(line for line in said if line.startswith("step "))
    assert int(first.split()[1].split("/")[0]) > int(before.name.split("-")[1])


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_the_next_run_uses(tmp_path: Path) -> None:
    config = TrainingConfig(max_steps=40, batch_size=8, checkpoint_steps=5)
    store = ArtifactStore(tmp_path)
    dataset = write_dataset(store, small_rows())
    process = start(store, config, dataset)
    folder = wait_for_checkpoint(process, store, 10)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert newest_whole(folder) is not None
    assert not list((store.root / "model").glob("*")), "nothing half-written in the store"
    _, said = finish(start(store, config, dataset))
    assert not any(line.startswith("step 1/") for line in said)


@pytest.mark.slow
def test_fine_tunes_a_folder(store: ArtifactStore, dataset: DatasetRef, base: Path, tmp_path: Path) -> None:
    model = train(TrainingConfig(base=str(base), epochs=1), dataset, store, tmp_path)
    assert (model.steps, model.base, model.base_revision) == (6, str(base), None)
    folder = store.verify("model", model.sha256)
    assert sha256_of_file(folder / "spiece.model") == sha256_of_file(base / "spiece.model")
    assert sha256_of_file(folder / "model.safetensors") != sha256_of_file(base / "model.safetensors")
    about = json.loads((folder / "askline.json").read_text())
    assert about["base"]["name"] == "little-t5"
    assert str(base) not in json.dumps(about)


@pytest.mark.slow
def test_a_base_with_two_embedding_matrices_keeps_them(
    store: ArtifactStore, dataset: DatasetRef, base: Path, tmp_path: Path
) -> None:
    """As Flan-T5 has: it reads with one matrix, writes with another, and does not scale the output."""
    from safetensors.torch import load_file, save_file

    flan = tmp_path / "flan"
    shutil.copytree(base, flan)
    config = json.loads((flan / "config.json").read_text())
    config["tie_word_embeddings"] = False
    del config["scale_decoder_outputs"]
    (flan / "config.json").write_text(json.dumps(config))
    weights = load_file(flan / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"] * 0.05
    save_file(weights, flan / "model.safetensors", metadata={"format": "pt"})

    settings = TrainingConfig(base=str(flan), max_steps=6, batch_size=4, checkpoint_steps=2)
    straight = train(settings, dataset, store, tmp_path / "straight")
    folder = store.verify("model", straight.sha256)
    trained = load_file(folder / "model.safetensors")
    assert not trained["lm_head.weight"].equal(trained["shared.weight"])
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["scale_decoder_outputs"] is False

    class StopError(Exception):
        pass

    def stop_after_four(share: float, message: str = "") -> None:
        if list((tmp_path / "stopped").glob("work/checkpoints/*/checkpoint-4/trainer_state.json")):
            raise StopError

    with pytest.raises(StopError):
        train(settings, dataset, store, tmp_path / "stopped", progress=stop_after_four)
    assert train(settings, dataset, store, tmp_path / "stopped").sha256 == straight.sha256


@pytest.mark.slow
def test_fine_tunes_a_model_of_the_hub_by_id_and_revision(
    store: ArtifactStore, dataset: DatasetRef, base: Path, tmp_path: Path, free_port: int
) -> None:
    from huggingface_hub import HfApi

    with running_hub(tmp_path / "hub", free_port) as hub:
        target = Target(kind="local", region="us-east-1", hub=hub.url)
        api = HfApi(endpoint=hub.url, token=TOKEN)
        repo = api.create_repo("someone/little-t5").repo_id
        wanted = api.upload_folder(repo_id=repo, folder_path=base).oid
        api.create_tag(repo, tag="v1")
        api.upload_file(repo_id=repo, path_or_fileobj=b"changed since", path_in_repo="README.md")

        config = TrainingConfig(base=repo, base_revision="v1", max_steps=2)
        model = train(config, dataset, store, tmp_path / "work", target=target)
        assert model.base_revision == wanted
        assert resolve_base(repo, "v1", place=Workplace(target)).fingerprint == wanted
        about = json.loads((store.path("model", model.sha256) / "askline.json").read_text())
        assert about["base"] == {"name": repo, "revision": wanted, "fingerprint": wanted}
        from_folder = train(TrainingConfig(base=str(base), max_steps=2), dataset, store, tmp_path / "work")
        assert sha256_of_file(store.path("model", model.sha256) / "model.safetensors") == sha256_of_file(
            store.path("model", from_folder.sha256) / "model.safetensors"
        )

        with pytest.raises(HubError, match="no model 'someone/missing'"):
            train(TrainingConfig(base="someone/missing"), dataset, store, tmp_path / "work", target=target)
        with pytest.raises(HubError, match="no revision 'v9'"):
            train(TrainingConfig(base=repo, base_revision="v9"), dataset, store, tmp_path / "work", target=target)
    with pytest.raises(HubError, match="cannot fetch the base someone/little-t5 from") as caught:
        train(TrainingConfig(base=repo), dataset, store, tmp_path / "other", target=target)
    assert caught.value.retryable


@pytest.mark.slow
def test_a_base_that_the_embedded_hub_lacks_comes_from_the_public_one(
    base: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    with running_hub(tmp_path / "public", free_port) as public:
        monkeypatch.setenv("HF_ENDPOINT", public.url)
        api = HfApi(endpoint=public.url, token=TOKEN)
        repo = api.create_repo("someone/little-t5").repo_id
        commit = api.upload_folder(repo_id=repo, folder_path=base).oid
        with socket.create_server(("127.0.0.1", 0)) as probe:
            another_port = probe.getsockname()[1]
        with running_hub(tmp_path / "embedded", another_port) as embedded:
            target = Target(kind="local", region="us-east-1", hub=embedded.url)
            assert resolve_base(repo, None, place=Workplace(target)).revision == commit
            found = find_base(repo, None, place=Workplace(target, tmp_path))
            assert (found.folder / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
            with pytest.raises(HubError, match=f"{embedded.url}.*and there is no model 'x/y' on {public.url}"):
                resolve_base("x/y", None, place=Workplace(target))


@pytest.mark.parametrize(("name", "fingerprint"), [("scratch", "scratch"), (".", None)])
def test_a_base_is_pinned_without_a_hub(name: str, fingerprint: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    name = str(tmp_path) if name == "." else name
    pinned = resolve_base(name, None, place=Workplace(Target(kind="aws", region="us-east-1")))
    assert pinned.revision is None
    assert pinned.fingerprint == (fingerprint or sha256_of_folder(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        [(f"什么是第{number}个元素的名字?", f"元素{chr(0x4E00 + number)}", None) for number in range(600)],
        [("Что это?", "да", None), ("Где она родилась?", "в Варшаве", None)] * 5,
        [("a", "b", None)] * 4,
        [("word " * 2000 + "?", "long", None), *small_rows()],
    ],
    ids=["many characters", "Cyrillic, ten rows", "hardly any text", "a very long question"],
)
def test_trains_on_any_script_and_size(rows: list[Row], store: ArtifactStore, tmp_path: Path) -> None:
    from transformers import T5Tokenizer

    model = train(TrainingConfig(max_steps=1, batch_size=8), write_dataset(store, rows), store, tmp_path)
    tokenizer = T5Tokenizer.from_pretrained(store.path("model", model.sha256))
    for question, answer, _ in rows[:600:50]:
        assert tokenizer.decode(tokenizer(answer)["input_ids"], skip_special_tokens=True) == answer
        assert tokenizer.unk_token_id not in tokenizer(question)["input_ids"]


# --- wrong input ------------------------------------------------------------------------------------------------------


def test_two_rows_are_enough_and_none_are_not(store: ArtifactStore, tmp_path: Path) -> None:
    assert train(TrainingConfig(max_steps=2), write_dataset(store, small_rows()[:2]), store, tmp_path).steps == 2
    with pytest.raises(TrainingError, match="training split is empty"):
        train(TrainingConfig(), write_dataset(store, []), store, tmp_path)


@pytest.mark.parametrize(
    ("base", "is_id"),
    [
        ("google/flan-t5-base", True),
        ("t5-small", True),
        ("scratch", False),
        ("./here", False),
        ("/there", False),
        ("~/t5", False),
        ("a/b/c", False),
    ],
)
def test_what_counts_as_a_hub_id(base: str, is_id: bool) -> None:
    assert is_hub_id(base) == is_id


def test_a_base_that_is_no_t5(store: ArtifactStore, dataset: DatasetRef, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no folder '\./missing'"):
        train(TrainingConfig(base="./missing"), dataset, store, tmp_path)
    folder = tmp_path / "bert"
    folder.mkdir()
    with pytest.raises(TrainingError, match=r"the base bert has no config\.json"):
        train(TrainingConfig(base=str(folder)), dataset, store, tmp_path)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TrainingError, match="type 'bert'; askline fine-tunes T5"):
        train(TrainingConfig(base=str(folder)), dataset, store, tmp_path)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(TrainingError, match="the base bert comes without its tokenizer"):
        train(TrainingConfig(base=str(folder)), dataset, store, tmp_path)
    with pytest.raises(TrainingError, match="nor a Hub id"):
        train(TrainingConfig(base="no spaces/please now"), dataset, store, tmp_path)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_the_step(
    store: ArtifactStore, dataset: DatasetRef, base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["encoder.final_layer_norm.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="the loss is nan at step 1: training has diverged"):
        train(TrainingConfig(base=str(broken)), dataset, store, tmp_path)


def test_a_work_folder_that_cannot_be_written(store: ArtifactStore, dataset: DatasetRef, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    with pytest.raises(TrainingError, match="cannot write to"):
        train(TrainingConfig(max_steps=1), dataset, store, tmp_path / "work")
