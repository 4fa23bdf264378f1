# Copyright (c) mmcropr contributors.
"""mmcv with its compiled ops: built once per kind of machine, then cached."""
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Tuple

from .steps import ROOT, fail, output, pip, read_ninja, run, say

# What a built mmcv depends on, told by the environment that it is built in
TARGET = '''
import json, platform, sys, torch
gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
print(json.dumps(dict(
    tag='cp%d%d' % sys.version_info[:2], torch=torch.__version__,
    cuda=torch.version.cuda or '', hip=torch.version.hip or '',
    seen=['%d.%d' % torch.cuda.get_device_capability(i) for i in gpus],
    machine=platform.machine())))
'''
INSTALLED = '''
import json, sys
sys.path.append(sys.argv[1])
import check_env
version, error = check_env.load('mmcv')
error = error or check_env.check_ops() or check_env.check_ops_on_gpu()
print(json.dumps([version, error or '', '' if error else
                  check_env.cuda_of_ops()]))
'''
HOME = 'from torch.utils.cpp_extension import CUDA_HOME; print(CUDA_HOME)'


class Target(NamedTuple):
    """What mmcv's ops are built for.

    Attributes:
        tag: Python, as in ``cp311``.
        torch: Version of torch.
        cuda: CUDA that torch was built with, '' for none.
        hip: ROCm that torch was built with, '' for none.
        gpus: Whether torch sees a GPU.
        archs: CUDA architectures to compile for; empty for CPU only.
        machine: As in ``x86_64``.
    """
    tag: str
    torch: str
    cuda: str
    hip: str
    gpus: bool
    archs: Tuple[str, ...]
    machine: str

    def key(self, requirement: str) -> str:
        """Name of the folder of its wheel in the cache."""
        device = ['cpu']
        if self.archs:
            device = [f'rocm{self.hip}' if self.hip else f'cuda{self.cuda}',
                      'sm' + '_'.join(self.archs).replace('+', '')]
        return '-'.join([requirement.replace('==', '-'), self.tag,
                         f'torch{self.torch}', *device, self.machine])


def cuda_forced() -> bool:
    """Whether ops for GPUs are wanted on a machine that may have none; the
    variable is mmcv's own."""
    return os.environ.get('FORCE_CUDA', '0') == '1'


def listed_archs() -> Tuple[str, ...]:
    """The architectures that ``TORCH_CUDA_ARCH_LIST`` names."""
    text = os.environ.get('TORCH_CUDA_ARCH_LIST', '')
    names = set(re.split(r'[;\s]+', text)) - {'', 'native'}
    return tuple(sorted(names))


def find_target(python: Path) -> Target:
    """What the ops are for: the GPUs that torch sees, else the CPU.

    Raises:
        SystemExit: If torch cannot be imported, or ops for GPUs are forced
            and nothing says for which.
    """
    done = subprocess.run([str(python), '-c', TARGET], capture_output=True,
                          text=True)  # yapf: disable
    if done.returncode:
        fail(f'{python} cannot import torch: '
             f'{(done.stderr.strip() or "no reason given").splitlines()[-1]}')
    found = json.loads(done.stdout.splitlines()[-1])
    seen = found.pop('seen')
    archs = ()
    if seen or cuda_forced():
        archs = listed_archs() or tuple(sorted(set(seen)))
        if not archs:
            fail('FORCE_CUDA=1 without a GPU in sight: name the architectures '
                 'to compile for, such as TORCH_CUDA_ARCH_LIST="8.0;9.0" '
                 '(A100 and H100).')
    return Target(gpus=bool(seen), archs=archs, **found)


def check_nvcc(python: Path, target: Target) -> None:
    """Before minutes of compiling: is there an nvcc that goes with torch?

    Raises:
        SystemExit: If there is none, or of another major version: torch
            refuses to compile with it.
    """
    if not target.archs or target.hip:
        return
    if not target.cuda:
        fail(f'FORCE_CUDA=1, but torch {target.torch} was built without CUDA; '
             'install one that was, or leave FORCE_CUDA away.')
    home = Path(output([python, '-c', HOME]) or 'None')
    found = re.search(r'release (\d+)\.\d+',
                      output([home / 'bin/nvcc', '--version']))
    major = target.cuda.split('.')[0]
    if found and found[1] == major:
        return
    problem = (f'nvcc in {home / "bin"} is of CUDA {found[0][8:]}' if found
               else 'no nvcc was found, by CUDA_HOME or on PATH')
    fail(f"mmcv's ops for the GPU cannot be compiled: {problem}, and torch "
         f'{target.torch} needs CUDA {target.cuda} (any {major}.x will do); '
         'install that toolkit and set CUDA_HOME to its folder, or make an '
         'environment for the CPU only: CUDA_VISIBLE_DEVICES= FORCE_CUDA=0 '
         'make ...')


