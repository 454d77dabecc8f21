"""Logging as the application asks for it; the package itself only has a NullHandler."""

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
    """Log as the documented client does, or as a file says.

    Without a path: level INFO into ``pegasus.log`` in the working directory, appended to, 100 MiB a file with 10 old
    ones kept, for the logger ``pegasus_green`` and nothing else. Called again, it replaces its own handler.

    Args:
        path: A file in the format of ``logging.config.fileConfig``. That function evaluates parts of what it reads,
            so the file must be as trusted as code. Loggers that the file does not name stay as they are.

    Raises:
        OSError: The given file cannot be read, or the log file cannot be written.

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
