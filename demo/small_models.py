# Copyright (c) mmcropr contributors.
"""The small models that lie beside this file, by name. As a command: write the
config of one."""
import argparse
import json
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import yaml
from mmengine.config import Config
from safetensors import safe_open

from mmcropr.utils.files import written_whole
from mmcropr.utils.logs import one_line_errors

FOLDER = Path(__file__).resolve().parent / 'models'


def names(folder: Path = FOLDER) -> List[str]:
    """Of all models that are there."""
    return sorted(path.stem for path in folder.glob('*.safetensors'))


def notes(folder: Path = FOLDER) -> Dict[str, dict]:
    """Name -> the config it was trained with, and what it is."""
    path = folder / 'index.yml'
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def find_model(name: str, folder: Path = FOLDER) -> Path:
    """File of a model.

    Raises:
        ValueError: If there is none of that name.
    """
    if name.endswith('.py'):
        raise ValueError(f'no checkpoint is given with the config {name}.')
    path = folder / f'{name}.safetensors'
    if not path.is_file():
        raise ValueError(
            f'there is no model {name!r} beside the demo: '
            f'{", ".join(names(folder)) or "none is there"}. For a model of '
            'your own give its config and its checkpoint.')
    return path


def config_of(path: Path) -> Config:
    """The config that a model was written with."""
    with safe_open(path, 'pt') as file:
        about = json.loads((file.metadata() or {}).get('mmcropr', '{}'))
    if 'config' not in about:
        raise ValueError(f'{path} has no config in it; make it with '
                         'tools/model_converters/small_model.py')
    return Config.fromstring(about['config'], '.py')


def resolve(config: str,
            checkpoint: Optional[str] = None,
            folder: Path = FOLDER) -> Tuple[Config, str]:
    """Config and checkpoint of a training, or without a checkpoint those of
    the small model of that name.

    Raises:
        ValueError: If there is no such model.
        OSError: If a file is not there.
    """
    if checkpoint is not None:
        return Config.fromfile(config), checkpoint
    path = find_model(config, folder)
    return config_of(path), str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', help=', '.join(names()))
    parser.add_argument('out', type=Path, help='config file to write')
    args = parser.parse_args()
    with one_line_errors(False):
        text = config_of(find_model(args.name)).pretty_text
        with written_whole(args.out) as part:
            part.write_text(text)


if __name__ == '__main__':
    main()
