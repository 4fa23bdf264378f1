#!/usr/bin/env python3
# Copyright (c) mmcropr contributors.
"""Say whether this environment can run mmcropr, and how to mend it.

Prints every version that matters, whether mmcv's compiled ops load, and for
each problem the command that solves it. Exit code 0 only if all is well.
"""
import importlib
import importlib.metadata
import platform
import subprocess
import sys
import warnings
from typing import List, Optional, Tuple

SETUP = 'python tools/setup_env.py'
OPS = ('pip uninstall -y mmcv onedl-mmcv; MMCV_WITH_OPS=1 pip install '
       '--no-build-isolation --no-cache-dir {dist} (torch, ninja, psutil, '
       'packaging, wheel and setuptools<81 must be installed), or a fresh '
       f'environment: {SETUP}')
# import name, what it is for, whether it must be there, how to get it
PACKAGES = [
    ('torch', 'everything', True, 'pip install torch==2.12.1'),
    ('torchvision', 'timm', True, 'pip install torchvision==0.27.1 (the '
     'release that belongs to the installed torch)'),
    ('timm', 'the ViTs', True, 'pip install "timm>=1.0.20"'),
    ('mmengine', 'everything', True, 'pip install onedl-mmengine==0.10.12'),
    ('mmcv', 'everything', True, OPS.format(dist='onedl-mmcv==2.3.6')),
    ('mmseg', 'segmentation', False, 'pip install '
     'onedl-mmsegmentation==1.4.2'),
    ('mmdet', 'detection', False, 'pip install onedl-mmdetection==3.5.1'),
    ('mmpretrain', 'classification', False, 'pip install '
     'onedl-mmpretrain==1.3.6'),
    ('mmcropr', 'this package', True, 'pip install --no-deps -e .'),
    ('sklearn', 'digits scenes', False, 'pip install scikit-learn'),
    ('skimage', 'digits in photographs', False, 'pip install scikit-image'),
    ('pycocotools', 'digits scenes, COCO', False, 'pip install pycocotools'),
]
HOSTS = ('mmseg', 'mmdet', 'mmpretrain')
# Both stacks have the same import names: one must not overwrite the other
UPSTREAM = {
    'onedl-mmengine==0.10.12': 'mmengine==0.10.7',
    'onedl-mmcv==2.3.6': 'mmcv==2.1.0',
    'onedl-mmsegmentation==1.4.2': 'mmsegmentation==1.2.2',
    'onedl-mmdetection==3.5.1': 'mmdet==3.3.0',
    'onedl-mmpretrain==1.3.6': 'mmpretrain==1.2.0',
}


def is_upstream() -> bool:
    """Whether OpenMMLab's own packages are installed, not the forks."""
    names = {d.metadata['Name'] for d in importlib.metadata.distributions()}
    return 'mmengine' in names and 'onedl-mmengine' not in names


def for_this_stack(remedy: str) -> str:
    """A remedy in the names of the packages that are installed here."""
    if is_upstream():
        for fork, upstream in UPSTREAM.items():
            remedy = remedy.replace(fork, upstream)
    return remedy


def load(name: str) -> Tuple[Optional[str], str]:
    """Version of a package, and why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            module = importlib.import_module(name)
    except Exception as error:  # a broken package may raise anything
        return None, f'{type(error).__name__}: {error}'.splitlines()[0]
    return getattr(module, '__version__', 'unknown'), ''


def check_ops() -> str:
    """'' if mmcv's compiled ops work, else what is wrong."""
    try:
        import torch
        from mmcv.ops import nms
        boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.9]])
        kept = nms(boxes, torch.tensor([.9, .8]), .5)[1]
        return '' if kept.tolist() == [0] else 'nms gave a wrong result'
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]


def cuda_of_ops() -> str:
    """CUDA version that mmcv's ops were compiled with, '' for the CPU
    alone."""
    from mmcv.ops import get_compiling_cuda_version
    version = get_compiling_cuda_version()
    return '' if 'not' in version.lower() else version


