# Copyright (c) mmcropr contributors.
"""Which models of mmdet, mmseg and mmpretrain train with CroprViT.

Of every family that the installed hosts ship a config of, the backbone and
the neck are changed by the recipe of the guides and sizes are shrunk. Then
there is one training step, a prediction, and one by the model without what
only training needs. Writes a table in Markdown.
"""
import argparse
import copy
import logging
import traceback
import warnings
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence

import torch
from host_batches import BATCHES
from host_configs import FAMILIES, Family
from host_models import MISSING, REASONS, small_model, with_cropr
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmcropr.models.checks import backbones_of, check_model
from mmcropr.utils.build import plain_model

# Models that are no detector, segmentor or classifier of single images
KINDS = dict(
    mmseg=('EncoderDecoder', 'CascadeEncoderDecoder', 'DepthEstimator'),
    mmpretrain=('ImageClassifier', ))


class Row(NamedTuple):
    """A line of the table."""
    host: str
    family: str
    config: str
    result: str
    note: str


def build(cfg: dict, scope: str) -> nn.Module:
    """Build a model with random weights, the same ones each time."""
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(cfg))
    # Some heads read where a run is
    hub = MessageHub.get_current_instance()
    hub.update_info_dict(dict(epoch=0, iter=0, max_epochs=1, max_iters=1))
    return model


def step(model: nn.Module, data: dict) -> List[str]:
    """One training step.

    Returns:
        Weights that learn and have no gradient.

    Raises:
        RuntimeError: If a loss is not finite.
    """
    model.train()
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    total, _ = model.parse_losses(model(**batch, mode='loss'))
    if not torch.isfinite(total):
        raise RuntimeError('the loss is not finite')
    total.backward()
    return [name for name, weight in model.named_parameters()
            if weight.requires_grad and weight.grad is None]


def predictions(model: nn.Module, data: dict) -> str:
    """What a model says of a batch, in a form that can be compared."""
    torch.manual_seed(1)
    with torch.no_grad():
        found = model.eval().test_step(copy.deepcopy(data))
    return str([sample.to_dict() for sample in found])


def attempt(cfg: dict, family: Family) -> List[str]:
    """Train a step, predict, and predict without what only training needs.

    Returns:
        Weights of the host's parts without a gradient.
    """
    data = BATCHES[family.host](family.model)
    model = build(cfg, family.host)
    model.init_weights()
    check_model(model)
    unused = step(model, data)
    backbone, = backbones_of(model)
    for reducer in backbone.reducers:
        if not reducer.queries.grad.abs().max() > 0:
            raise RuntimeError('the queries have no gradient')
    if any(name.split('.')[0] == 'auxiliary_head' for name in unused):
        raise RuntimeError('the auxiliary head has no gradient')
    plain = build(plain_model(ConfigDict(cfg)), family.host)
    weights = {
        key.removeprefix('detector.'): value
        for key, value in model.state_dict().items()
        if not key.startswith('auxiliary_head.')}
    missing = plain.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise RuntimeError(f'without its auxiliary head it lacks {missing}')
    if predictions(model, data) != predictions(plain, data):
        raise RuntimeError('without its auxiliary head it predicts otherwise')
    return unused


def says(error: BaseException) -> str:
    """An error in one line of a table; one without words by its place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = ' '.join(str(error).split()).replace('|', '/') or (
        f'{Path(place.filename).name}, line {place.lineno}')
    return f'{type(error).__name__}: {text[:160]}'


def stock_error(family: Family) -> Optional[str]:
    """What the model says with its own backbone, if it fails, too."""
    try:
        model = build(small_model(family), family.host)
        model.init_weights()
        data = BATCHES[family.host](family.model)
        step(model, data)
        predictions(model, data)
    except Exception as error:
        return says(error)
    return None


def examine(family: Family) -> Row:
    """Try a family."""
    kinds, kind = KINDS.get(family.host), family.model.get('type')
    row = Row(family.host, family.name, family.config, '', '')
    if family.name in REASONS:
        return row._replace(result='cannot', note=REASONS[family.name])
    if family.name in MISSING:
        return row._replace(result='not tried', note=MISSING[family.name])
    if kinds and kind not in kinds:
        return row._replace(
            result='not tried', note=f'{kind}: no training by labels alone')
    if 'backbone' not in family.model:
        inner = family.model.get('detector', {}).get('type', 'other models')
        return row._replace(
            result='not tried', note=f'{kind} holds {inner}: see there')
    reason = None
    for lines in (False, True):
        cfg, changes = with_cropr(family, lines)
        if lines and not changes:
            break
        try:
            unused = attempt(cfg, family)
        except Exception as error:  # whatever a host raises is reported
            reason = says(error)
            continue
        note = '; '.join(f'`{c.place}={c.value}`' for c in changes)
        if unused:
            note += f'{"; " * bool(note)}{len(unused)} weights without a '
            note += f'gradient, such as `{unused[0]}`'
        return row._replace(
            result='works with these lines' if changes else 'works', note=note)
    stock = stock_error(family)
    if stock is not None:
        return row._replace(
            result='fails with its own backbone', note=f'{stock}; with '
            f'CroprViT {reason}')
    return row._replace(result='cannot', note=reason)


def table(rows: Sequence[Row]) -> str:
    """Markdown, the hosts one after the other."""
    lines = []
    for host in dict.fromkeys(row.host for row in rows):
        lines += [f'## {host}', '', '| family | config | result | note |',
                  '| --- | --- | --- | --- |']
        lines += [f'| {row.family} | `{row.config}` | {row.result} | '
                  f'{row.note} |' for row in rows if row.host == host]
        lines.append('')
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> Any:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--hosts', nargs='+', choices=FAMILIES,
                        default=list(FAMILIES), help='all by default')
    parser.add_argument('--families', nargs='+', help='only these')
    parser.add_argument('--out', type=Path, help='file for the table')
    args = parser.parse_args(argv)
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    rows = []
    for host in args.hosts:
        for family in FAMILIES[host]():
            if args.families and family.name not in args.families:
                continue
            rows.append(examine(family))
            print(*rows[-1][:2], rows[-1].result, rows[-1].note[:100],
                  sep=' | ', flush=True)
            MMLogger._instance_dict.clear()
    if args.out:
        args.out.write_text(table(rows))
    return rows


if __name__ == '__main__':
    main()
