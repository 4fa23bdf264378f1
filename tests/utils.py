# Copyright (c) mmcropr contributors.
"""Shared by the tests: reference vectors, tiny models, tools as modules."""
import contextlib
import importlib.util
import inspect
import io
import json
import multiprocessing.connection
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Optional, Sequence, Tuple
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from safetensors import safe_open
from torch import Tensor

from mmcropr.models.reducers import TokenReducer
from mmcropr.registry import MODELS
from mmcropr.structures import Origin, TokenState

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / 'tests/data/vectors'
# Every registered method, those of a new file too
REDUCERS = sorted(
    name for name, cls in MODELS.module_dict.items()
    if isinstance(cls, type) and issubclass(cls, TokenReducer)
    and not inspect.isabstract(cls))
TINY = dict(family='vit', embed_dim=32, depth=4, num_heads=2)
TINY_EVA = dict(
    family='eva',
    embed_dim=32,
    depth=4,
    num_heads=2,
    qkv_fused=False,
    swiglu_mlp=True,
    scale_mlp=True,
    use_rot_pos_emb=True)


def forget_globals() -> None:
    """Forget mmengine's scopes, loggers, visualizers and hubs: it keeps them
    by name, and a second run in one process would log into the first's."""
    managers = [DefaultScope, MessageHub, MMLogger, Visualizer]
    for manager in managers:
        managers += manager.__subclasses__()
        manager._instance_dict.clear()


def run_tool(*args: Any, fresh: bool = False, ranks: int = 1,
             **env: str) -> subprocess.CompletedProcess:
    """Run a command in the repository, as users start it. A tool of ours
    without an environment of its own is a fork of a process that has
    everything imported, which takes seconds, and has run nothing; ``fresh`` is
    without that. ``ranks`` are the processes of one job."""
    fresh = fresh or bool(env)
    path = str(Path(sys.executable).parent)
    env = dict(os.environ, PATH=f'{path}{os.pathsep}{os.environ["PATH"]}',
               OMP_NUM_THREADS='1', **env)  # yapf: disable
    args = tuple(map(str, args))
    ours = args[0] == sys.executable and args[1].startswith('tools/')
    if ours and not fresh:
        return run_forked(args, env, ranks)
    if ranks > 1:
        raise ValueError('ranks are forks: of a tool of ours, without an '
                         'environment of its own')
    return subprocess.run(args, capture_output=True, text=True, cwd=ROOT,
                          env=env)


def run_forked(args: Tuple[str, ...], env: Dict[str, str],
               ranks: int) -> subprocess.CompletedProcess:
    """Run ``python script.py …`` in forks of a process with all imports. Of
    several ranks each has the variables that torchrun would give it."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([
        'tests.utils', 'mmcropr.models', 'mmcropr.engine',
        'mmcropr.evaluation', 'mmcropr.datasets', 'mmcropr.visualization'])
    if ranks > 1:
        args = (*args, '--launcher', 'pytorch')
        env = dict(env, WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1',
                   MASTER_PORT=str(free_port()))
    with tempfile.TemporaryDirectory() as folder:
        files = [[str(Path(folder, f'{name}{rank}')) for rank in range(ranks)]
                 for name in ('stdout', 'stderr')]
        processes = [
            context.Process(target=be_script, args=(
                args[1:], dict(env, RANK=str(rank), LOCAL_RANK=str(rank))
                if ranks > 1 else env, own))
            for rank, own in enumerate(zip(*files))]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            multiprocessing.connection.wait(
                [x.sentinel for x in processes if x.is_alive()])
            if any(process.exitcode for process in processes):
                for process in processes:  # the others would wait for it
                    process.join(20)
                    process.terminate()
        said = (''.join(Path(file).read_text() for file in of_all)
                for of_all in files)
        codes = [process.exitcode for process in processes]
        return subprocess.CompletedProcess(args, max(codes, key=abs), *said)


def be_script(words: Sequence[str], env: Dict[str, str],
              files: Sequence[str]) -> None:
    """What a fork does: the streams go to files, then the script runs."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(n, 'w', closefd=False) for n in (1, 2))
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = list(words)
    sys.path.insert(0, str((ROOT / words[0]).parent))
    try:
        runpy.run_path(words[0], run_name='__main__')
    finally:
        sys.stdout.flush()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def run_main(path: str, *args: Any) -> subprocess.CompletedProcess:
    """As :func:`run_tool` with a script under ``tools/``, in this process,
    which has everything imported; for what starts afresh in a new one, such
    as signals and several processes, take the other."""
    forget_globals()
    tool, said, code = load_tool(path), io.StringIO(), 0
    with mock.patch.object(sys, 'argv', [path, *map(str, args)]), \
            contextlib.redirect_stderr(said):
        try:
            tool.main()
        except SystemExit as stop:
            code = stop.code
    return subprocess.CompletedProcess(args, code, None, said.getvalue())


