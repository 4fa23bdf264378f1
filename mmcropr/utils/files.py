# Copyright (c) mmcropr contributors.
"""Files that are whole or not there, and folders with one run at a time."""
import errno
import fcntl
import os
import shutil
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator

# Suffixes of what OpenCV reads
IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def _exit(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


@contextmanager
def clean_exit() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that ``finally`` runs."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return
    old = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


@contextmanager
def written_whole(dst: Path) -> Iterator[Path]:
    """A path beside ``dst`` to write a file or folder to. It becomes ``dst``
    at the end of the block, and is removed if that ends early, by an error,
    Ctrl-C or SIGTERM.

    Args:
        dst: File, old or new, or a new folder. Its parents are made.
    """
    dst = Path(dst)
    dst.parent.mkdir(parents=True, exist_ok=True)
    part = dst.with_name(f'.{dst.name}.{os.getpid()}.part')
    with clean_exit():
        try:
            yield part
            os.replace(part, dst)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)


def claim_folder(folder: Path) -> IO:
    """Take a folder for one run until the returned file is closed, or the
    process ends in whatever way: the system gives the lock back.

    Raises:
        ValueError: If another process has it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = open(Path(folder, '.lock'), 'w')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return file  # a file system without locks cannot tell
        file.close()
        raise ValueError(
            f'another run is writing to {folder}: wait for it, or choose '
            'another folder with --work-dir.') from error
    return file


@contextmanager
def staged(dst: Path) -> Iterator[Path]:
    """A path of the name of ``dst`` in a folder of its own beside it. At the
    end of the block it and all files beside it there move next to ``dst``,
    which comes last; all are removed if the block ends early, by an error,
    Ctrl-C or SIGTERM.

    Args:
        dst: File, old or new. Its parents are made.
    """
    dst = Path(dst)
    dst.parent.mkdir(parents=True, exist_ok=True)
    folder = dst.with_name(f'.{dst.name}.{os.getpid()}.part')
    with clean_exit():
        try:
            folder.mkdir()
            yield folder / dst.name
            parts = [part for part in folder.iterdir()
                     if part.name != dst.name]
            for part in (*parts, folder / dst.name):
                os.replace(part, dst.with_name(part.name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
