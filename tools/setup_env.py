#!/usr/bin/env python3
# Copyright (c) mmcropr contributors.
"""Make a virtual environment in which mmcropr works, mmcv's ops included.

Needs only Python, git and a C++ compiler. Every step looks first whether its
result is there, so the command can be interrupted and run again. mmcv comes
as source: its wheel is built once, against the pinned torch, and kept in a
user cache (``$XDG_CACHE_HOME/mmcropr`` or ``~/.cache/mmcropr``).
"""
import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Dict, List, Optional

ROOT = Path(__file__).resolve().parents[1]
BUILD_TOOLS = ['wheel==0.45.1', 'ninja==1.13.0', 'psutil==7.1.0',
               'packaging==25.0']  # yapf: disable
STACKS = {
    'default': dict(mmcv='onedl-mmcv', pythons=('3.11', '3.12', '3.10')),
    'upstream': dict(mmcv='mmcv', pythons=('3.10', )),
}


def say(text: str) -> None:
    print(f'[setup] {text}', flush=True)


def fail(text: str) -> None:
    sys.exit(f'[setup] error: {text}')


def run(cmd: List[str], env: Optional[Dict[str, str]] = None) -> None:
    """Run ``cmd`` in the repository; stop with its exit code if it fails."""
    done = subprocess.run([str(c) for c in cmd], cwd=ROOT, env=env)
    if done.returncode:
        fail(f'`{" ".join(map(str, cmd))}` ended with exit code '
             f'{done.returncode}. Mend what it says above and run the same '
             'command again: finished steps are kept.')


def output(cmd: List[str]) -> str:
    """Standard output of ``cmd``, or '' if it cannot run."""
    try:
        return subprocess.run([str(c) for c in cmd], capture_output=True,
                              text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def python_version(python: str) -> str:
    """``'3.11'`` for a working interpreter, '' for anything else."""
    code = 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])'
    return output([python, '-c', code])


def find_python(wanted: Optional[str], versions: tuple) -> str:
    """An interpreter of one of ``versions``: as asked for, the running one,
    from PATH, or one that pyenv keeps."""
    if wanted:
        found = python_version(wanted)
        if found not in versions:
            fail(f'{wanted} is Python {found or "(not runnable)"}; this stack '
                 f'needs one of {", ".join(sorted(versions))}.')
        return wanted
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    candidates = [sys.executable] + [f'python{v}' for v in versions]
    for v in versions:
        candidates += sorted(pyenv.glob(f'versions/{v}.*/bin/python{v}'))
    for candidate in map(str, candidates):
        if python_version(candidate) in versions:
            return candidate
    fail(f'no Python {" or ".join(sorted(versions))} with venv was found. '
         'Install one (Debian/Ubuntu: the python3-venv package too) or name '
         'it: make ... PYTHON=/path/to/python')


def read_pins(stack: str) -> Dict[str, str]:
    """Requirement lines of a stack by distribution name."""
    pins = {}
    for line in (ROOT / f'requirements/{stack}.txt').read_text().splitlines():
        line = line.split('#')[0].strip()
        if line:
            pins[re.split(r'[=<>]', line)[0]] = line
    return pins


def make_venv(venv: Path, python: str, versions: tuple) -> Path:
    """Create ``venv`` unless a working one is there; return its python."""
    inner = venv / 'bin' / 'python'
    if python_version(str(inner)) in versions:
        return inner
    if venv.exists() and not (venv / 'pyvenv.cfg').exists() and any(
            venv.iterdir()):
        fail(f'{venv} exists and is no virtual environment; move it away or '
             'name another place: make ... VENV=DIR')
    say(f'creating {venv} with {python}')
    run([python, '-m', 'venv', '--clear', str(venv)])
    return inner


def pip(python: Path,
        *args: str,
        env: Optional[Dict[str, str]] = None) -> None:
    run([python, '-m', 'pip', '--disable-pip-version-check', *args], env=env)


