"""Groups by name, and which group a command speaks to."""

import json
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner

from broker.cli import completing
from broker.cli.contexts import Context, Contexts, contexts_path
from broker.cli.local_group import GroupPlan, LocalGroup
from broker.cli.main import cli
from broker.cli.servers import choose_group
from dledger.errors import ConfigError


def run(*arguments):
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_contexts_are_kept_in_the_folder_of_the_standard(tmp_path):
    assert contexts_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/dledger/contexts.json")
    assert contexts_path({}) == Path.home() / ".config/dledger/contexts.json"
    assert contexts_path({"XDG_CONFIG_HOME": "relative"}) == contexts_path({})


def test_a_context_is_added_used_shown_and_deleted(config_home):
    run("context", "add", "prod", "broker-1,broker-2:9999", "--description", "the real one")
    run("context", "add", "test", "10.0.0.1:9876", "--use")

    listed = json.loads(run("context", "list", "--json"))
    assert listed == [
        {
            "name": "prod",
            "servers": ["broker-1:9876", "broker-2:9999"],
            "description": "the real one",
            "in_use": False,
        },
        {"name": "test", "servers": ["10.0.0.1:9876"], "description": "", "in_use": True},
    ]
    assert "* " in run("context", "list")
    assert run("context", "show") == "10.0.0.1:9876  (from context test)\n"

    run("context", "use", "prod")
    assert choose_group().servers == ["broker-1:9876", "broker-2:9999"]
    run("context", "delete", "prod")
    assert Contexts.load().current is None
    assert list(Contexts.load().items) == ["test"]
    run("context", "use", "test")
    run("context", "use", "--none")
    assert choose_group().source == "the default"


def test_an_unknown_context_is_told_with_those_that_are_known():
    contexts = Contexts.load()
    contexts.add(Context(name="prod", servers=("a:1",)))
    contexts.save()

    with pytest.raises(ConfigError, match=r"--context: there is no context 'prood'.*prod"):
        choose_group(context="prood")


def test_a_damaged_file_is_named(config_home):
    path = config_home / "dledger" / "contexts.json"
    path.parent.mkdir()
    path.write_text('{"contexts": []}')

    with pytest.raises(ConfigError, match=r"contexts.json.*mend or delete"):
        Contexts.load()


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x"])
def test_a_name_is_one_word(name):
    with pytest.raises(ConfigError):
        Contexts.load().add(Context(name=name, servers=("a:1",)))


def test_the_nearest_word_on_the_group_counts(tmp_path, monkeypatch):
    """Option, variable, chosen context, local group, default: in this order."""
    monkeypatch.chdir(tmp_path)
    assert choose_group().source == "the default"
    LocalGroup.find_or_create(Path(".dledger"), GroupPlan(node_count=1, base_port=21_000))
    assert choose_group().servers == ["127.0.0.1:21000"]
    run("context", "add", "one", "one:1", "--use")
    run("context", "add", "two", "two:2")
    assert choose_group().servers == ["one:1"]
    monkeypatch.setenv("DLEDGER_CONTEXT", "two")
    assert choose_group().servers == ["two:2"]
    monkeypatch.setenv("DLEDGER_SERVER", "three:3;four:4")
    assert choose_group().servers == ["three:3", "four:4"]
    assert choose_group(data=Path(".dledger")).servers == ["127.0.0.1:21000"]
    assert choose_group(context="one").servers == ["one:1"]
    assert choose_group(server="five:5").servers == ["five:5"]


def test_two_words_on_the_group_are_wrong_usage():
    with pytest.raises(click.UsageError, match="one of --server, --data"):
        choose_group(server="a:1", data=Path("x"))


def test_names_are_completed():
    run("context", "add", "prod", "a:1")
    run("context", "add", "test", "a:1")

    done = CliRunner().invoke(
        cli, [], env={"_DLEDGER_COMPLETE": "bash_complete", "COMP_WORDS": "dledger context use p",
                      "COMP_CWORD": "3"}, prog_name="dledger",
    )  # fmt: skip
    assert done.stdout == "plain,prod\n"


def test_what_a_shell_may_complete_comes_from_the_group(monkeypatch):
    """Topics and consumer groups, of the group that the line names so far."""

    async def names(servers):
        return [f"orders@{','.join(servers)}", "other"]

    def ask(context, _):
        server = context.params["server"]
        return trio.run(names, [server])

    monkeypatch.setattr(completing, "_ask", ask)
    for words in ("tail -s a:1 or", "offset reset -s a:1 or", "consume -s a:1 -g or"):
        done = CliRunner().invoke(
            cli, [], env={"_DLEDGER_COMPLETE": "bash_complete", "COMP_WORDS": f"dledger {words}",
                          "COMP_CWORD": str(len(words.split()))}, prog_name="dledger",
        )  # fmt: skip
        assert done.stdout == "plain,orders@a:1\n", words


def test_a_group_that_does_not_answer_completes_nothing():
    context = click.Context(cli)
    context.params["server"] = "127.0.0.1:1"

    assert completing._topic_names(context) == []
