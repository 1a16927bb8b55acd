"""From the command line to an experiment: resolvers, and errors a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_audio.pipeline import Stage, config_hash, parents

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
# Short names on the command line (data.root=DIR) that the section's own source interpolates.
SOURCE_SHORTCUTS = frozenset(
    {"root", "speech_root", "audio_root", "manifest", "path", "split", "task"}
)
TOKEN_STAGE = "ssl_audio.stages.TokenStage"
INSTANTIATE_KEYS = frozenset({"_target_", "_args_", "_convert_", "_partial_", "_recursive_"})


class ConfigError(ValueError):
    """A command line that does not describe a run; the message is one line."""


def register_resolvers() -> None:
    """``${run_name:}``: the experiment, its scale and a hash of all that decides the result."""
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


def _run_name(*, _root_: DictConfig) -> str:
    described = [stage for _, stage in _stage_configs(_root_)]
    dry_run = "dry_run-" if _root_.trainer.fast_dev_run else ""
    return f"{dry_run}{_root_.experiment_name}-{_root_.scale_name}-{config_hash(described)}"


def _stage_configs(config: DictConfig) -> list[tuple[str, dict[str, Any]]]:
    """Resolved sections of ``stages`` that this run has, in order.

    Token extraction is for ``tokens=stored``; a dry run has nothing to probe.
    """
    resolved = OmegaConf.to_container(config.stages, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    found: list[tuple[str, dict[str, Any]]] = []
    for name, stage in resolved.items():
        if stage is not None:
            repeated = "_repeat_" in stage
            found += repeated_stages(stage) if repeated else [(str(name), stage)]
    return [
        (name, stage)
        for name, stage in found
        if not (config.tokens == "online" and stage["_target_"] == TOKEN_STAGE)
        and not (config.trainer.fast_dev_run and name == "probe")
    ]


def repeated_stages(section: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Stages of the iterations 2 to ``_repeat_``, named NAME_2, NAME_3 ...

    In their values "{i}" is the iteration and "{previous}" the one before; ``_changes_`` maps an
    iteration, or "later" for all of them, to what differs in it, a part of the sections.

    Raises:
        ConfigError: not a number of iterations, or a change of one that there is not.
    """
    count = section["_repeat_"]
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"iterations={count}: choose a whole number from 1 on")
    stages = {name: x for name, x in section.items() if not name.startswith("_")}
    changes: dict[str, Any] = {}
    for key, change in (section["_changes_"] or {}).items():  # 2 of a file, "2" of the command line
        _check_change(f"changes.{key}", change, stages)
        changes[str(key)] = _merged(changes.get(str(key), {}), change)
    everywhere = changes.pop("later", {})
    found = []
    for i in range(2, count + 1):
        change = _merged(everywhere, changes.pop(str(i), {}))
        words = {"{i}": str(i), "{previous}": str(i - 1)}
        for name, stage in stages.items():
            found.append((f"{name}_{i}", _filled(_merged(stage, change.get(name, {})), words)))
    if changes:
        raise ConfigError(
            f"changes.{min(changes)} is of none of the {count} iterations: choose one from 2 on or "
            f"later, or take it out with ~changes.{min(changes)}"
        )
    return found


def _check_change(key: str, change: Any, stages: Mapping[str, Any]) -> None:
    if not isinstance(change, dict) or not all(isinstance(x, dict) for x in change.values()):
        raise ConfigError(f"{key}: a change goes to a key of one of {', '.join(stages)}")
    unknown = change.keys() - stages.keys()
    if unknown:
        raise ConfigError(f"{key}.{min(unknown)}: the stages are {', '.join(stages)}")


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(x, words) for key, x in value.items()}
    if isinstance(value, str):
        for word, meaning in words.items():
            value = value.replace(word, meaning)
    return value