def check_ops_on_gpu() -> str:
    """'' if mmcv's ops work on the GPU in sight, or there is none; ops built
    on a login node without one do not."""
    import torch
    if not torch.cuda.is_available():
        return ''
    try:
        from mmcv.ops import nms
        boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.9]]).cuda()
        kept = nms(boxes, torch.tensor([.9, .8]).cuda(), .5)[1]
        return '' if kept.tolist() == [0] else 'nms gave a wrong result'
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]


def unseen_gpu() -> bool:
    """Whether the driver sees a GPU that the installed torch cannot use."""
    import torch
    if torch.cuda.is_available() or torch.version.cuda is not None:
        return False
    try:
        return subprocess.run(['nvidia-smi', '-L'],
                              capture_output=True).returncode == 0
    except OSError:
        return False


def check_vision() -> str:
    """'' if torchvision belongs to the installed torch."""
    try:
        import torch
        from torchvision.ops import nms
        nms(torch.tensor([[0., 0., 1., 1.]]), torch.tensor([1.]), .5)
        return ''
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]


def compiler() -> str:
    for name in ('c++', 'g++'):
        try:
            text = subprocess.run([name, '--version'], capture_output=True,
                                  text=True, check=True).stdout
            return text.splitlines()[0]
        except (OSError, subprocess.CalledProcessError):
            continue
    return 'none (only needed to build mmcv)'


def device() -> str:
    import torch
    if not torch.cuda.is_available():
        return 'no CUDA device, CPU only'
    return (f'{torch.cuda.get_device_name()} (CUDA {torch.version.cuda}, '
            f'cuDNN {torch.backends.cudnn.version()})')


def check_packages() -> Tuple[dict, List[Tuple[str, str]]]:
    """Print all versions; return them and (problem, remedy) pairs."""
    versions, problems = {}, []
    for name, purpose, required, remedy in PACKAGES:
        version, error = load(name)
        versions[name] = version
        print(f'  {name:<12} {version or "-":<16} {purpose}')
        if version is None and not required:
            print(f'{"":<32}to add it: {for_this_stack(remedy)}')
        installed = not error.startswith(f"ModuleNotFoundError: No module "
                                         f"named '{name}'")
        if version is None and (required or installed):
            problems.append((f'{name}: {error}', remedy))
    if not any(versions[host] for host in HOSTS):
        problems.append(('none of mmseg, mmdet and mmpretrain is there',
                         PACKAGES[5][3]))
    return versions, problems


def main() -> None:
    print(f'Python {platform.python_version()} at {sys.executable}')
    versions, problems = check_packages()
    if versions['torch'] and versions['torchvision']:
        error = check_vision()
        if error:
            problems.append((f'torchvision {versions["torchvision"]} does not '
                             f'go with torch {versions["torch"]}: {error}',
                             PACKAGES[1][3]))
    if versions['mmcv']:
        error = check_ops()
        kind = f'for CUDA {cuda_of_ops()}' if (
            not error and cuda_of_ops()) else 'for the CPU only'
        gpu_error = '' if error else check_ops_on_gpu()
        print('  mmcv ops     ' + ('BROKEN' if error or gpu_error else
                                   f'load and work, {kind}'))
        if error:
            problems.append((f'mmcv {versions["mmcv"]} has no working '
                             f'compiled ops: {error}', PACKAGES[4][3]))
        if gpu_error:
            problems.append((
                f'mmcv {versions["mmcv"]} has ops {kind}, and they do not '
                f'work on the GPU of this machine: {gpu_error}',
                PACKAGES[4][3].replace('MMCV_WITH_OPS=1',
                                       'FORCE_CUDA=1 MMCV_WITH_OPS=1')))
    print(f'  compiler     {compiler()}')
    if versions['torch']:
        print(f'  device       {device()}')
        if unseen_gpu():
            print(f'{"":15}nvidia-smi sees a GPU, and this torch was built '
                  'without CUDA: install one that was to use it')
    for problem, remedy in problems:
        print(f'\nPROBLEM: {problem}\n  mend it: {for_this_stack(remedy)}')
    print('\nThis environment works.' if not problems else
          f'\n{len(problems)} problem(s). A fresh environment with everything '
          f'pinned: {SETUP}')
    sys.exit(1 if problems else 0)


if __name__ == '__main__':
    main()
