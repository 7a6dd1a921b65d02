"""Configs from files and the command line; mistakes are one line and exit status 2."""

import dataclasses
import textwrap
from typing import Any

import pytest

from covjax.errors import InputError
from covjax.jobs import cli
from covjax.options import option


@dataclasses.dataclass(frozen=True)
class Example:
    name: str = option("a", "the name")
    size: int = option(3, "the size")
    grid: tuple[float, ...] = option((0.1, 1.0), "the grid")
    flag: bool = option(False, "the flag")
    limit: int | None = option(None, "the limit, 100 % optional")
    options: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"help": "the options"})


def parse(*argv):
    return cli.parse("prog", "A description.", Example, argv)


def test_defaults_and_overrides_of_every_type():
    assert parse()[0] == Example()
    config, flags = parse("--name", "b", "--size=5", "--grid", "1,2", "--flag", "true", "--limit", "7", "--force")
    assert config == Example("b", 5, (1.0, 2.0), True, 7)
    assert flags.force
    assert parse("--limit", "none")[0].limit is None
    assert parse("--options", "k=3:on=true:ranks=[1,2]:name=a=b")[0].options == {
        "k": 3,
        "on": True,
        "ranks": [1, 2],
        "name": "a=b",
    }


@pytest.mark.parametrize("separator", [" ", "="])
def test_values_may_begin_with_a_minus(separator):
    text = f"--grid{separator}-1e-3,-2 --size{separator}-7 --limit{separator}-1 --name{separator}-x.csv"
    assert parse(*text.split())[0] == Example("-x.csv", -7, (-1e-3, -2.0), False, -1)


def test_what_follows_is_no_value_where_it_is_an_option(capsys):
    for argv in (["--grid", "--size", "3"], ["--grid", "--sise"], ["--name", "-h"]):
        with pytest.raises(SystemExit, match="2"):
            parse(*argv)
        assert "expected one argument" in capsys.readouterr().err


def test_config_file_gives_the_defaults(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("from tests.test_cli import Example\n\ndef get_config():\n    return Example(size=9)\n")
    config, flags = parse("--config", str(path), "--name", "z")
    assert (config.size, config.name, flags.force) == (9, "z", False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sise", "3"], "unrecognized arguments: --sise 3"),
        (["--siz", "3"], "unrecognized arguments: --siz 3"),
        (["--size", "x"], "argument --size: invalid int value: 'x'"),
        (["--grid", "1,x"], "argument --grid: invalid float value: '1,x'"),
        (["--flag", "yes"], "unrecognized arguments: yes"),
        (["--options", "k=3:on"], "expected option=value, got 'on'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, argv, message):
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("x = 1", "defines no get_config"),
        ("def get_config():\n    return 3", "returned int, not Example"),
        ("from tests.test_cli import Example\ndef get_config():\n    return Example(sise=1)", "'sise'"),
        ("def get_config(:", "invalid syntax"),
    ],
)
def test_bad_config_files_are_named(tmp_path, text, message):
    path = tmp_path / "c.py"
    if text is not None:
        path.write_text(textwrap.dedent(text))
    with pytest.raises(InputError, match=message) as caught:
        cli.load_config(path, Example)
    assert "c.py" in str(caught.value)


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Example):
        assert f"--{field.name}" in shown
        assert field.metadata["help"] in shown
    assert "(default: 0.1,1.0)" in shown
    assert "Python file with get_config(), which is run" in shown


def test_only_input_errors_lose_their_traceback(capsys):
    with pytest.raises(SystemExit) as caught, cli.exit_on_input_error("prog"):
        raise InputError("file.csv: row 3: bad")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "prog: error: file.csv: row 3: bad\n"
    with pytest.raises(ZeroDivisionError), cli.exit_on_input_error("prog"):
        1 / 0  # noqa: B018


@dataclasses.dataclass(frozen=True)
class WithData:
    data: str = option("", "the data")
    size: int = option(3, "the size")


@pytest.mark.parametrize(
    "argv",
    [
        ["my.csv"],
        ["--data", "my.csv"],
        ["my.csv", "--size", "4"],
        ["--size", "4", "my.csv"],
        ["--force", "my.csv", "--size=4"],
    ],
)
def test_a_file_without_an_option_is_the_data(argv):
    config, _ = cli.parse("prog", "A description.", WithData, argv, main=("data",))
    assert config == WithData("my.csv", 4 if any("size" in each for each in argv) else 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a.csv", "--data", "b.csv"], "two files: 'a.csv' and --data 'b.csv'"),
        (["a.csv", "b.csv"], "unrecognized arguments: b.csv"),
        (["--sise", "3", "a.csv"], "unrecognized arguments: --sise 3 a.csv"),
        (["a.csv", "--sise", "3"], "unrecognized arguments: --sise 3"),
    ],
)
def test_one_file_and_no_unknown_option(capsys, argv, message):
    with pytest.raises(SystemExit, match="2"):
        cli.parse("prog", "A description.", WithData, argv, main=("data",))
    assert capsys.readouterr().err == f"prog: error: {message} (see --help)\n"


def test_a_command_without_a_file_takes_none(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("my.csv")
    assert "unrecognized arguments: my.csv" in capsys.readouterr().err
