# Copyright (c) mmcropr contributors.
"""Write model-index.yml, the metafiles and READMEs of configs/, and the model
zoo page, from the names of the configs and docs/methods.yml."""
import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import yaml

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

ROOT = Path(__file__).resolve().parents[1]
# What a name has in it -> task, first match; a tuple must be in it whole
TASKS = [
    (('eomt', 'panoptic'), 'Panoptic Segmentation'),
    (('eomt', 'instances'), 'Instance Segmentation'),
    (('mask-rcnn', ), 'Instance Segmentation'),
    (('depth', ), 'Depth Estimation'),
    (('coco', ), 'Object Detection'),
    (('in1k', ), 'Image Classification'),
    (('digits-classes', ), 'Image Classification'),
    (('digits-photos-classes', ), 'Image Classification'),
    (('', ), 'Semantic Segmentation'),
]
DATA = dict(
    ade20k='ADE20K', cityscapes='Cityscapes', coco='COCO', in1k='ImageNet-1k',
    nyu='NYU Depth v2',
    **{'digits-photos': 'Digits in photographs (made by digits_scenes.py)'},
    digits='Digits (made by digits_scenes.py)')
TRUNKS = {
    'eva02-l': 'EVA-02-L', 'vit-b': 'ViT-B', 'vit-l': 'ViT-L',
    'vit-h': 'ViT-H', 'dinov2-b': 'DINOv2-B', 'dinov2-l': 'DINOv2-L',
    'dinov3-b': 'DINOv3-B', 'dinov3-l': 'DINOv3-L',
    'digits-eva': 'EVA-02 blocks, 6 of width 96'}  # -192: larger images
MADE = 'Made by tools/model_index.py; edit docs/methods.yml instead.'
ZOO = """# Model zoo

<!-- {made} -->

Every config, by method. **No checkpoint of the published settings exists
yet**: neither the data nor the pretrained weights were at hand where this was
written, so a config without a result was built and tested shrunk, not trained.
Results are of digits, small data that
`tools/dataset_converters/digits_scenes.py` makes; each is explained, with its
commands, on the page it links to. What mmengine and openmim read is
[model-index.yml](../../model-index.yml).

To train any of them, by path or, after `pip install`, by name:

```bash
python tools/train.py configs/cropr/{quick}.py
mim train mmcropr {quick}.py
```

## Published checkpoints

Those of the authors of Token Cropr (classification, segmentation) and of EoMT
convert with `official_cropr.py` and `official_eomt.py`, those of EVA-02's
detectors with `eva02_det.py`: see
[segmentation](user_guides/segmentation.md),
[detection](user_guides/detection.md#from-eva-02s-detectors) and
[EoMT](user_guides/eomt.md#in-a-config). None was at hand, so conversion was
tested on small random weights of their layout. Pretrained ViTs are timm's,
by `pretrained=True`.

```bash
python tools/model_converters/official_cropr.py SRC DST
python tools/model_converters/official_eomt.py SRC DST
python tools/model_converters/eva02_det.py CONFIG SRC DST
```

{demo}
"""
QUICK = 'cropr-r30_digits-eva_linear_1xb32-15e_digits-scenes-96x96'
DEMO = """## Models to start from

Small models of digits in the repository, float16, which `demo/image_demo.py`
and `demo/app.py` load by name:

| name | task | config | what it is |
| --- | --- | --- | --- |
"""
MAKING = """
How one is made, here that of the quick start:

```bash
make quickstart
python tools/model_converters/strip_auxiliary.py CONFIG work_dirs/quickstart/epoch_15.pth plain
python tools/model_converters/small_model.py plain/NAME.py plain/NAME.pth demo/models/digits-segmentation.safetensors
```

The files have their config inside, with which `tools/test.py` takes them, too; rounding to half precision took 0.01 of 40.97 mIoU from that model:

```bash
python demo/small_models.py digits-segmentation my_config.py      # writes the config
python tools/test.py my_config.py demo/models/digits-segmentation.safetensors
```
"""  # noqa: E501
README = """# {title}

<!-- [ALGORITHM] {made} -->

{text}
Paper: [{paper}]({url}).

In a config: {reducer}. How it compares:
[measured](../../docs/en/notes/comparison.md), what it computes:
[compared methods](../../docs/en/advanced_guides/compared_methods.md).

{table}
"""


def describe(path: Path) -> Dict[str, str]:
    """Task, data and architecture, as the name of a config says them."""
    stem = path.stem
    task = next(task for words, task in TASKS
                if all(word in stem for word in words))
    data = next(name for key, name in DATA.items()
                if stem.split('_')[-1].startswith(key))
    trunk = next(name for key, name in TRUNKS.items() if key in stem)
    return dict(task=task, data=data, trunk=trunk)


def find_configs(method: str) -> List[Path]:
    return sorted((ROOT / 'configs' / method).glob('*.py'))


