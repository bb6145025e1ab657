"""Lines of a node's log: their forms, who wrote them, and how that changes while it runs."""

import io
import json
import logging
import re

import pytest

from broker.config import BrokerConfig
from broker.logs import NodeLog, make_formatter
from broker.running import Operator
from dledger.errors import ConfigError

logger = logging.getLogger("broker.somewhere")


@pytest.fixture(autouse=True)
def _root_logger():
    """Leave the root logger as pytest has it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


@pytest.fixture
def stderr(capsys):
    """What went there so far, by `getvalue`."""

    class Written:
        text = ""

        def getvalue(self):
            self.text += capsys.readouterr().err
            return self.text

    return Written()


def test_a_plain_line_says_when_how_grave_who_in_which_term_where_and_what(stderr):
    log = NodeLog(BrokerConfig(), node_id="n1")
    logger.info("before")
    log.term_of = lambda: 7
    logger.warning("%d entries", 3)

    first, second = stderr.getvalue().splitlines()
    assert first.endswith("INFO    n1/- broker.somewhere: before")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING n1/7 broker.somewhere: 3 entries", second
    )


def test_json_has_a_field_for_each_and_the_traceback(stderr):
    log = NodeLog(BrokerConfig(log_format="json"), node_id="n1")
    log.term_of = lambda: 7
    logger.info('a "quoted" ü\nand a second line')
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it went wrong")

    first, second = map(json.loads, stderr.getvalue().splitlines())
    assert first == {
        "timestamp": first["timestamp"],
        "level": "info",
        "logger": "broker.somewhere",
        "node": "n1",
        "term": 7,
        "message": 'a "quoted" ü\nand a second line',
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
    assert "ValueError: broken" in second["exception"]
    assert second["level"] == "error"


def test_the_console_has_the_same_in_colours(stderr):
    NodeLog(BrokerConfig(log_format="console"), node_id="n1")
    logger.info("hello")

    text = stderr.getvalue()
    assert "hello" in text
    assert "n1" in text
    assert "\x1b[" not in text  # no terminal
    stream = io.StringIO()
    stream.isatty = lambda: True
    assert make_formatter("console", stream=stream) is not None


def test_only_lines_of_the_level_are_written_and_it_changes(stderr):
    log = NodeLog(BrokerConfig(log_level="warning"), node_id="n1")
    logger.info("not this")
    log.set_level("debug")
    logger.debug("but this")
    log.set_level("debug")  # nothing new, nothing told
    log.set_level("error")
    logger.warning("not this either")

    lines = [line.partition(": ")[2] for line in stderr.getvalue().splitlines()]
    assert lines == [
        "log level is debug, was warning",
        "but this",
        "log level is error, was debug",
    ]


def test_a_log_file_goes_on_in_a_new_one_when_it_was_moved(tmp_path, stderr):
    path = tmp_path / "node.log"
    log = NodeLog(BrokerConfig(log_file=str(path)), node_id="n1")
    logger.info("one")
    path.rename(tmp_path / "node.log.1")
    logger.info("two")
    log.reopen()
    logger.info("three")

    assert (tmp_path / "node.log.1").read_text().count("\n") == 2
    assert path.read_text().endswith("three\n")
    assert path.read_text().count("\n") == 1
    assert stderr.getvalue() == ""


def test_a_file_that_cannot_be_opened_again_leaves_the_old_one(tmp_path, stderr):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "node.log"
    log = NodeLog(BrokerConfig(log_file=str(path)), node_id="n1")
    moved = tmp_path / "moved"
    folder.rename(moved)

    log.reopen()
    logger.info("still here")

    text = (moved / "node.log").read_text()
    assert "cannot be opened again" in text
    assert "still here" in text


def test_a_reload_takes_the_level_of_the_file_or_says_why_not(stderr):
    log = NodeLog(BrokerConfig(), node_id="n1")
    levels = iter(["debug", ConfigError("node.toml: log_level = 'loud': use debug")])

    def read():
        found = next(levels)
        if isinstance(found, ConfigError):
            raise found
        return found

    operator = Operator(log=log, read_log_level=read)
    operator.reload()
    operator.reload()

    assert log.level == "debug"
    assert "the log level stays debug: node.toml: log_level = 'loud'" in stderr.getvalue()
