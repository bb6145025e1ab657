"""Whatever goes wrong in the world ends as one line and an exit code."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from broker.cli.main import SECTIONS, cli, command_names, main
from broker.client.errors import NoBrokerError
from dledger.errors import ConfigError
from dledger.remoting.errors import AddressInUseError
from tests.fakes.children import child


def run(monkeypatch, capsys, error):
    """Run a command that raises *error*; return exit code and what stands on stderr."""

    @click.command()
    def fails():
        raise error

    monkeypatch.setattr(cli, "get_command", lambda *_: fails)
    with pytest.raises(SystemExit) as ended:
        main(["fails"])
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("no good"),
        NoBrokerError("no good"),
        AddressInUseError("no good"),
        BaseExceptionGroup("", [BaseExceptionGroup("", [ConfigError("no good")])]),
    ],
)
def test_what_may_be_expected_is_one_line(monkeypatch, capsys, error):
    assert run(monkeypatch, capsys, error) == (1, "dledger: no good\n")


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])]
)
def test_ctrl_c_is_quiet(monkeypatch, capsys, error):
    code, said = run(monkeypatch, capsys, error)

    assert (code, said.strip()) == (130, "")


@pytest.mark.parametrize("error", [ValueError("ours"), ExceptionGroup("", [ValueError("ours")])])
def test_our_own_mistakes_keep_their_traceback(monkeypatch, error):
    monkeypatch.setattr(cli, "get_command", lambda *_: click.Command("x", callback=_raise(error)))

    with pytest.raises(type(error)):
        main(["x"])


def _raise(error):
    def callback():
        raise error

    return callback


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["log", "dump"], ["up", "--nodes", "2"], ["produce", "t", "b", "-f", "x"]],
)
def test_wrong_usage_is_two(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "Usage: dledger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "slip", "meant"),
    [(["statsu"], "statsu", "status"), (["node", "statr"], "statr", "start")],
)
def test_a_slip_of_the_finger_is_answered_with_what_was_meant(capsys, arguments, slip, meant):
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert f"No such command '{slip}'. Did you mean {meant}?" in capsys.readouterr().err


def test_the_cheat_sheet_shows_a_task_and_heeds_no_color(monkeypatch):
    colourful = CliRunner().invoke(cli, ["cheat", "find"], color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    plain = CliRunner().invoke(cli, ["cheat", "find"], color=True).stdout

    assert "\x1b[" in colourful
    assert "\x1b[" not in plain
    assert plain.splitlines()[:3] == [
        "find", "  # by key", "  dledger message by-key orders order-17",
    ]  # fmt: skip
    assert "dledger produce" in CliRunner().invoke(cli, ["cheat"]).stdout


def test_every_command_can_be_loaded_and_explains_itself(capsys):
    for name in command_names():
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code in (0, None)
        assert "Usage: dledger" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """`dledger ... | head -1` ends quietly, also when the rest is written later."""
    script = "from broker.cli.main import main; main(['--help'])"
    with child("-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()

    assert error == b""


def test_the_list_of_commands_says_what_each_says_itself():
    context = click.Context(cli)
    for section in SECTIONS.values():
        for name, (_, words) in section.items():
            command = cli.get_command(context, name)
            assert words == command.help.partition("\n\n")[0].replace("\n", " "), name


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_load_no_engine(option):
    """They come at once: nothing is imported that they do not need."""
    script = (
        "import sys\n"
        "from broker.cli.main import main\n"
        f"try:\n    main(['{option}'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'trio', 'numpy', 'pysyncobj', 'rich', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"


def test_a_server_that_is_no_address_is_a_wrong_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["status", "-s", "nonsense:port"])
    assert ended.value.code == 2
    assert "--server: address 'nonsense:port': write host:port" in capsys.readouterr().err


def test_starting_a_node_loads_no_client():
    """It took 2.5 MiB of every node for as long as it ran."""
    script = (
        "import sys\n"
        "import click\n"
        "from broker.cli.main import cli\n"
        "for name in ('node', 'start'): cli = cli.get_command(click.Context(cli), name)\n"
        "import broker.logs, broker.running\n"
        "print([name for name in ('broker.client', 'broker.cli.ask', 'rich')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
