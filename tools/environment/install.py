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
import shlex
import sys
from pathlib import Path
from typing import Dict, Optional

from .steps import ROOT, catch_signals, fail, output, pip, run, say
from .wheel import Target, find_target, get_mmcv, is_installed

BUILD_TOOLS = ['wheel==0.45.1', 'ninja==1.13.0', 'psutil==7.1.0',
               'packaging==25.0']  # yapf: disable
STACKS = {
    'default': dict(mmcv='onedl-mmcv', pythons=('3.11', '3.12', '3.10')),
    'upstream': dict(mmcv='mmcv', pythons=('3.10', )),
}


def python_version(python: str) -> str:
    """``'3.11'`` for a working interpreter, '' for anything else."""
    code = 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])'
    return output([python, '-c', code])


def find_python(expected: Optional[str], versions: tuple) -> str:
    """An interpreter of one of ``versions``: as asked for, the running one,
    from PATH, or one that pyenv keeps."""
    if expected:
        found = python_version(expected)
        if found not in versions:
            fail(f'{expected} is Python {found or "(not runnable)"}; this '
                 f'stack needs one of {", ".join(sorted(versions))}.')
        return expected
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


def stamp_text(stack: str, pins: Dict[str, str]) -> str:
    """What a finished set-up looked like, and for which kind of machine;
    another text means look again. GPUs are told by what their driver leaves
    in the file system: asking torch would take seconds."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in (*sorted(folder.glob('*.py')), ROOT / 'setup.py',
                 ROOT / 'requirements/runtime.txt'):
        digest.update(path.read_bytes())
    gpus = sorted(p.name for p in Path('/proc/driver/nvidia/gpus').glob('*'))
    wishes = [f'{name}={os.environ.get(name, "")}' for name in
              ('FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST', 'CUDA_VISIBLE_DEVICES')]
    return '\n'.join([stack, str(ROOT), digest.hexdigest(), *wishes,
                      f'gpus={gpus}', *pins.values()])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', choices=STACKS, default='default')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv')
    parser.add_argument('--python', help='interpreter to make it with')
    return parser.parse_args()


def install(args: argparse.Namespace) -> None:
    """Do what is not done yet."""
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
    pip(python, 'install', *BUILD_TOOLS, pins['setuptools'],
        pins['torch'], pins['torchvision'], pins['numpy'], what='torch')
    add_mmcv(python, pins[stack['mmcv']], find_target(python))
    say('installing the OpenMMLab stack')
    rest = [pin for name, pin in pins.items() if name != stack['mmcv']]
    pip(python, 'install', *rest, what='the OpenMMLab stack')
    pip(python, 'install', '--no-deps', '--no-build-isolation',
        '-e', str(ROOT), what='mmcropr')
    run([python, str(ROOT / 'tools/check_env.py')])
    stamp.write_text(stamp_text(args.stack, pins))
    say(f'to use it: . {shlex.quote(str(venv / "bin/activate"))}')


def add_mmcv(python: Path, requirement: str, target: Target) -> None:
    """Install mmcv with ops for this machine, unless it is there."""
    if is_installed(python, requirement, target):
        return
    wheel = get_mmcv(python, requirement, target)
    # The same version can be installed with other ops
    pip(python, 'install', '--no-deps', '--force-reinstall', str(wheel),
        what='mmcv')


def main() -> None:
    args = parse_args()
    catch_signals()
    try:
        install(args)
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else 2
        say('interrupted: finished steps are kept, the same command goes on')
        sys.exit(128 + number)


if __name__ == '__main__':
    main()
