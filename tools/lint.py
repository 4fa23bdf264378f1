# Copyright (c) mmcropr contributors.
"""Run all linters on the repository: flake8, isort, yapf (configs), codespell
and mypy with the settings of setup.cfg, and a look at the licence headers."""
import argparse
import subprocess
import sys
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parents[1]
HEADER = '# Copyright (c) mmcropr contributors.'
CODE = ['mmcropr', 'tools', 'tests', 'demo', 'docs', 'setup.py']
LINTERS = [
    ['flake8', *CODE],
    ['isort', '--check-only', '--diff', *CODE],
    ['yapf', '--diff', '--recursive', 'configs', 'setup.py'],
    ['codespell', *CODE, 'configs', 'README.md', 'CHANGELOG.md',
     'CONTRIBUTING.md'],
    ['mypy'],
]


def python_files(root: Path) -> List[Path]:
    """Those of the repository, but the configs, which are data."""
    found = []
    for name in CODE:
        path = root / name
        found += sorted(path.rglob('*.py')) if path.is_dir() else [path]
    return [p for p in found if '.mim' not in p.parts]


def without_header(files: List[Path]) -> List[Path]:
    """Files with code in them that do not begin with the licence header,
    behind a line that says what runs them."""
    bad = []
    for path in files:
        lines = path.read_text().splitlines()
        lines = lines[1:] if lines and lines[0].startswith('#!') else lines
        if lines and lines[0] != HEADER:
            bad.append(path)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--headers', nargs='*', type=Path, metavar='FILE',
        help='look at the headers of these files alone, without linters')
    args = parser.parse_args()
    files = python_files(ROOT) if args.headers is None else args.headers
    failed = []
    for path in without_header(files):
        print(f'{path}: does not begin with {HEADER!r}')
        failed = ['headers']
    for command in [] if args.headers is not None else LINTERS:
        done = subprocess.run([sys.executable, '-m', *module_of(command)],
                              cwd=ROOT)
        failed += [command[0]] * (done.returncode != 0)
    if failed:
        sys.exit(f'error: {", ".join(failed)} found something, see above')


def module_of(command: List[str]) -> List[str]:
    """A linter's command as arguments of ``python -m``."""
    return ['codespell_lib' if command[0] == 'codespell' else command[0],
            *command[1:]]


if __name__ == '__main__':
    main()