def has_ops(wheel: Path) -> bool:
    """Whether an mmcv wheel was built with its compiled ops."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return any('mmcv/_ext' in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def mmcv_cache_key(python: Path, requirement: str) -> str:
    """Everything that a built mmcv depends on, as a folder name."""
    code = ('import sys, torch, platform; '
            'print("cp%d%d" % sys.version_info[:2], "torch" + '
            'torch.__version__, "cuda" + torch.version.cuda '
            'if torch.cuda.is_available() else "cpu", platform.machine())')
    return '-'.join([requirement.replace('==', '-')] +
                    output([python, '-c', code]).split())


def build_mmcv(python: Path, requirement: str) -> Path:
    """The cached wheel of mmcv with ops; built first if there is none."""
    base = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache'))
    cache = base / 'mmcropr' / 'wheels' / mmcv_cache_key(python, requirement)
    for wheel in cache.glob('*.whl'):
        if has_ops(wheel):
            say(f'mmcv with ops: cached, {wheel.name}')
            return wheel
    if not (shutil.which('c++') or shutil.which('g++')
            or os.environ.get('CXX')):
        fail('no C++ compiler found; mmcv needs one '
             '(Debian/Ubuntu: apt-get install g++).')
    say(f'building {requirement} with its ops; this happens once and takes '
        'about 8 minutes on 2 cores')
    cache.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with tempfile.TemporaryDirectory(dir=cache, prefix='build-') as tmp:
        env = dict(os.environ, MMCV_WITH_OPS='1',
                   MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count())))
        env['PATH'] = f'{python.parent}{os.pathsep}{env["PATH"]}'
        name = requirement.split('==')[0]
        pip(python, 'wheel', '--no-build-isolation', '--no-deps',
            '--no-cache-dir', '--no-binary', name, '-w', tmp, requirement,
            env=env)
        built = next(Path(tmp).glob('*.whl'))
        if not has_ops(built):
            fail(f'{built.name} was built without ops. Is torch importable '
                 f'in {python}?')
        wheel = cache / built.name
        os.replace(built, wheel)
    say(f'built {wheel.name} in {time.time() - start:.0f} s')
    return wheel


def stamp_text(stack: str, pins: Dict[str, str]) -> str:
    """What a finished set-up looked like; another text means run again."""
    digest = hashlib.sha256()
    for path in (Path(__file__), ROOT / 'setup.py', ROOT / 'requirements.txt'):
        digest.update(path.read_bytes())
    return '\n'.join([stack, str(ROOT), digest.hexdigest(), *pins.values()])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', choices=STACKS, default='default')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv')
    parser.add_argument('--python', help='interpreter to make it with')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    stack, pins = STACKS[args.stack], read_pins(args.stack)
    venv = args.venv.absolute()
    stamp = venv / f'mmcropr-{args.stack}.stamp'
    if stamp.exists() and stamp.read_text() == stamp_text(args.stack, pins):
        return
    if platform.system() == 'Windows':
        fail('Windows is not supported; use WSL.')
    python = make_venv(venv, find_python(args.python or None,
                                         stack['pythons']), stack['pythons'])
    say('installing torch and the build tools')
    pip(python, 'install', '-q', *BUILD_TOOLS, pins['setuptools'],
        pins['torch'], pins['torchvision'], pins['numpy'])
    wheel = build_mmcv(python, pins[stack['mmcv']])
    say('installing the OpenMMLab stack')
    rest = [pin for name, pin in pins.items() if name != stack['mmcv']]
    pip(python, 'install', '-q', str(wheel), *rest)
    pip(python, 'install', '-q', '--no-deps', '--no-build-isolation',
        '-e', str(ROOT))
    run([python, str(ROOT / 'tools/check_env.py')])
    stamp.write_text(stamp_text(args.stack, pins))


if __name__ == '__main__':
    main()
