# Copyright (c) mmcropr contributors.
"""Write a model of strip_auxiliary.py as one file of half precision, with its
config inside, for demo/models/: ``demo/image_demo.py`` loads it by name."""
import argparse
import json
from pathlib import Path
from typing import Any, Dict

import torch
from mmengine.config import Config
from safetensors.torch import save_file

from mmcropr.utils.files import written_whole
from mmcropr.utils.loading import load_file
from mmcropr.utils.logs import one_line_errors

LIMIT = 5_000_000  # bytes of a file in the repository


def convert(config: str, checkpoint: str, out: Path) -> int:
    """Write ``out`` and return its bytes.

    Args:
        config: Of strip_auxiliary.py.
        checkpoint: Of strip_auxiliary.py.
        out: A new ``.safetensors`` file.

    Raises:
        ValueError: If the name does not end so, or the file would be too
            large.
    """
    if out.suffix != '.safetensors':
        raise ValueError(f'OUT must end with .safetensors, got {out}')
    content = load_file(checkpoint)
    state: Dict[str, Any] = content.get('state_dict', content)
    # Numbers beyond half precision would become infinite
    tensors = {
        key: value.half() if value.is_floating_point() and (
            value.abs().max() < 6e4) else value
        for key, value in ((k, v.contiguous()) for k, v in state.items())}
    classes = content.get('meta', {}).get('dataset_meta', {})
    meta = dict(config=Config.fromfile(config).pretty_text,
                dataset_meta=classes)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > LIMIT:
        raise ValueError(f'{size / 1e6:.1f} MB are too much for a file in the '
                         f'repository, of at most {LIMIT / 1e6:.0f} MB')
    with written_whole(out) as part:
        save_file(tensors, part, metadata=dict(mmcropr=json.dumps(meta)))
    return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config that strip_auxiliary.py wrote')
    parser.add_argument('checkpoint', help='checkpoint beside it')
    parser.add_argument('out', type=Path, metavar='OUT.safetensors')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    args = parser.parse_args()
    with one_line_errors(args.debug), torch.no_grad():
        size = convert(args.config, args.checkpoint, args.out)
    print(f'{args.out}: {size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
