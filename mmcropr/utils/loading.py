# Copyright (c) mmcropr contributors.
"""Checkpoints read without running code that is pickled in them."""
import json
import os
import pathlib
import pickle
import zipfile
from types import FunctionType, SimpleNamespace
from typing import Any, Dict, Optional, Union
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import safe_open
from torch.hub import download_url_to_file, get_dir

STORAGES = {
    f'{kind}Storage'
    for kind in ('Double', 'Float', 'Half', 'BFloat16', 'Long', 'Int',
                 'Short', 'Char', 'Byte', 'Bool', 'ComplexFloat',
                 'ComplexDouble')
}
STORES = (r'(\S+\:)?s3://', r'(\S+\:)?petrel://')  # as mmengine has them
# Functions and classes that only hold data. torch.storage._load_from_bytes is
# left out on purpose: it unpickles again, without this list.
ALLOWED = {
    'torch': STORAGES | {'Size', 'device', 'Tensor'},
    'torch.storage': {'UntypedStorage', 'TypedStorage'},
    'torch._utils': {
        '_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter',
        '_rebuild_parameter_with_state'
    },
    'torch.nn.parameter': {'Parameter'},
    'torch.serialization': {'_get_layout'},
    'builtins': {
        'set', 'frozenset', 'slice', 'complex', 'bytearray', 'int', 'float',
        'str', 'bool', 'list', 'dict', 'tuple', 'range'
    },
    'collections': {'OrderedDict', 'defaultdict', 'deque', 'Counter'},
    '_codecs': {'encode'},
    'numpy': {'dtype', 'ndarray'},
    'pathlib': {'Path', 'PosixPath', 'PurePosixPath'},
    'argparse': {'Namespace'},
    'mmengine.logging.history_buffer': {'HistoryBuffer'},
}
ALLOWED['__builtin__'] = ALLOWED['builtins']  # as protocol 2 names it
for _name in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    ALLOWED[_name] = {'_reconstruct', 'scalar'}
STATISTICS = ('min', 'max', 'mean', 'current')


class UnsafeCheckpointError(ValueError):
    """A checkpoint holds more than data."""


def _statistics_of(owner: Any, name: str) -> Any:
    """``getattr`` for the one thing that mmengine's logs need it for."""
    if owner is HistoryBuffer and name in STATISTICS:
        return getattr(owner, name)
    raise UnsafeCheckpointError(f'getattr of {name!r}')


class _Unpickler(pickle._Unpickler):
    """The one in Python: that in C lets a file set attributes of classes."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        owner = self.stack[-2]  # type: ignore[attr-defined]
        if isinstance(owner, (type, FunctionType)):
            raise UnsafeCheckpointError(f'a change of {owner.__name__}')
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]

    def find_class(self, module: str, name: str) -> Any:
        owner, _, statistic = name.partition('.')
        if (module, owner) == (HistoryBuffer.__module__, 'HistoryBuffer') and (
                statistic in STATISTICS):  # as protocol 4 names it
            return getattr(HistoryBuffer, statistic)
        if module in ('builtins', '__builtin__') and name == 'getattr':
            return _statistics_of
        is_dtype = module == 'torch' and isinstance(
            getattr(torch, name, None), torch.dtype)
        number = getattr(np, name, None) if module == 'numpy' else None
        is_number = isinstance(number, type) and issubclass(
            number, np.generic)
        is_kind = module == 'numpy.dtypes' and (
            name.isidentifier() and name.endswith('DType'))
        if not (name in ALLOWED.get(module, ()) or is_dtype or is_number
                or is_kind):
            raise UnsafeCheckpointError(f'{module}.{name}')
        return super().find_class(module, name)


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


# What torch.load asks of a pickle_module. Its own weights_only cannot be told
# of more classes on torch 2.1.
SAFE_PICKLE = SimpleNamespace(
    __name__='mmcropr.utils.loading', Unpickler=_Unpickler, load=_load)


def _is_script(path: Union[str, pathlib.Path]) -> bool:
    """Whether torch would run a file as TorchScript, unpickled or not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(
            name.rpartition('/')[2] == 'constants.pkl'
            for name in file.namelist())


