# Copyright (c) mmcropr contributors.
"""What is asked of a checkpoint before a run goes on from it."""
import ast
import logging
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from mmengine.config import Config
from mmengine.logging import print_log

# Everything else, such as paths, workers and hooks other than the curriculum,
# may change without a word
WATCHED = ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg',
           'train_dataloader', 'auto_scale_lr')
UNWATCHED = ('init_cfg', 'pretrained', 'num_workers', 'persistent_workers',
             'pin_memory', 'data_root', 'prefetch_factor', 'with_cp',
             'val_interval', 'val_begin', 'dynamic_intervals')


def find_checkpoint(work_dir: str) -> Optional[str]:
    """The latest checkpoint of a run: what ``last_checkpoint`` names, in this
    folder if it was moved, else the latest ``epoch_*.pth`` or
    ``iter_*.pth``; None if there is none."""
    folder, note = Path(work_dir), Path(work_dir, 'last_checkpoint')
    named = note.read_text().strip() if note.is_file() else ''
    for path in (Path(named), folder / Path(named).name) if named else ():
        # an old folder may still be where this one was copied from
        own = folder / path.name
        if own.is_file() or path.is_file():
            return str(own if own.is_file() else path)
    files = [
        (file.stat().st_mtime, int(found.group(1)), str(file))
        for file in folder.glob('*.pth')
        for found in [re.fullmatch(r'(?:epoch|iter)_(\d+)', file.stem)]
        if found
    ]
    if not files:
        return None
    latest = max(files)[-1]
    print_log(
        f'{note} is {"empty or stale" if note.is_file() else "not there"}; '
        f'the latest checkpoint in its folder is {latest}', 'current')
    return latest


def _flat(part: Any, place: str = '') -> Dict[str, Any]:
    """Dotted name -> value of all settings that matter to training."""
    if isinstance(part, dict):
        items: Iterable = part.items()
    elif isinstance(part, (list, tuple)):
        items = enumerate(part)
    else:
        return {place: part}
    result = {}
    for key, value in items:
        if key not in UNWATCHED:
            name = f'{place}.{key}' if place else str(key)
            result.update(_flat(value, name))
    return result


def _curricula(cfg: dict) -> List[dict]:
    """Hooks that say at which pruning rate an epoch trains."""
    hooks = [*(cfg.get('default_hooks') or {}).values(),
             *(cfg.get('custom_hooks') or ())]
    return [hook for hook in hooks
            if hook and 'PruningCurriculumHook' in str(hook.get('type'))]


def _value(node: ast.expr) -> Any:
    """What an expression of literals, names and ``dict(...)`` says.

    Raises:
        ValueError: If it is another one: a checkpoint is not to run code.
    """
    if isinstance(node, ast.Call) and isinstance(
            node.func, ast.Name) and node.func.id == 'dict':
        items = dict(*map(_value, node.args))
        return {**items, **{i.arg: _value(i.value) for i in node.keywords}}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {ast.literal_eval(key): _value(value)
                for key, value in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, (ast.Attribute, ast.Name)):
        return ast.unparse(node)  # the name of a class
    return ast.literal_eval(node)


def _settings(text: str) -> Optional[Dict[str, Any]]:
    """What mmengine writes of a config; None if there is more in it."""
    try:
        return {
            line.targets[0].id: _value(line.value)  # type: ignore
            for line in ast.parse(text).body}
    except (AttributeError, MemoryError, RecursionError, SyntaxError,
            TypeError, ValueError):
        return None


def find_changes(meta: dict, cfg: Config) -> List[str]:
    """What the config of a checkpoint's run and that of now train with that
    differs, as ``'name: old -> new'``; nothing where the old one is unknown,
    or more than settings.

    Args:
        meta: ``meta`` of a checkpoint of mmengine.
        cfg: Config of now.
    """
    if not meta.get('cfg'):
        return []
    # As mmengine wrote it, so that both say the same in the same way
    before, after = _settings(meta['cfg']), _settings(cfg.pretty_text)
    if before is None or after is None:
        print_log('what has changed in the config since cannot be told: one '
                  'of the two is more than settings', 'current',
                  logging.WARNING)
        return []
    sides = [before, after]
    old, new = (
        _flat({
            **{key: side[key]
               for key in WATCHED if side.get(key) is not None},
            'curriculum': _curricula(side)
        }) for side in sides)
    missing = object()
    changes = []
    for name in [*old, *(key for key in new if key not in old)]:
        first, second = old.get(name, missing), new.get(name, missing)
        if first != second:
            was, is_now = (
                'not there' if value is missing else repr(value)
                for value in (first, second))
            changes.append(f'{name}: {was} -> {is_now}')
    return changes


def is_finished(meta: dict, cfg: Config) -> bool:
    """Whether a checkpoint is of the end of the training that a config asks
    for."""
    expected = cfg.train_cfg
    for key, name in (('max_epochs', 'epoch'), ('max_iters', 'iter')):
        if expected.get(key) is not None:
            return meta[name] >= expected[key]
    return False


def check_resume(checkpoint: Any, path: str, cfg: Config) -> bool:
    """Say what has changed since a checkpoint was saved.

    Args:
        checkpoint: Content of the file.
        path: Of the checkpoint, for messages.
        cfg: Config of now.

    Returns:
        Whether anything is left to train.

    Raises:
        ValueError: If it is no checkpoint to go on from, or nothing is left
            to train although the config has changed.
    """
    needed = ('state_dict', 'meta', 'message_hub', 'optimizer')
    missing = [key for key in needed if key not in checkpoint]
    missing += [
        f'meta.{key}' for key in ('epoch', 'iter')
        if key not in checkpoint.get('meta', {key: None})
    ]
    if missing:
        raise ValueError(
            f'--resume: {path} has no {", ".join(missing)}, so it is no '
            'checkpoint of a training run; to start from its weights use '
            '--cfg-options load_from=FILE.')
    meta = checkpoint['meta']
    changes = find_changes(meta, cfg)
    where = f'{path} (epoch {meta["epoch"]}, iteration {meta["iter"]})'
    shown = '; '.join(changes[:8]) + ('; ...' if changes[8:] else '')
    if is_finished(meta, cfg):
        if changes:
            raise ValueError(
                f'nothing is left to train after {where}, but the config has '
                f'changed since: {shown}. Train anew in another --work-dir, '
                f'with --cfg-options load_from={path} to begin there.')
        print_log(
            f'nothing is left to train: {where} is the end; to train on from '
            f'it, start anew with load_from={path}', 'current')
        return False
    if changes:
        kept = any(
            change.startswith(('optim_wrapper', 'param_scheduler',
                               'train_cfg.max_'))
            for change in changes)
        print_log(
            f'going on from {where} with a changed config: {shown}' +
            ('. Learning rates, their schedule and weight decays stay those '
             'of the checkpoint; for new ones start anew with load_from'
             if kept else ''), 'current', logging.WARNING)
    return True
