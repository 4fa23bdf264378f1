# Copyright (c) mmcropr contributors.
"""Configs of README and docs, in a project outside of ours: each trains for
an iteration, evaluates and deploys as the page says, only smaller."""
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List

import pytest

from tests.utils import ROOT, logged

PAGES = dict(
    my_segmentation='docs/en/user_guides/own_data.md',
    my_detection='docs/en/user_guides/detection.md',
    my_classification='docs/en/user_guides/classification.md')
# Nothing but sizes, weights that would be downloaded, and workers
ALL = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=16',
       'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
       'test_dataloader.num_workers=0']
SMALLER = dict(
    my_segmentation=[
        'model.backbone.arch=eva02_tiny_patch14_224',
        'model.backbone.img_size=64',
        'model.backbone.pretrained=False',
        'model.backbone.reducer.rate=1',
        'model.backbone.reducer.align=1',
        'model.decode_head.in_channels=192',
        'model.auxiliary_head.in_channels=192',
        'model.auxiliary_head.num_modules=10',
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_pipeline.1.scale=(64,64)',
    ],
    my_detection=[
        'model.detector.backbone.arch=test_vit',
        'model.detector.backbone.img_size=64',
        'model.detector.backbone.pretrained=False',
        'model.detector.backbone.reducer.tpr=0.5',
        'model.detector.backbone.reducer.align=1',
        'model.detector.neck.1.in_channels=64',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.persistent_workers=False',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'test_dataloader.dataset.pipeline.1.scale=(64,64)',
    ],
    my_classification=[
        'model.backbone.arch=test_vit',
        'model.backbone.img_size=64',
        'model.backbone.pretrained=False',
        'model.backbone.reducer.rate=2',
        'model.backbone.reducer.align=1',
        'model.head.in_channels=64',
        'model.head.num_modules=4',
        'train_dataloader.dataset.pipeline.1.scale=64',
        'val_dataloader.dataset.pipeline.1.scale=64',
        'val_dataloader.dataset.pipeline.2.crop_size=64',
        'test_dataloader.dataset.pipeline.1.scale=64',
        'test_dataloader.dataset.pipeline.2.crop_size=64',
    ])
METRICS = dict(my_segmentation='mIoU', my_detection='coco/segm_mAP',
               my_classification='accuracy/top1')


def blocks(page: str, language: str) -> List[str]:
    """Fenced blocks of one language in a page."""
    text = (ROOT / page).read_text()
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.M | re.S)


def commands_with(page: str, word: str) -> List[str]:
    """Commands of a page that have a word in them."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ')
    return [line for line in lines.splitlines() if word in line]


@pytest.fixture(scope='module')
def trained(project, shell) -> Dict[str, Path]:
    """Work folders of all three, trained by the commands of their pages. The
    config that ran takes the place of the larger one."""
    jobs = []
    for name, page in PAGES.items():
        file, = (b for b in blocks(page, 'python')
                 if b.startswith(f'# {name}.py\n'))
        (project / f'{name}.py').write_text(file)
        command, = commands_with(page, f'train.py {name}.py')
        options = ' '.join(f"'{o}'" for o in ALL + SMALLER[name])
        jobs.append(f'{command.split("#")[0]} --cfg-options {options}')
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(shell, jobs))
    folders = {name: project / 'work_dirs' / name for name in PAGES}
    for name, folder in folders.items():
        shutil.copy(folder / f'{name}.py', project)
    return folders


@pytest.mark.parametrize('name', PAGES)
def test_train(name, trained):
    """One iteration, auxiliary losses in it, and a validation."""
    assert 0 < logged(trained[name])[0] < 1000
    assert logged(trained[name], METRICS[name])
    log = next(trained[name].glob('*/*.log')).read_text()
    assert 'Tokens left behind the modules' in log
    scalars = next(trained[name].glob('*/vis_data/scalars.json')).read_text()
    assert 'module0.' in scalars


def test_test(trained, shell):
    """The same metric as in training, from the checkpoint. The other pages
    have the same command for their configs."""
    for name, page in PAGES.items():
        command, = commands_with(page, f'test.py {name}.py')
        if name == 'my_segmentation':
            value = logged(trained[name], METRICS[name])[0]
            assert f'{METRICS[name]}: {value:.4f}' in shell(command)


def test_deploy(trained, shell, project):
    """The wrapper of a detector goes; mmdet reads what is left."""
    page = PAGES['my_detection']
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    command, = (c for c in lines if 'strip_auxiliary' in c and 'my_det' in c)
    shell(command)
    plain = (project / 'deployed/my_detection.py').read_text()
    assert 'CroprDetector' not in plain and 'num_queries=1' in plain
    assert (project / 'deployed/my_detection.pth').is_file()


def test_python_api(trained, shell, project, wheel):
    """With mmcropr of the wheel the page runs from its first line to its last,
    beside the segmentation config, and prints what its comments say."""
    page = 'docs/en/user_guides/python_api.md'
    code = '\n'.join(blocks(page, 'python'))
    image = next((project / 'data/my_scenes/images/val').glob('*.png'))
    shutil.copy(image, project / 'image.png')
    shutil.copy(next(trained['my_segmentation'].glob('epoch_*.pth')),
                project / 'my_segmentation.pth')
    code += "\nimport mmcropr\nprint('wheel', mmcropr.__file__)\n"
    (project / 'api.py').write_text(code)
    said = shell('python -W ignore api.py').splitlines()
    assert said[-1] == f'wheel {wheel}/mmcropr/__init__.py'
    wanted = re.findall(r'^print\(.*\)  # (.*)$', code, re.M)
    assert len(wanted) > 4
    assert [line for line in said if line in wanted] == wanted, said
    pictures, = blocks('docs/en/user_guides/pictures.md', 'python')
    (project / 'pruning.png').unlink()
    (project / 'pictures.py').write_text(pictures)
    shell('python -W ignore pictures.py')
    assert (project / 'pruning.png').is_file()
    assert (wheel / 'mmcropr/visualization/explorer.html').is_file()
