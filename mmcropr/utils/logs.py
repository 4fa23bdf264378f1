# Copyright (c) mmcropr contributors.
"""Short starts of a run, and errors of one line."""
import io
import logging
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import Any, Iterator, Type

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from .versions import check_hosts

# The log file has these; on the screen they hide what a run is about
LONG = ('\n---', 'Config:\n', 'Hooks will be executed')
# Said by the hosts in every run, and nothing to do about
NOISE = ('Could not import OneDL', 'The prefix is not set in metric class',
         '"FileClient" will be deprecated', '"HardDiskBackend" is the alias',
         'Distributed training is not used')
WARNINGS = ('Default ``avg_non_ignore`` is False', 'The draw is False',
            'faster_coco_eval is not installed')


class _Short(logging.Filter):

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(LONG + NOISE)


class ShortLogRunner(Runner):
    """mmengine's runner, whose environment, config and list of hooks go to
    the log file only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> logging.Logger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_Short())
        return logger


@contextmanager
def quiet() -> Iterator[None]:
    """Without what hosts print and log below an error."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def import_hosts(cfg: Config) -> None:
    """Import the packages a config needs, without what they always say.

    Raises:
        ImportError: Naming one that is not there.
    """
    for text in WARNINGS:
        warnings.filterwarnings('ignore', message=text)
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            check_hosts(cfg)
    finally:
        for line in said.getvalue().splitlines():
            if line and not line.startswith(NOISE):
                sys.stdout.write(f'{line}\n')


@contextmanager
def one_line_errors(debug: bool,
                    *kinds: Type[BaseException]) -> Iterator[None]:
    """End with ``error: ...`` as the last line, and exit code 1, where one of
    these errors is raised.

    Args:
        debug: Let it through, with its traceback.
        kinds: Classes of errors; every ``Exception`` by default.
    """
    try:
        yield
    except (kinds or Exception) as error:
        if debug:
            raise
        sys.stdout.flush()
        text = ' '.join(str(error).split()) or 'no message'
        # A plain message of ours needs no class; a host's KeyError does
        if not isinstance(error, (ValueError, FloatingPointError, OSError,
                                  ImportError)):
            text = f'{type(error).__name__}: {text}'
        sys.stderr.write(f'error: {text} (--debug shows where)\n')
        raise SystemExit(1) from error