def _merged(section: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(section)
    for key, value in change.items():
        old = section.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merged(old, value)
        merged[key] = value
    return merged


def build_stages(config: DictConfig) -> dict[str, tuple[Stage, dict[str, Any]]]:
    """Name to (stage, its resolved config), in the order they run.

    Raises:
        ConfigError: a section that its class does not take, or a stage that needs a later one.
    """
    if config.tokens not in ("online", "stored"):
        raise ConfigError(f"tokens={config.tokens}: choose online or stored")
    if not isinstance(config.seed, int) or config.seed < 0:
        raise ConfigError(f"seed={config.seed}: choose a whole number from 0 on")
    _check_arguments(config)
    stages: dict[str, tuple[Stage, dict[str, Any]]] = {}
    for name, section in _stage_configs(config):
        for parent in parents(section):
            if parent not in stages:
                before = ", ".join(stages) or "none"
                raise ConfigError(f"stages.{name} needs stage:{parent}; before it are: {before}")
        stages[name] = (construct(section, f"stages.{name}", recursive=False), section)
    return stages


def _check_arguments(config: DictConfig) -> None:
    """Find a misspelt argument now, not when the stage that needs it begins.

    Raises:
        ConfigError: a section has a key that its ``_target_`` does not take.
    """
    sections = OmegaConf.to_container(config, resolve=True)
    assert isinstance(sections, dict)
    stages = sections.pop("stages")  # they repeat the sections under longer names
    for key, section in [*_targets(sections), *_targets(stages, "stages")]:
        try:
            parameters = signature(get_object(section["_target_"])).parameters
        except Exception as error:  # hydra wraps whatever the import raised
            raise ConfigError(f"{key}._target_: {_last_line(error)}") from error
        if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        shortcuts = SOURCE_SHORTCUTS if "source" in section else frozenset()
        for name in section.keys() - parameters.keys() - INSTANTIATE_KEYS - shortcuts:
            meant = _nearest(f"{key}.{name}", [f"{key}.{known}" for known in parameters])
            raise ConfigError(f"{key}.{name} is not an argument of {section['_target_']}{meant}")


def _targets(config: Any, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Dotted path and content of every section with a ``_target_``."""
    if not isinstance(config, dict):
        return []
    found = [(prefix, config)] if "_target_" in config else []
    for key, value in config.items():
        found += _targets(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def construct(
    section: Mapping[str, Any], key: str, *, recursive: bool = True, **arguments: Any
) -> Any:
    """The object that a config section with ``_target_`` describes.

    Args:
        section: of the resolved config.
        key: where the section stands, for messages.
        recursive: also construct the sections inside.
        arguments: objects that no config can hold.

    Raises:
        ConfigError: the section has an argument that the class does not take, or lacks one.
    """
    try:
        make = instantiate({**section, "_partial_": True}, _recursive_=recursive, _convert_="all")
    except HydraException as error:
        if isinstance(_cause(error), ValueError | TypeError):
            raise ConfigError(f"{key}: {_last_line(error)}") from error
        raise
    try:
        return make(**arguments)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConfigError(f"{key}: {_last_line(error)}") from error


def overrides_first(arguments: Sequence[str]) -> list[str]:
    """The words of a command line with all overrides before the flags.

    Hydra's parser refuses overrides on both sides of a flag: ``scale=base --multirun seed=0,1``.
    """

    def is_flag(word: str) -> bool:
        return word.startswith("-") or ("=" not in word and not word.startswith("~"))

    return sorted(arguments, key=is_flag)


def check_arguments(arguments: Sequence[str]) -> None:
    """``check_command_line`` of the overrides among Hydra's flags, such as --multirun and --cfg.

    Of a sweep the first value of each key is tried, of a config group all values.

    Raises:
        ConfigError: as ``check_command_line``.
    """
    flags = get_args_parser().parse_args(arguments)
    if flags.cfg:
        if any(override.startswith("experiment=") for override in flags.overrides):
            check_command_line(flags.overrides, complete=False)
    elif flags.multirun:
        for overrides in _sweep_samples(flags.overrides):
            check_command_line(overrides)
    elif not any((flags.help, flags.hydra_help, flags.info, flags.shell_completion)):
        check_command_line(flags.overrides)


def _sweep_samples(overrides: Sequence[str]) -> list[list[str]]:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException:
        return [list(overrides)]
    values = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_discrete_sweep()
        else [str(o.input_line)]
        for o in parsed
        if o.is_discrete_sweep() or not o.is_sweep_override()
    ]
    samples = [[choices[0] for choices in values]]
    for index, choices in enumerate(values):
        if (CONFIG_DIR / choices[0].split("=")[0]).is_dir():
            first = samples[0]
            samples += [[*first[:index], other, *first[index + 1 :]] for other in choices[1:]]
    return samples


def check_command_line(overrides: Sequence[str], complete: bool = True) -> None:
    """Compose what ``overrides`` ask for, only to find out what is wrong with them.

    Args:
        complete: all values must be given and resolve.

    Raises:
        ConfigError: unknown experiment, option or key, with the nearest that exists.
    """
    if not any(override.startswith("experiment=") for override in overrides):
        raise ConfigError(f"choose an experiment: experiment={'|'.join(options('experiment'))}")
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = compose("train", list(overrides))
            known = compose("train", [o for o in overrides if o.startswith("experiment=")])
        for key in map(str, config):
            if key not in known.keys():  # noqa: SIM118 (a missing value is not "in" it)
                raise ConfigError(f"unknown key {key}{_nearest(key, list(map(str, known)))}")
        OmegaConf.to_container(config, resolve=complete, throw_on_missing=complete)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from error


def options(group: str) -> list[str]:
    """Names that ``group=`` takes."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    text = str(error)
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override!r} is not an override such as data.num_workers=2 ({reason})"
    if match := re.search(r"Could not find '([\w/]+)/([^/']*)'", text):
        group, name = match.groups()
        return f"{group}={name} does not exist; choose one of {', '.join(options(group))}"
    if match := re.search(r"Could not override '([^']+)'", text):
        meant = _nearest(match[1], _known_keys(overrides))
        return f"{match[1]} is not a key of this experiment{meant}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} has no value; add {match[1]}=…"
    if match := re.search(r"ConfigError raised while resolving interpolation: (.*)", text):
        return match[1]  # of a resolver of ours
    return _last_line(error)


def _known_keys(overrides: Sequence[str]) -> list[str]:
    groups = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()}
    choices = [o for o in overrides if o.split("=")[0] in groups]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", choices), resolve=False)
    return list(_paths(config))


def _paths(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict):
        return []
    found = []
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        found += [path, *_paths(value, path)]
    return found


def _nearest(key: str, known: Sequence[str]) -> str:
    """What the user may have meant: the same path with one part mistyped, or the same last part."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    same_leaf = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    meant = close or same_leaf[:1]
    return f"; did you mean {meant[0]}?" if meant else "; see python train.py --cfg job"


def _last_line(error: BaseException) -> str:
    """The innermost reason of a chained Hydra error, on one line."""
    return " ".join(str(_cause(error)).split())


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
