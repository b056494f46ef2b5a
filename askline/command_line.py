"""Fill :class:`~askline.config.PipelineConfig` from defaults, a TOML file, the environment and the command line.

The last one wins. ``--training.epochs 3``, ``ASKLINE_TRAINING__EPOCHS=3`` and ``[training] epochs = 3`` are the
same option. Kept free of heavy imports, so that ``--help`` answers at once.
"""

import argparse
import difflib
import inspect
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from askline.config import STEPS, PipelineConfig, Step
from askline.errors import ConfigError

ENV_PREFIX = "ASKLINE_"
ENV_DELIMITER = "__"


class _Settings(PipelineConfig, BaseSettings):
    """From a Q&A dataset to an API that answers.

    Options may also stand in a TOML file (--config FILE, [dataset] question_column = "q") or in the environment
    (ASKLINE_DATASET__QUESTION_COLUMN=q). The command line wins over the environment, that over the file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **more: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the sources that :func:`load_config` hands over, in its order, and no other."""
        return (init_settings,)


class _Parser(argparse.ArgumentParser):
    """Answers an unknown option with the nearest known ones instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized arguments: "):
            unknown = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown, known, n=3, cutoff=0.6)
            message = f"unknown option {unknown}"
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"{message}.{hint} See --help for all options.")


class CommandLine(NamedTuple):
    """What a person asked for: a configuration, whether to stop at the plan, and from which step to begin anew."""

    config: PipelineConfig
    plan: bool
    redo_from: Step | None


def _build_parser(prog: str, *, runs: bool) -> _Parser:
    of_runs = " [--plan] [--fresh | --from STEP]" if runs else ""
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--config FILE]{of_runs} [--OPTION VALUE] [--SECTION.OPTION VALUE] …",
        description=inspect.cleandoc(_Settings.__doc__ or ""),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=110),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="TOML file with options (environment: ASKLINE_CONFIG)"
    )
    if runs:
        text = "train, evaluate and package, show what would be created and cost, and stop"
        parser.add_argument("--plan", action="store_true", help=text)
        redo = parser.add_mutually_exclusive_group()
        redo.add_argument("--fresh", action="store_true", help="take nothing that an earlier run has finished")
        text = f"take nothing from this step on that an earlier run has finished: {', '.join(STEPS)}"
        redo.add_argument("--from", dest="redo_from", metavar="STEP", choices=STEPS, help=text)
    return parser


def load_command_line(
    arguments: Sequence[str] | None = None, *, prog: str = "python -m flows.full_pipeline"
) -> CommandLine:
    """Read the configuration, and ``--plan``, ``--fresh`` and ``--from``, which are no part of it.

    See :func:`load_config` for the rest.
    """
    return _load(arguments, prog, runs=True)


def load_config(
    arguments: Sequence[str] | None = None, *, prog: str = "python -m flows.full_pipeline"
) -> PipelineConfig:
    """Read the configuration.

    Parameters
    ----------
    arguments
        Command line without the program's name; default ``sys.argv[1:]``.
    prog
        Program name in ``--help``.

    Raises
    ------
    ConfigError
        Naming every option that is unknown or out of range, with what was expected.
    SystemExit
        After ``--help``.
    """
    return _load(arguments, prog, runs=False).config


def _load(arguments: Sequence[str] | None, prog: str, *, runs: bool) -> CommandLine:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _build_parser(prog, runs=runs)
    options: dict[str, Any] = {
        "case_sensitive": True,
        "cli_prog_name": prog,
        "cli_kebab_case": True,
        "cli_avoid_json": True,
        "cli_hide_none_type": True,
        "cli_use_class_docs_for_groups": True,
    }
    command_line: Any = CliSettingsSource(_Settings, root_parser=parser, **options)
    known = parser.parse_args(arguments)  # before the source's own parse: it would report an unknown option less well
    options_given = {name: value for name, value in vars(known).items() if name not in ("plan", "fresh", "redo_from")}
    given = command_line(parsed_args=options_given | {"config": None})()
    given.pop("config", None)
    environment: dict[str, Any] = EnvSettingsSource(
        _Settings, env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER, env_ignore_empty=True
    )()
    _refuse_unknown_variables()
    file = known.config or (Path(os.environ["ASKLINE_CONFIG"]) if os.environ.get("ASKLINE_CONFIG") else None)
    merged = _merge(_merge(_read_toml(file) if file else {}, environment), given)
    try:
        settings = _Settings(**InitSettingsSource(_Settings, merged)())
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    config = PipelineConfig.model_validate(settings.model_dump(exclude_unset=True))
    if not runs:
        return CommandLine(config, plan=False, redo_from=None)
    return CommandLine(config, plan=known.plan, redo_from="fetch-dataset" if known.fresh else known.redo_from)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {file}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def _refuse_unknown_variables() -> None:
    """A misspelt section option in the environment would otherwise be passed over in silence."""
    for name in os.environ:
        section, _, option = name.removeprefix(ENV_PREFIX).lower().partition(ENV_DELIMITER)
        field = PipelineConfig.model_fields.get(section)
        if not name.startswith(ENV_PREFIX) or not option or field is None:
            continue
        fields = getattr(field.annotation, "model_fields", {})
        if option.partition(ENV_DELIMITER)[0] not in fields:
            raise ConfigError(
                f"the environment variable {name} names no option; section {section} has {', '.join(sorted(fields))}"
            )


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        option = ".".join(str(part) for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(option, _all_options(), n=2)
            said = "there is no such option" + (f"; did you mean {' or '.join(near)}?" if near else "")
            lines.append(f"{option}: {said}")
        elif option:
            lines.append(f"{option} = {problem['input']!r}: {said[0].lower()}{said[1:]}")
        else:
            lines.append(said)
    return "the configuration is wrong:\n" + "\n".join(f"  {line}" for line in lines)


def _all_options() -> list[str]:
    names = []
    for section, field in PipelineConfig.model_fields.items():
        names += [f"{section}.{name}" for name in getattr(field.annotation, "model_fields", {})] or [section]
    return names
