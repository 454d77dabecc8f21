"""Test configure_logging: the documented default, or a configuration file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from pegasus_green import configure_logging

CONF = """
[loggers]
keys=root,ours
[handlers]
keys=file
[formatters]
keys=plain
[logger_root]
level=WARNING
handlers=
[logger_ours]
qualname=pegasus_green
level=DEBUG
handlers=file
[handler_file]
class=FileHandler
formatter=plain
args=('own.log', 'a')
[formatter_plain]
format=mine: %(message)s
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work in an empty directory and put the loggers back as they were."""
    monkeypatch.chdir(tmp_path)
    loggers = [logging.getLogger(), logging.getLogger("pegasus_green")]
    before = [(logger.level, list(logger.handlers), logger.propagate, logger.disabled) for logger in loggers]
    yield
    for logger, (level, handlers, propagate, disabled) in zip(loggers, before):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:] = handlers
        logger.level, logger.propagate, logger.disabled = level, propagate, disabled


def default_handlers() -> list[RotatingFileHandler]:
    return [h for h in logging.getLogger("pegasus_green").handlers if isinstance(h, RotatingFileHandler)]


def test_the_default_is_the_documented_one(tmp_path: Path) -> None:
    root_before = list(logging.getLogger().handlers)
    configure_logging()
    (handler,) = default_handlers()
    assert Path(handler.baseFilename) == tmp_path / "pegasus.log"
    assert (handler.mode, handler.maxBytes, handler.backupCount) == ("a", 100 * 1024 * 1024, 10)
    assert logging.getLogger("pegasus_green").level == logging.INFO
    assert logging.getLogger().handlers == root_before, "what the application logs is its own affair"
    logging.getLogger("pegasus_green.meta").info("hello %d", 7)
    logging.getLogger("pegasus_green.meta").debug("not this")
    line = (tmp_path / "pegasus.log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[\d+\] \[INFO\] test_log\.py:\d+ hello 7\n", line)


def test_it_appends_and_replaces_its_own_handler(tmp_path: Path) -> None:
    for number in range(3):
        configure_logging()
        logging.getLogger("pegasus_green").info("line %d", number)
    assert len(default_handlers()) == 1
    assert len((tmp_path / "pegasus.log").read_text().splitlines()) == 3


def test_a_configuration_file_is_used(tmp_path: Path) -> None:
    other = logging.getLogger("some.other.library")
    path = tmp_path / "logger.conf"
    path.write_text(CONF)
    configure_logging(path)
    logging.getLogger("pegasus_green.routing").debug("hello")
    assert (tmp_path / "own.log").read_text() == "mine: hello\n"
    assert not other.disabled, "loggers that the file does not name stay as they are"
    assert not (tmp_path / "pegasus.log").exists()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        configure_logging(str(tmp_path / "none.conf"))
    assert not default_handlers()
