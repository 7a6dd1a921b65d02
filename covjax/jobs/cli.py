"""Commands from frozen dataclasses: `--config FILE` gives the defaults, `--any-field VALUE` overrides one of them."""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import logging
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from covjax.errors import InputError, shown
from covjax.jobs.disk import error_text
from covjax.jobs.parser import FORM, CommandParser, Parser
from covjax.jobs.stop import stoppable
from covjax.notes import silence

Config = TypeVar("Config")
# Orbax logs a traceback for every array of a failed save, which the command's own error tells in one line.
CHATTY = ("absl", "asyncio")


@contextlib.contextmanager
def exit_on_input_error(command: str) -> Iterator[None]:
    """End a command with one line on stderr where the user or a signal is the reason.

    An InputError and a full disk: exit status 2. Ctrl-C and SIGTERM: 130 and 143, see `covjax.jobs.stop.stoppable`.
    Every other exception keeps its traceback.
    """
    complaints: list[Any] = []
    hooks = threading.excepthook, sys.unraisablehook
    # Threads of libraries fail with the main one; who needs their words gets them where the command itself succeeds.
    threading.excepthook = sys.unraisablehook = complaints.append  # type: ignore[assignment]
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in CHATTY}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with stoppable(command):
            yield
    except Exception as error:
        if (text := error_text(error)) is None:
            raise
        complaints.clear()
        print(f"{command}: error: {_one_line(text)}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        for logger, level in loggers.items():
            logger.setLevel(level)
        for complaint in complaints:
            hooks[hasattr(complaint, "err_msg")](complaint)


def _one_line(text: str) -> str:
    """As it is, with what a terminal would not show as part of one line escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def parse_settings(text: str) -> dict[str, Any]:
    """{option: value} of "option=value:option=value", values as JSON (true, 0.1, [8,16]) or else as text.

    Raises InputError for a part without "=".
    """
    settings: dict[str, Any] = {}
    for setting in text.split(":") if text else []:
        key, separator, value = setting.partition("=")
        if not separator:
            raise InputError(f"{text!r}: expected option=value, got {setting!r}")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def parse_lists(text: str) -> dict[str, tuple[Any, ...]]:
    """{option: values} of "option=value,value:option=value", values as in `parse_settings`; InputError as there."""
    lists: dict[str, tuple[Any, ...]] = {}
    for setting in text.split(":"):
        key, separator, values = setting.partition("=")
        if not (separator and values):
            raise InputError(f"{text!r}: expected option=value,value, got {setting!r}")
        if key in lists:
            raise InputError(f"{text!r}: {key} is given twice")
        try:
            lists[key] = tuple(json.loads(f"[{values}]"))
        except ValueError:
            lists[key] = tuple(next(iter(parse_settings(f"{key}={value}").values())) for value in values.split(","))
    return lists


class _Merge(argparse.Action):
    """An option that may be repeated, each time with other keys."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        lists = getattr(namespace, self.dest, {})
        if twice := sorted(lists.keys() & values.keys()):
            parser.error(f"argument {option_string}: {twice[0]} is given twice")
        setattr(namespace, self.dest, lists | values)


def load_config(
    path: str | Path, kind: type[Config], built_in: Mapping[str, Callable[[], Any]] | None = None
) -> Config:
    """A built-in config by its name, or what `get_config()` of a Python file returns; the file is run.

    The file may import what lies in its folder, whatever folder the command is run from; packages that are installed
    come before files of the same name there.

    Raises InputError where there is no such file or function, or it returns another type.
    """
    if built_in and (make := built_in.get(str(path))):
        return make()
    path = Path(path)
    if not path.is_file():
        names = f" and no built-in config: {', '.join(built_in)}" if built_in else ""
        raise InputError(f"--config: {path}: no such file{names}")
    spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config: {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"--config: {path}: defines no get_config()")
        config = module.get_config()
    except (TypeError, SyntaxError, ImportError) as error:  # a dataclass refuses an unknown field with a TypeError
        raise InputError(f"--config: {path}: {error}") from None
    if not isinstance(config, kind):
        raise InputError(f"--config: {path}: get_config() returned {type(config).__name__}, not {kind.__name__}")
    return config


def parse(
    command: str,
    description: str,
    kind: type[Config],
    argv: Sequence[str],
    main: Sequence[str] = (),
    distributed: bool = False,
    built_in: Mapping[str, Callable[[], Any]] | None = None,
    switches: Mapping[str, str] | None = None,
    files: Sequence[str] | None = None,
    force: str = "redo everything: first remove what the run in --output made",
) -> tuple[Config, argparse.Namespace]:
    """Read `--config`, then the overrides; return the config and the flags that are not part of it.

    These are `quiet`, `force` and, where the command runs on several processes (`distributed`), `distributed`, a
    setting of `covjax.jobs.distributed.start`.

    `switches` are further flags without a value, each with its help. The help shows the fields in `main` first.
    `files` are the fields that values without an option's name are, in this order: `data` where it is among `main`.
    `force` is the help of `--force`.

    Field types may be str, int, float, bool, tuple[T, ...] (values separated by commas), `T | None` ("none"),
    dict[str, Any] (see `parse_settings`) and dict[str, tuple[Any, ...]] (see `parse_lists`; may be repeated).
    Fields of other types can be set in the config file only.
    """
    first = Parser(prog=command, add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    config = load_config(path, kind, built_in) if path else kind()

    files = ("data",) * ("data" in main) if files is None else files
    places = {name: "FILE" if name == "data" else name.upper() for name in files}
    parser = CommandParser(command, description, " ".join(f"[{place}]" for place in places.values()))
    for name, place in places.items():
        parser.add_argument_group(place, f"the {name}; the same as --{name} {place}")
    config_help = "a Python file with get_config(), which is run"
    if built_in:
        config_help = f"{', '.join(built_in)}, or {config_help}"
    parser.add_argument("--config", metavar="FILE", help=config_help)
    parser.add_argument("--force", action="store_true", help=force)
    for name, text in (switches or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    if distributed:
        text = f"one job of several processes: {FORM}; give every process the same options"
        parser.add_argument("--distributed", metavar="SETTING", default="", help=text)
    hints = typing.get_type_hints(kind)
    first_group = parser.add_argument_group("main options") if main else None
    group = parser.add_argument_group("more options" if main else "options of the config")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in [*main, *(name for name in fields if name not in main)]:
        if (convert := _converter(hints[name])) is None:
            continue
        value = getattr(config, name)
        default = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        (first_group if first_group and name in main else group).add_argument(
            "--" + name.replace("_", "-"),
            type=convert,
            default=argparse.SUPPRESS,
            metavar=_metavar(hints[name]),
            action=_Merge if hints[name] == _LISTS else "store",
            nargs="?" if hints[name] is bool else None,  # --flag is --flag true
            const=True if hints[name] is bool else None,
            help=(fields[name].metadata.get("help", "") + f" (default: {default})" * bool(default)).replace("%", "%%"),
        )
    # As an argument of argparse's, FILE would swallow the value after an option that does not exist.
    flags, unread = parser.parse_known_args(argv)
    overrides = {name: value for name, value in vars(flags).items() if name in fields}
    given = [name for name in files if name in overrides]
    for name in (name for name in files if name not in given):
        if unread and not unread[0].startswith("-"):
            overrides[name] = unread.pop(0)
    if unread and given and not unread[0].startswith("-"):
        parser.error(f"two files: {shown(unread[0])} and --{given[-1]} {shown(overrides[given[-1]])}")
    if unread:
        parser.error(f"unrecognized arguments: {' '.join(unread)}")
    return dataclasses.replace(config, **overrides), flags  # type: ignore[type-var]


def run_job(
    command: str,
    description: str,
    kind: type[Config],
    argv: Sequence[str],
    main: Sequence[str],
    work: Callable[[Config, bool], None],
) -> int:
    """Run a command that may run on several processes; exit status 2 and one line for a user's error.

    `work` takes the config, and whether `--force` is given; the rest is as in `parse`. JAX takes seconds to import, and
    the help and wrong options need none of it: it is imported after them, and `work` imports what uses it.
    """
    with exit_on_input_error(command):
        config, flags = parse(command, description, kind, argv, main, distributed=True)
        with silence(flags.quiet):
            from covjax.jobs.distributed import job

            with job(command, flags.distributed):
                work(config, flags.force)
    return 0


def _converter(hint: Any) -> Any:
    if hint is bool:
        return _boolean
    if hint in (str, int, float):
        return hint
    if hint in (dict[str, Any], _LISTS):
        return functools.partial(_or_argument_error, parse_lists if hint == _LISTS else parse_settings)
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType) and len(arguments) == 2 and arguments[1] is type(None):
        inner = _converter(arguments[0])
        return inner and _named(lambda text: None if text.lower() == "none" else inner(text), arguments[0])
    if typing.get_origin(hint) is tuple and len(set(arguments) - {...}) == 1 and (inner := _converter(arguments[0])):
        return _named(lambda text: tuple(inner(part) for part in text.split(",") if part), arguments[0])
    return None


def _metavar(hint: Any) -> str:
    if hint in _METAVARS:
        return _METAVARS[hint]
    first = _METAVARS[typing.get_args(hint)[0]]
    return f"{first},{first},…" if typing.get_origin(hint) is tuple else first


_LISTS = dict[str, tuple[Any, ...]]
_METAVARS: dict[Any, str] = {
    **{str: "TEXT", int: "N", float: "X", bool: "true|false"},
    **{dict[str, Any]: "NAME=VALUE:…", _LISTS: "NAME=VALUE,VALUE,…"},
}


def _named(convert: Any, kind: type) -> Any:
    convert.__name__ = kind.__name__  # argparse prints it: "invalid float value: 'x'"
    return convert


def _or_argument_error(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return text.lower() == "true"
