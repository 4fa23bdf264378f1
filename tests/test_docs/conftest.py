# Copyright (c) mmcropr contributors.
"""A project outside of ours: an empty folder with data, and mmcropr as a
wheel."""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.utils import ROOT

PACKAGED = ('mmcropr', 'configs', 'tools', 'demo', 'requirements', 'setup.py',
            'model-index.yml', 'README.md', 'LICENSE', 'MANIFEST.in')
LEFT_OUT = shutil.ignore_patterns('__pycache__', '.mim')
Shell = Callable[[str], str]


@pytest.fixture(scope='session')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that mmcropr is installed in, from a wheel."""
    source = tmp_path_factory.mktemp('source')
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=LEFT_OUT)
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w',
                    str(source / 'dist'), str(source)], check=True)
    target = tmp_path_factory.mktemp('site')
    file, = (source / 'dist').glob('mmcropr-*.whl')
    subprocess.run([*pip, 'install', '--no-deps', '--target', str(target),
                    str(file)], check=True)
    return target


@pytest.fixture(scope='session')
def project(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """An empty folder with a user's data in it."""
    folder = tmp_path_factory.mktemp('project')
    (folder / 'data').mkdir()
    for name in ('my_scenes', 'my_instances'):
        (folder / 'data' / name).symlink_to(digits)
    for split in ('train', 'val'):
        images = sorted((digits / 'images' / split).glob('*.png'))
        for number in range(10):
            place = folder / f'data/my_classes/{split}/digit-{number}'
            place.mkdir(parents=True)
            shutil.copy(images[number % len(images)], place)
    return folder


@pytest.fixture(scope='session')
def shell(project: Path, wheel: Path) -> Shell:
    """Runs a command as a user would in the project; gives what it says."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    env = dict(os.environ, PATH=path, PYTHONPATH=str(wheel),
               MMCROPR=str(ROOT), OMP_NUM_THREADS='1')

    def run(command: str) -> str:
        done = subprocess.run(['bash', '-c', command], cwd=project, env=env,
                              capture_output=True, text=True)
        assert done.returncode == 0, (
            f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}')
        return done.stdout

    return run