def has_ops(wheel: Path) -> bool:
    """Whether an mmcv wheel was built with its compiled ops."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return any('mmcv/_ext' in name for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def is_installed(python: Path, requirement: str, target: Target) -> bool:
    """Whether the environment's mmcv is the wanted one and works here."""
    if target.archs and not target.gpus:
        return False  # what ops are forced for shows in the cache alone
    text = output([python, '-c', INSTALLED, ROOT / 'tools'])
    if not text:
        return False
    version, error, cuda = json.loads(text.splitlines()[-1])
    return (version == requirement.split('==')[1] and not error
            and bool(cuda or not target.archs))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Let one set-up at a time build in ``folder``."""
    with open(folder / 'lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'waiting: another set-up is building in {folder}')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def cached(folder: Path) -> Optional[Path]:
    """The finished wheel in ``folder``."""
    return next(filter(has_ops, folder.glob('*.whl')), None)


def get_mmcv(python: Path, requirement: str, target: Target) -> Path:
    """The cached wheel of mmcv with ops; built first if there is none."""
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = base / 'mmcropr' / 'wheels' / target.key(requirement)
    wheel = cached(folder)
    if wheel is None:
        if not (shutil.which('c++') or shutil.which('g++')
                or os.environ.get('CXX')):
            fail('no C++ compiler found; mmcv needs one '
                 '(Debian/Ubuntu: apt-get install g++).')
        check_nvcc(python, target)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as lock:
            wheel = cached(folder)  # by whom it waited for
            if wheel is None:
                return build(python, requirement, target, folder, lock)
    say(f'mmcv with ops: cached, {wheel.name}')
    return wheel


def fetch(python: Path, requirement: str, source: Path) -> None:
    """Unpack mmcv's source to ``source``, whole or not at all."""
    with tempfile.TemporaryDirectory(
            dir=source.parent, prefix='fetch-') as tmp:
        pip(python, 'download', '--no-build-isolation', '--no-deps',
            '--no-binary', requirement.split('==')[0], '-d', tmp,
            requirement, what="mmcv's source")
        archive = next(Path(tmp).iterdir())
        shutil.unpack_archive(str(archive), f'{tmp}/unpacked')
        os.replace(next(Path(tmp, 'unpacked').iterdir()), source)


def build(python: Path, requirement: str, target: Target, folder: Path,
          lock: int) -> Path:
    """Build the wheel in ``folder``.

    Source and objects stay there until it is done: ninja goes on with what
    an earlier try left.
    """
    source, start = folder / 'source', time.time()
    kind = f'for GPUs {", ".join(target.archs)}' if target.archs else (
        'for the CPU only')
    goes_on = source.is_dir()
    say(f'{"going on" if goes_on else "beginning"} to build {requirement} '
        f'with its ops, {kind}; this happens once and takes about 8 minutes '
        'on 2 free cores')
    if not goes_on:
        fetch(python, requirement, source)
    env = dict(os.environ, MMCV_WITH_OPS='1',
               MAX_JOBS=os.environ.get('MAX_JOBS', str(os.cpu_count())),
               PATH=f'{python.parent}{os.pathsep}{os.environ["PATH"]}')
    log = folder / 'build.log'
    run([python, 'setup.py', 'bdist_wheel', '--dist-dir', folder / 'dist'],
        'building mmcv', read_ninja, log, f' All that was said: {log}. To '
        f'begin from nothing remove {source}.', source, env, (lock, ))
    built = next((folder / 'dist').glob('*.whl'))
    if not has_ops(built):
        fail(f'{built.name} was built without ops; see {log}.')
    wheel = folder / built.name
    os.replace(built, wheel)
    for rest in (source, folder / 'dist'):
        shutil.rmtree(rest)
    say(f'built {wheel.name} in {time.time() - start:.0f} s')
    return wheel
