# Copyright (c) mmcropr contributors.
"""Compare an exported file with PyTorch: kept tokens of every module, values
and predictions; exit code 1 if they are not equal."""
import argparse
import sys
from pathlib import Path

from mmcropr.utils.logs import one_line_errors

sys.path.insert(0, str(Path(__file__).parent))
from export import add_proof_arguments, load_config  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(':')[0])
    parser.add_argument('file', type=Path, help='as export.py wrote it')
    add_proof_arguments(parser)
    args = parser.parse_args()
    with one_line_errors(args.debug):
        from mmcropr.deploy.export import verify
        cfg, images = load_config(args)
        report = verify(cfg, args.checkpoint, args.file, images)
        print('\n'.join(report.lines()))
        print(f'{args.file} is equal' + (
            ' as far as half precision is' if report.half else ''))


if __name__ == '__main__':
    main()
