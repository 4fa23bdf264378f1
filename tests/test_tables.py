# Copyright (c) mmcropr contributors.
"""The rows of the published tables: what their configs say and cost."""
import json
import sys

import pytest
from mmengine.config import Config

from mmcropr.models.reducers import PruningSchedule
from mmcropr.models.reducers.build import SCHEDULE_KEYS
from tests.utils import ROOT, load_tool

VIT_L = 'vit-l_8xb128-amp-50e_in1k-224'
EVA02_L = 'eva02-l_8xb32-amp-50e_in1k-448'
# Decreasing schedules of R 8 with LLF (no module after the last two blocks)
# and without, and the constant one, on 196 patches
DOWN = {block: 196 - 8 * (block + 1) for block in range(22)}
DOWN_TO_THE_END = {**DOWN, 22: 12}
CONSTANT = {5: 136, 11: 96, 17: 64}
ROWS = [
    (f'no_pruning/{VIT_L}', None, None, 'avg', True),
    (f'non_salient/non-salient-r8_{VIT_L}', 'NonSalient', DOWN, 'avg', True),
    (f'random/random-r8_{VIT_L}', 'Random', DOWN, 'avg', True),
    (f'variance/variance-r8_{VIT_L}', 'Variance', DOWN, 'avg', True),
    (f'attn_topk/attn-topk-r8_{VIT_L}', 'AttnTopK', DOWN, 'cls', True),
    (f'cropr/cropr-r8_{VIT_L}', 'Cropr', DOWN, 'avg', True),
    (f'k_medoids/k-medoids-r8-no-llf_{VIT_L}', 'KMedoids', DOWN_TO_THE_END,
     'avg', False),
    (f'ats/ats-r8-no-llf_{VIT_L}', 'ATS', DOWN_TO_THE_END, 'cls', False),
    (f'dpc_knn/dpc-knn-r8-no-llf_{VIT_L}', 'DPCKNN', DOWN_TO_THE_END, 'avg',
     False),
    (f'evit/evit-r8-no-llf_{VIT_L}', 'EViT', DOWN_TO_THE_END, 'cls', False),
    (f'tome/tome-cls-r8-no-llf_{VIT_L}', 'ToMe', DOWN_TO_THE_END, 'cls',
     False),
    (f'tome/tome-r8-no-llf_{VIT_L}', 'ToMe', DOWN_TO_THE_END, 'avg', False),
    (f'cropr/cropr-r8-no-llf_{VIT_L}', 'Cropr', DOWN_TO_THE_END, 'avg', False),
    (f'dynamic_vit/dynamic-vit-keep136-96-64-no-llf_{VIT_L}', 'DynamicViT',
     CONSTANT, 'avg', False),
    (f'sit/sit-keep136-96-64-no-llf_{VIT_L}', 'SiT', CONSTANT, 'avg', False),
    (f'sinkhorn/sinkhorn-keep136-96-64-no-llf_{VIT_L}', 'Sinkhorn', CONSTANT,
     'avg', False),
    (f'patch_merger/patch-merger-keep136-96-64-no-llf_{VIT_L}', 'PatchMerger',
     CONSTANT, 'avg', False),
    (f'cropr/cropr-keep136-96-64-no-llf_{VIT_L}', 'Cropr', CONSTANT, 'avg',
     False),
    (f'cropr/cropr-keep136-96-64_{VIT_L}', 'Cropr', CONSTANT, 'avg', True),
    (f'no_pruning/{EVA02_L}', None, None, 'avg', True),
    (f'cropr/cropr-r40_{EVA02_L}', 'Cropr',
     {block: 1024 - 40 * (block + 1) for block in range(22)}, 'avg', True),
    (f'cropr/cropr-keep208-r8-no-llf_{EVA02_L}', 'Cropr',
     {block: 208 - 8 * (block - 2) for block in range(2, 23)}, 'avg', False),
]  # yapf: disable


@pytest.mark.parametrize('name, reducer, lengths, pool, llf', ROWS)
def test_rows_of_classification(name, reducer, lengths, pool, llf):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    found, neck = cfg.model.backbone.get('reducer'), cfg.model.neck
    fuses = cfg.model.backbone.get('fuse_at', -1) is not None
    assert (neck.pool, fuses) == (pool, llf)
    assert 'llf' not in neck, 'as the backbone has it'
    if reducer is None:
        assert found is None
    else:
        assert found.type == f'mmcropr.{reducer}'
        keys = {k: found[k] for k in SCHEDULE_KEYS if k in found}
        side = 14 if VIT_L in name else 32
        schedule = PruningSchedule(
            24, (side, side), 1, fuse_at=-1 if fuses else None, **keys)
        assert dict(zip(schedule.modules, schedule.lengths())) == lengths
    # 1e-3 per 256 images
    workers = 8 * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == workers
    assert cfg.optim_wrapper.optimizer.lr == 1e-3 * workers / 256


@pytest.mark.parametrize('name, macs, tolerance', [
    (f'cropr/cropr-r8_{VIT_L}', 34.2e9, 0.02),
    (f'cropr/cropr-r8-mha_{VIT_L}', 36.8e9, 0.02),
    (f'no_pruning/{EVA02_L}', 0.31e12, 0.005 / 0.31),
    (f'cropr/cropr-r40_{EVA02_L}', 0.18e12, 0.005 / 0.18),
    (f'cropr/cropr-keep208-r8-no-llf_{EVA02_L}', 0.07e12, 0.005 / 0.07),
])
def test_published_costs(name, macs, tolerance, tmp_path, monkeypatch):
    """Linear MACs of classification, to 2 % or as rounded in the paper; those
    of segmentation are tested with the tool itself."""
    out = tmp_path / 'out.json'
    monkeypatch.setattr(sys, 'argv', [
        'get_flops.py', str(ROOT / f'configs/{name}.py'), '--json', str(out)])
    load_tool('analysis_tools/get_flops.py').main()
    found = json.loads(out.read_text())
    assert found['linear_macs'] == pytest.approx(macs, rel=tolerance)
