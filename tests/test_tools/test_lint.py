# Copyright (c) mmcropr contributors.
"""What `make lint` looks at; the linters themselves run there."""
import subprocess
import sys

import yaml

from tests.utils import ROOT, load_tool

lint = load_tool('lint.py')


def test_headers(tmp_path):
    bad, good, empty = (tmp_path / f'{name}.py' for name in 'abc')
    bad.write_text('import os\n')
    good.write_text(f'#!/usr/bin/env python3\n{lint.HEADER}\n"""x"""\n')
    empty.write_text('')
    assert lint.without_header([bad, good, empty]) == [bad]
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools/lint.py'), '--headers', str(bad)],
        capture_output=True, text=True)
    assert done.returncode == 1
    assert 'error: headers' in done.stderr and str(bad) in done.stdout


def test_every_file_is_looked_at():
    files = lint.python_files(ROOT)
    names = {path.relative_to(ROOT).as_posix() for path in files}
    assert {'mmcropr/version.py', 'tools/lint.py', 'setup.py',
            'docs/site_hooks.py', 'demo/image_demo.py'} <= names
    assert not any('.mim' in name for name in names)
    assert lint.without_header(files) == []


def test_the_same_before_every_commit():
    """pre-commit runs what `make lint` runs, from the same environment."""
    text = (ROOT / '.pre-commit-config.yaml').read_text()
    hooks = yaml.safe_load(text)['repos'][0]['hooks']
    entries = [hook['entry'] for hook in hooks]
    for command in lint.LINTERS:
        assert f'python -m {lint.module_of(command)[0]}' in entries
    pins = (ROOT / 'requirements/default.txt').read_text()
    assert all(f'\n{command[0]}==' in pins for command in lint.LINTERS)
    assert 'tools/lint.py' in (ROOT / 'Makefile').read_text()
