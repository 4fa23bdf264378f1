# Copyright (c) mmcropr contributors.
"""model-index.yml and what hangs on it; configs by name, from a wheel."""
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.utils import ROOT, load_tool, logged

model_index = load_tool('model_index.py')
QUICK = 'cropr-r30_digits-eva_linear_1xb32-15e_digits-scenes-96x96'


def models() -> dict:
    """Every entry of every metafile by its name."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    files = [yaml.safe_load((ROOT / name).read_text())
             for name in index['Import']]
    return {model['Name']: model for file in files for model in file['Models']}


def test_files_are_up_to_date():
    """Else: python tools/model_index.py."""
    assert model_index.stale(model_index.pages()) == []


def test_every_config_is_listed():
    paths = {path.stem: path.relative_to(ROOT).as_posix()
             for path in ROOT.glob('configs/*/*.py')
             if path.parent.name != '_base_'}
    found = models()
    assert {name: m['Config'] for name, m in found.items()} == paths
    assert found[QUICK]['Results'][0]['Metrics']['mIoU'] == 40.7
    assert not any('Weights' in model for model in found.values())


def test_results_are_those_of_the_docs():
    """Every number stands on the page that is named beside it; nothing was
    trained but digits."""
    source = yaml.safe_load((ROOT / 'docs/methods.yml').read_text())
    for name, results in source['results'].items():
        assert 'digits' in name
        for result in results:
            text = (ROOT / result['page']).read_text()
            for value in result['metrics'].values():
                assert re.search(rf'(?<![\d.]){value}0?(?!\d)', text), (
                    name, value)


@pytest.mark.parametrize('name, task, trunk', [
    (QUICK, 'Semantic Segmentation', 'EVA-02 blocks, 6 of width 96'),
    ('cropr-tpr97_dino_vit-b_8xb2-12e_coco', 'Object Detection', 'ViT-B'),
    ('x-r1_eomt_dinov3-l_4xb4-amp-16e_ade20k-512x512',
     'Semantic Segmentation', 'DINOv3-L'),
    ('x-r1_eomt_dinov2-l_4xb4_coco-instances-640', 'Instance Segmentation',
     'DINOv2-L'),
    ('digits-eva-192_1xb16-6e_digits-photos-classes-192x192',
     'Image Classification', 'EVA-02 blocks, 6 of width 96'),
    ('digits-eva-192_linear_1xb16-6e_digits-photos-192x192',
     'Semantic Segmentation', 'EVA-02 blocks, 6 of width 96'),
    ('x-r1_eva02-l_8xb32-amp-50e_in1k-448', 'Image Classification',
     'EVA-02-L')])
def test_names_say_what_it_is(name, task, trunk):
    facts = model_index.describe(Path(f'{name}.py'))
    assert facts['task'] == task and facts['trunk'] == trunk


def test_a_file_out_of_date_is_an_error(monkeypatch, capsys):
    pages = dict(model_index.pages(), **{'model-index.yml': 'Import: []\n'})
    monkeypatch.setattr(model_index, 'pages', lambda: pages)
    with pytest.raises(SystemExit):
        model_index.main(['--check'])
    assert 'out of date: model-index.yml' in capsys.readouterr().err


def test_unknown_results_are_an_error(monkeypatch):
    source = dict(methods={}, results={})
    monkeypatch.setattr(model_index.yaml, 'safe_load', lambda text: source)
    with pytest.raises(ValueError, match='differ in .*cropr'):
        model_index.pages()


def test_wheel_carries_configs_and_tools(wheel):
    """As openmim looks for them, beside the code."""
    mim = wheel / 'mmcropr/.mim'
    for name in ('tools/train.py', 'tools/dist_train.sh', 'demo/image_demo.py',
                 f'configs/cropr/{QUICK}.py', 'configs/cropr/metafile.yml',
                 'configs/_base_/default_runtime.py', 'model-index.yml'):
        assert (mim / name).is_file(), name
    assert not list(mim.rglob('*.pth'))
    assert not (wheel / 'tools').exists()


def test_config_by_name_trains(wheel, project, shell):
    """In a folder with nothing but data, by the tool of the wheel."""
    code = ('import mmcropr; from mmengine.hub import get_config; import json;'
            f'cfg = get_config("mmcropr::cropr/{QUICK}.py");'
            'print(json.dumps(cfg.filename))')
    found = Path(json.loads(shell(f"python -W ignore -c '{code}'")
                            .splitlines()[-1]))
    assert found == wheel / f'mmcropr/.mim/configs/cropr/{QUICK}.py'
    smaller = ' '.join(
        [f'{loader}_dataloader.{setting}' for loader in ('train', 'val')
         for setting in ('dataset.data_root=data/my_scenes', 'num_workers=0',
                         'persistent_workers=False')])
    said = shell(f'python {wheel}/mmcropr/.mim/tools/train.py {found} '
                 f'--work-dir named --cfg-options train_cfg.max_epochs=1 '
                 f'train_dataloader.batch_size=16 {smaller}')
    assert 'Epoch(val)' in said
    assert 0 < logged(project / 'named')[0] < 100