def load_tool(path: str) -> ModuleType:
    """Import a script under ``tools/`` as a module."""
    name = 'tool_' + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_vectors(name: str) -> Tuple[Dict[str, Any], Dict[str, Tensor]]:
    """Config and tensors of ``tests/data/vectors/<name>.safetensors``."""
    with safe_open(VECTORS / f'{name}.safetensors', 'pt') as file:
        config = json.loads(file.metadata()['config'])
        return config, {key: file.get_tensor(key) for key in file.keys()}


def group(tensors: Dict[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """Entries under a prefix, without it."""
    return {
        key[len(prefix):]: value
        for key, value in tensors.items() if key.startswith(prefix)
    }


def check_close(found: Tensor, wanted: Tensor, what: str = '') -> None:
    """Equal to 1e-4 of the largest reference value."""
    scale = wanted.abs().max().clamp(min=1e-6)
    error = ((found - wanted).abs().max() / scale).item()
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    assert error < 1e-4, (what, error)


def make_state(batch: int = 2,
               grid: Tuple[int, int] = (3, 5),
               num_prefix: int = 2,
               dim: int = 4,
               image: Optional[Tensor] = None,
               image_size: Optional[Tuple[int, int]] = None) -> TokenState:
    """Random tokens (zeros beside an image of one's own), of no backbone."""
    h, w = grid
    shape = (batch, num_prefix + h * w, dim)
    x = torch.randn(shape) if image is None else torch.zeros(shape)
    if image is None:
        image = torch.zeros(batch, 3, 2 * h, 2 * w)
    size = image_size or tuple(image.shape[-2:])
    return TokenState(
        x,
        Origin(
            grid=grid, num_prefix=num_prefix, image=image, image_size=size))


def randomise_layer_scale(vit: torch.nn.Module) -> None:
    """LayerScale away from its tiny first values, so that losing it shows."""
    for name, parameter in vit.named_parameters():
        if 'gamma' in name:
            torch.nn.init.uniform_(parameter, 0.3, 1.5)


def _merge(cfg: Config, sizes: dict, work_dir: Path, options: dict) -> None:
    """Small sizes, 2 epochs, every iteration logged, and what a test asks."""
    cfg.merge_from_dict({
        'work_dir': str(work_dir),
        'randomness.seed': 0,
        'train_cfg.max_epochs': 2,
        'train_cfg.val_interval': 2,
        'param_scheduler.1.end': 2,
        'default_hooks.logger.interval': 1,
        **sizes,
        **{key.replace('__', '.'): value for key, value in options.items()},
    })


def tiny_digits_config(digits: Path, work_dir: Path, **options: Any) -> Config:
    """The Cropr config of the digits scenes, shrunk to 64 px images, a model
    of 6 blocks and 4 modules, 2 epochs of 4 iterations, without augmentation.

    Args:
        digits: Folder of the scenes.
        work_dir: Of the run.
        options: Further dotted settings, with '__' for the dots.
    """
    name = 'cropr-r30_digits-eva_linear_1xb32-15e_digits-scenes-96x96.py'
    cfg = Config.fromfile(ROOT / 'configs/cropr' / name)
    _merge(cfg, {
        'model.data_preprocessor.size': (64, 64),
        'model.backbone.img_size': 64,
        'model.backbone.arch.embed_dim': 32,
        'model.backbone.arch.num_heads': 2,
        'model.backbone.reducer.rate': 12,
        'model.backbone.reducer.num_queries': 64,
        'model.decode_head.in_channels': 32,
        'model.auxiliary_head.in_channels': 32,
    }, work_dir, options)
    _use_data(cfg, digits)
    return cfg


def tiny_detector_config(digits: Path, work_dir: Path,
                         **options: Any) -> Config:
    """The Cropr Mask R-CNN of the digits scenes, shrunk as
    :func:`tiny_digits_config` is.

    Args:
        digits: Folder of the scenes.
        work_dir: Of the run.
        options: Further dotted settings, with '__' for the dots.
    """
    name = 'mask-rcnn_digits-eva_1xb16-6e_digits-scenes-96x96.py'
    cfg = Config.fromfile(ROOT / f'configs/cropr/cropr-keep72-24_{name}')
    backbone = 'model.detector.backbone'
    _merge(cfg, {
        f'{backbone}.img_size': 64,
        f'{backbone}.arch.embed_dim': 32,
        f'{backbone}.arch.num_heads': 2,
        f'{backbone}.reducer.keep': [40, 16],
        'model.detector.neck.1.in_channels': 32,
        'model.auxiliary_head.in_channels': 32,
    }, work_dir, options)
    del cfg.model.detector.init_cfg
    _use_data(cfg, digits)
    cfg.val_evaluator.ann_file = str(
        digits / 'annotations/instances_val.json')
    cfg.test_evaluator = cfg.val_evaluator
    return cfg


def tiny_classifier_config(digits: Path, work_dir: Path,
                           **options: Any) -> Config:
    """The Cropr classifier of the digits, shrunk as
    :func:`tiny_digits_config` is.

    Args:
        digits: Folder of the scenes.
        work_dir: Of the run.
        options: Further dotted settings, with '__' for the dots.
    """
    name = 'cropr-tpr78_digits-eva_1xb32-8e_digits-classes-96x96.py'
    cfg = Config.fromfile(ROOT / 'configs/cropr' / name)
    _merge(cfg, {
        'model.backbone.img_size': 64,
        'model.backbone.arch.embed_dim': 32,
        'model.backbone.arch.num_heads': 2,
        'model.backbone.reducer.keep': [40, 24, 16],
        'model.head.in_channels': 32,
    }, work_dir, options)
    del cfg.model.init_cfg
    _use_data(cfg, digits)
    return cfg


def _use_data(cfg: Config, digits: Path) -> None:
    """Small batches of other scenes, without augmentation."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = str(digits)
        cfg[loader].dataset.pipeline = [
            dict(step, scale=(64, 64)) if step.type == 'Resize' else step
            for step in cfg.test_pipeline]
        cfg[loader].batch_size = min(cfg[loader].batch_size, 4)


# Sizes of mmdet's heads, so that a test takes a second
SMALLER = {
    'num_queries': 20, 'num_layers': 1, 'num_dn_queries': 10,
    'feedforward_channels': 64, 'stacked_convs': 1, 'fc_out_channels': 64,
    'num_convs': 1, 'nms_pre': 50, 'max_per_img': 20}  # yapf: disable


def shrink_sizes(cfg: Any, smaller: dict = SMALLER, **sizes: int) -> Any:
    """Copy of a detector's config with fewer layers, queries and proposals,
    and batch norms that run without GPU; its backbone stays.

    Args:
        cfg: Plain dict, or anything inside one.
        smaller: Sizes to replace wherever they are.
        sizes: Further ones.
    """
    if isinstance(cfg, dict):
        smaller = {**smaller, **sizes}
        return {
            key: value if key == 'backbone' else
            shrink_sizes(value, smaller) if isinstance(value, (dict, list))
            else smaller.get(key, shrink_sizes(value, smaller))
            for key, value in cfg.items()
        }
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(
            shrink_sizes(item, smaller, **sizes) for item in cfg)
    return 'BN' if cfg == 'SyncBN' else cfg


def logged(work_dir: Path, key: str = 'loss') -> list:
    """Values of one key in the scalars that a run logged, in order."""
    values = []
    for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if key in row:
                values.append(row[key])
    return values
