# Copyright (c) mmcropr contributors.
import gc
import os
import warnings

import torch
from mmengine.config import Config
from torch import distributed

NO_GPU = '''

  NO GPU IN SIGHT: this job of several processes runs on the CPU (gloo).
  With a GPU in this machine, look at `python tools/check_env.py`: is torch
  built with CUDA, and CUDA_VISIBLE_DEVICES not empty?
'''


def is_first_process() -> bool:
    """Whether this is the only or the first process of a job, asked before
    its process group exists: torchrun, slurm and MPI each say it."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return all(os.environ.get(name, '0') == '0' for name in names)


def use_cpu_processes(cfg: Config) -> None:
    """Let torchrun's processes work on a machine without a GPU.

    mmengine binds every process to a GPU, in the process group and in the
    model wrapper; here both are made for CPU (gloo) before it does. That is
    slow, so the first process warns. With a GPU, or without torchrun, nothing
    happens.

    Args:
        cfg: Config of a run, changed in place.
    """
    if cfg.get('launcher') != 'pytorch' or torch.cuda.is_available():
        return
    if is_first_process():
        warnings.warn(NO_GPU, stacklevel=2)
    distributed.init_process_group(backend='gloo')
    cfg.setdefault(
        'model_wrapper_cfg',
        dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False)))


def leave_processes() -> None:
    """Leave the process group, if there is one, and end its threads.

    A thread of gloo that drops the tensors of its last work while the
    interpreter shuts down aborts the process (pytorch/pytorch#190489). Its
    threads end with the group, and the group with the last reference to it,
    so call this when the runner, and the model with it, is out of reach.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