def metafile(method: str, about: Dict[str, str],
             results: Dict[str, list]) -> str:
    """A metafile as the hosts have them; a config that was not trained has no
    results, and none has weights that could be downloaded."""
    models, data = [], set()
    for path in find_configs(method):
        facts = describe(path)
        data.add(facts['data'])
        model: Dict[str, Any] = {
            'Name': path.stem,
            'In Collection': about['title'],
            'Config': path.relative_to(ROOT).as_posix(),
            'Metadata': {'Training Data': facts['data'],
                         'Architecture': [facts['trunk']]}}
        found = [{'Task': facts['task'], 'Dataset': result['dataset'],
                  'Metrics': result['metrics']}
                 for result in results.get(path.stem, ())]
        models.append(dict(model, Results=found) if found else model)
    collection = {
        'Name': about['title'],
        'License': 'Apache License 2.0',
        'Metadata': {'Training Data': sorted(data)},
        'Paper': {'Title': about['paper'], 'URL': about['url']},
        'README': f'configs/{method}/README.md',
        'Frameworks': ['PyTorch']}
    text = yaml.safe_dump({'Collections': [collection], 'Models': models},
                          sort_keys=False, allow_unicode=True, width=78)
    return f'# {MADE}\n{text}'


def result_cell(results: List[dict], up: str) -> str:
    """Metrics, how they came about, and a link to the page that says more."""
    cells = []
    for result in results:
        metrics = ', '.join(f'{k} {v}' for k, v in result['metrics'].items())
        cells.append(f'{metrics} ([{result["note"]}]({up}{result["page"]}))')
    return '; '.join(cells) or 'not trained'


def table(method: str, results: Dict[str, list], folder: str,
          up: str) -> str:
    """Markdown rows of the configs; links are relative to a page whose path
    to the configs is ``folder`` and to the root ``up``."""
    rows = ['| config | task | data | ViT | result |',
            '| --- | --- | --- | --- | --- |']
    for path in find_configs(method):
        facts = describe(path)
        rows.append(
            f'| [`{path.stem}`]({folder}{path.name}) | {facts["task"]} | '
            f'{facts["data"]} | {facts["trunk"]} | '
            f'{result_cell(results.get(path.stem, []), up)} |')
    return '\n'.join(rows)


def demo_models(root: Path = ROOT) -> str:
    """The part of the zoo page about the models in the repository."""
    index = root / 'demo/models/index.yml'
    if not index.exists():
        return ''
    rows = [f'| `{name}` | {describe(Path(m["config"]))["task"]} | '
            f'[`{Path(m["config"]).stem}`](../../{m["config"]}) | '
            f'{m["note"]} |'
            for name, m in yaml.safe_load(index.read_text()).items()]
    return DEMO + '\n'.join(rows) + '\n' + MAKING


def pages() -> Dict[str, str]:
    """Path -> text of everything that this tool makes."""
    source = yaml.safe_load((ROOT / 'docs/methods.yml').read_text())
    methods, results = source['methods'], source['results']
    folders = {path.name for path in (ROOT / 'configs').iterdir()
               if path.is_dir() and path.name != '_base_'}
    if set(methods) != folders:
        raise ValueError('docs/methods.yml and the folders of configs/ differ '
                         f'in {sorted(set(methods) ^ folders)}')
    unknown = set(results) - {path.stem for method in methods
                              for path in find_configs(method)}
    if unknown:
        raise ValueError(f'results of configs that are not there: {unknown}')
    files = {}
    zoo = [ZOO.format(made=MADE, quick=QUICK, demo=demo_models()).rstrip()]
    for method, about in methods.items():
        files[f'configs/{method}/metafile.yml'] = metafile(method, about,
                                                           results)
        files[f'configs/{method}/README.md'] = README.format(
            made=MADE, table=table(method, results, '', '../../'), **about)
        rows = table(method, results, f'../../configs/{method}/', '../../')
        zoo.append(f'## {about["title"]}\n\n{about["text"]} See [{method}]('
                   f'../../configs/{method}/README.md).\n\n{rows}')
    files['docs/en/model_zoo.md'] = '\n\n'.join(zoo) + '\n'
    imports = [name for name in files if name.endswith('metafile.yml')]
    files['model-index.yml'] = f'# {MADE}\n' + yaml.safe_dump(
        {'Import': imports}, sort_keys=False)
    return files


def stale(files: Dict[str, str]) -> List[str]:
    """Files that are not as they would be made."""
    return [name for name, text in files.items()
            if not (ROOT / name).exists()
            or (ROOT / name).read_text() != text]


def main(args: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true',
                        help='write nothing; fail if a file is out of date')
    parser.add_argument('--debug', action='store_true',
                        help='show tracebacks of errors')
    options = parser.parse_args(args)
    with one_line_errors(options.debug):
        files = pages()
        names = stale(files)
        if options.check and names:
            raise ValueError(f'out of date: {", ".join(names)}; run python '
                             'tools/model_index.py')
        for name in names:
            with written_whole(ROOT / name) as path:
                path.write_text(files[name])
        sys.stdout.write(f'{len(names)} of {len(files)} files written\n')


if __name__ == '__main__':
    main()
