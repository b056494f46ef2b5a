"""Options: where they come from, which one wins, and what a wrong one is told."""

import os
import re
import subprocess
import sys

import pytest

from askline.command_line import load_command_line, load_config
from askline.config import PipelineConfig
from askline.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith("ASKLINE_"):
            monkeypatch.delenv(name)


def test_no_arguments_give_the_defaults():
    assert load_config([]) == PipelineConfig()


def test_nested_options_in_kebab_case():
    config = load_config(["--dataset.question-column", "frage", "--deploy.memory-mb", "2048", "--api.enabled", "false"])
    assert (config.dataset.question_column, config.deploy.memory_mb, config.api.enabled) == ("frage", 2048, False)


def test_a_plan_is_asked_for_beside_the_configuration_and_is_no_part_of_it():
    assert load_command_line([]) == (PipelineConfig(), False, None)
    asked = load_command_line(["--deploy.memory-mb", "auto", "--plan", "--deploy.mlkey", "x"])
    assert asked.plan
    assert asked.config == load_config(["--deploy.mlkey", "x"])
    with pytest.raises(ConfigError, match="unknown option --plan"):
        load_config(["--plan"])


def test_command_line_wins_over_environment_over_file(tmp_path, monkeypatch):
    file = tmp_path / "askline.toml"
    file.write_text(
        'region = "eu-west-1"\n[training]\nepochs = 2\nbatch_size = 3\nseed = 5\n[deploy.tags]\nteam = "qa"\n'
    )
    monkeypatch.setenv("ASKLINE_TRAINING__BATCH_SIZE", "7")
    monkeypatch.setenv("ASKLINE_TRAINING__SEED", "6")
    config = load_config(["--config", str(file), "--training.seed", "8"])
    assert config.region == "eu-west-1"
    assert (config.training.epochs, config.training.batch_size, config.training.seed) == (2, 7, 8)
    assert config.deploy.tags == {"team": "qa"}


def test_config_file_from_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "askline.toml"
    file.write_text("[training]\nepochs = 2\n")
    monkeypatch.setenv("ASKLINE_CONFIG", str(file))
    assert load_config([]).training.epochs == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset.question-colum", "x"], "--dataset.question-column"),
        (["stray"], "unknown option stray"),
        (["--training.epochs", "-3"], "training.epochs = '-3': input should be greater than 0"),
        (["--training.epochs", "many"], "training.epochs = 'many'"),
        (["--training.epochs", "2", "--training.max-steps", "3"], "either epochs or max_steps"),
        (["--deploy.mlkey", "../x"], "deploy.mlkey = '../x'"),
        (["--deploy.mlkey", "x" * 47], "at most 46"),
        (["--deploy.memory-mb", "999"], "1024, 2048"),
        (["--target", "gcp"], "target"),
        (["--target", "aws"], "deploy.role_arn is needed"),
        (["--api.enabled"], "--api.enabled"),
        (["--training.prompt", "no place"], "{question}"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_a_wrong_option_is_named(arguments, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(arguments)


def test_unknown_keys_in_a_file_are_all_named_at_once(tmp_path):
    file = tmp_path / "askline.toml"
    file.write_text("[training]\nbtch_size = 3\n[datase]\nx = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(["--config", str(file)])
    assert "training.btch_size" in str(caught.value)
    assert "training.batch_size" in str(caught.value)
    assert "datase" in str(caught.value)


def test_a_file_that_is_not_toml(tmp_path):
    file = tmp_path / "askline.toml"
    file.write_bytes(b"\xff\xfe[training")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(["--config", str(file)])


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("ASKLINE_TRAINING__BTCH_SIZE", "7")
    with pytest.raises(ConfigError, match="ASKLINE_TRAINING__BTCH_SIZE"):
        load_config([])


def test_help_documents_every_option_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from flows.launch import launch\n"
        "try:\n    launch(['--help'])\n"
        "finally:\n    heavy = {'prefect', 'torch', 'transformers', 'boto3', 'datasets'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for section, field in PipelineConfig.model_fields.items():
        for name, option in getattr(field.annotation, "model_fields", {}).items():
            assert f"--{section}.{name.replace('_', '-')}" in done.stdout
            assert option.description, f"{section}.{name} has no description"


def test_a_run_begins_anew_from_a_step_or_altogether():
    assert load_command_line(["--from", "evaluate"]).redo_from == "evaluate"
    assert load_command_line(["--fresh"]).redo_from == "fetch-dataset"
    with pytest.raises(ConfigError, match="evaluat"):
        load_command_line(["--from", "evaluat"])
    with pytest.raises(ConfigError, match="not allowed with"):
        load_command_line(["--fresh", "--from", "evaluate"])
    with pytest.raises(ConfigError, match="unknown option"):
        load_config(["--fresh"])