def _load_tensors(path: Union[str, pathlib.Path],
                  map_location: Any) -> Dict[str, Any]:
    device = map_location if isinstance(map_location, str) else 'cpu'
    with safe_open(path, 'pt', device=device) as file:
        meta = json.loads((file.metadata() or {}).get('mmcropr', '{}'))
        names = file.keys()
        return dict(state_dict={name: file.get_tensor(name) for name in names},
                    meta=meta)


def load_file(path: Union[str, pathlib.Path],
              map_location: Any = 'cpu',
              trust: bool = False) -> Any:
    """What ``torch.save`` wrote, if it is data, or a file of safetensors: its
    tensors as ``state_dict``, and as ``meta`` the JSON under the key
    ``mmcropr`` of its metadata.

    Args:
        path: A local file.
        map_location: As of ``torch.load``.
        trust: Whether to run code that the file has in it, and to leave
            ``meta['config']``, which mmengine runs when it resumes.

    Raises:
        UnsafeCheckpointError: If there is more in it than what mmengine's
            checkpoints hold: tensors, numbers, arrays, plain containers and
            logs.
    """
    content = _load_tensors(path, map_location) if str(path).endswith(
        '.safetensors') else _load_pickle(path, map_location, trust)
    meta = content.get('meta') if isinstance(content, dict) else None
    if not trust and isinstance(meta, dict):
        meta.pop('config', None)
    return content


def _load_pickle(path: Union[str, pathlib.Path], map_location: Any,
                 trust: bool) -> Any:
    pickle_module = pickle if trust else SAFE_PICKLE
    try:
        if not trust and _is_script(path):
            raise UnsafeCheckpointError('TorchScript')
        return torch.load(
            path,
            map_location=map_location,
            pickle_module=pickle_module,
            weights_only=False)
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f'{path} holds more than data: reading it would use {error}, and '
            'code in a checkpoint can do anything. If you trust whoever made '
            'it, give --trust-checkpoint (to the tools), or save it again '
            'with its state_dict alone.') from error


def load_safely(trust: bool = False) -> None:
    """Let mmengine read checkpoints of files and addresses by
    :func:`load_file`, wherever it reads them: ``load_from``, resuming,
    ``init_cfg``. Models that mmengine knows by name (``torchvision://`` and
    such) are its own affair.

    Args:
        trust: As of :func:`load_file`.
    """

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        path = os.path.expanduser(filename)
        if not os.path.isfile(path):
            raise FileNotFoundError(f'no checkpoint at {filename}')
        return load_file(path, map_location, trust)

    def load_from_http(filename: str,
                       map_location: Any = None,
                       model_dir: Optional[str] = None) -> Any:
        folder = model_dir or os.path.join(get_dir(), 'checkpoints')
        path = os.path.join(folder, os.path.basename(urlparse(filename).path))
        for turn in (is_main_process(), True):
            # the second is for machines that do not share the folder
            if turn and not os.path.isfile(path):
                os.makedirs(folder, exist_ok=True)
                download_url_to_file(filename, path)
            barrier()
        return load_file(path, map_location, trust)

    def load_from_ceph(filename: str,
                       map_location: Any = None,
                       backend: str = 'petrel') -> Any:
        with get_local_path(
                filename, backend_args=dict(backend=backend)) as path:
            return load_file(path, map_location, trust)

    def load_from_pavi(filename: str, map_location: Any = None) -> Any:
        raise UnsafeCheckpointError(
            f'{filename} would be read with whatever code it holds: download '
            'it and give the file, or --trust-checkpoint.')

    # mmengine logs the names of these
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'),
                                     load_from_http,
                                     force=True)
    CheckpointLoader.register_scheme(STORES, load_from_ceph, force=True)
    if not trust:
        CheckpointLoader.register_scheme('pavi://', load_from_pavi, force=True)
