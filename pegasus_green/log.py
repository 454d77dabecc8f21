"""Logging setup for applications. The package itself only adds a NullHandler."""

from __future__ import annotations

import logging
import os

ROOT = "pegasus_green"

FILE = "pegasus.log"
MAX_BYTES = 100 * 1024 * 1024
BACKUPS = 10
FORMAT = "%(asctime)s [%(thread)d] [%(levelname)s] %(filename)s:%(lineno)d %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


def configure_logging(path: str | os.PathLike[str] | None = None) -> None:
    """Log as the official Python client (pypegasus) does, or as a configuration file says.

    Without a path, the logger ``pegasus_green`` appends records of level INFO and above to ``pegasus.log`` in the
    working directory. At 100 MiB a new file begins; 10 old files are kept. A second call replaces the handler of the
    first one.

    Args:
        path: A file in the format of ``logging.config.fileConfig``. That function evaluates parts of the file, so the
            file can run code. Loggers that the file does not name stay unchanged.

    Raises:
        OSError: The configuration file cannot be read, or the log file cannot be written.

    Example:
        >>> pegasus_green.configure_logging("logger.conf")
    """
    if path is not None:
        from logging.config import fileConfig

        with open(path, encoding="utf-8") as source:
            fileConfig(source, disable_existing_loggers=False)
        return
    from logging.handlers import RotatingFileHandler

    handler = RotatingFileHandler(FILE, "a", MAX_BYTES, BACKUPS)
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    handler.set_name(f"{ROOT}.default")
    logger = logging.getLogger(ROOT)
    for known in list(logger.handlers):
        if known.get_name() == handler.get_name():
            logger.removeHandler(known)
            known.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
