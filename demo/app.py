# Copyright (c) mmcropr contributors.
"""The demo in a browser: upload an image, pick a model and how much is pruned,
see prediction, pruning map and times beside those without pruning."""
import argparse
import os
import socket
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
from mmengine.config import Config

from mmcropr.utils.logs import one_line_errors
from mmcropr.utils.rates import backbone_of, with_tpr
from mmcropr.visualization import Predictor

sys.path.insert(0, str(Path(__file__).parent))
from image_demo import draw, pixels, run_both  # noqa: E402
from small_models import names, resolve  # noqa: E402

HOST = '127.0.0.1'
RUNS = 3  # that are timed per image
Model = Tuple[Config, str]  # config, checkpoint


class Demo:
    """What the page does, without the page.

    Args:
        models: Config and checkpoint by the name that the page shows.
        device: To run on.
        trust: Whether to read checkpoints that can run code.
    """

    def __init__(self,
                 models: Dict[str, Model],
                 device: str = 'cpu',
                 trust: bool = False) -> None:
        if not models:
            raise ValueError(
                'no model to show: demo/models is empty; give one or more by '
                '--model CONFIG CHECKPOINT.')
        for name, (cfg, _) in models.items():
            if not isinstance(backbone_of(cfg).get('reducer'), dict):
                raise ValueError(f'{name} has not one reducer, whose share '
                                 'the page could change.')
        self.models, self.device, self.trust = models, device, trust
        self._pair = lru_cache(maxsize=4)(self._build)

    def _build(self, name: str, tpr: float) -> Tuple[Predictor, Predictor]:
        cfg, checkpoint = self.models[name]
        pruned = Predictor(with_tpr(cfg, tpr), checkpoint, self.device,
                           self.trust)
        return pruned, pruned.without_pruning()

    def __call__(self, path: str, name: str,
                 tpr: float) -> Tuple[np.ndarray, str]:
        """Picture, (H, W, 3), uint8, RGB, and a line on the times.

        Raises:
            ValueError: If there is no image, it cannot be read, or the share
                leaves no patch.
        """
        if not path:
            raise ValueError('upload an image first')
        pruned, plain = self._pair(name, round(float(tpr), 2))
        pair = run_both(pruned, plain, Path(path), RUNS)
        view = pixels(draw(Path(path).stem, pair, pruned, plain))
        kept = pair.pruned.fates
        left = f'{kept[0].counts[-1]} of {kept[0].slots.shape[1]}' if (
            len(kept) == 1) else 'several windows,'
        return np.ascontiguousarray(view[..., ::-1]), (
            f'{left} tokens left; {1000 * pair.seconds[0]:.0f} ms with '
            f'pruning, {1000 * pair.seconds[1]:.0f} ms without, which is '
            f'{pair.ratio:.2f} times as long (median of {RUNS}, whole model '
            f'on {self.device}).')


def build_page(demo: Demo) -> Any:
    """The page, a ``gradio.Blocks``."""
    import gradio as gr

    def run(path: str, name: str, tpr: float) -> Tuple[np.ndarray, str]:
        try:
            return demo(path, name, tpr)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    with gr.Blocks(title='mmcropr') as page:
        gr.Markdown('# mmcropr\nWhat a model sees, what it prunes, and the '
                    'time it takes beside the same weights without pruning.')
        with gr.Row():
            with gr.Column(scale=1):
                # A file: the model's own pipeline reads it
                image = gr.File(label='Image', file_count='single',
                                elem_id='image')
                name = gr.Dropdown(list(demo.models), label='Model',
                                   value=next(iter(demo.models)))
                tpr = gr.Slider(0, .95, .8, step=.05, label='Share of the '
                                'patches that is pruned')
                button = gr.Button('Run', variant='primary', elem_id='run')
            with gr.Column(scale=3):
                view = gr.Image(show_label=False, elem_id='view',
                                format='png')
                said = gr.Textbox(label='Time', elem_id='said')
        button.click(run, [image, name, tpr], [view, said], api_name='run')
    return page


def check_port(port: int) -> None:
    """Raise a ValueError if a port is taken, or none of a user's."""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f'port {port} cannot be used ({error}): give '
                             'another by --port') from error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    parser.add_argument(
        '--model', nargs=2, action='append', default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model of your own, as often as you like (default: those in '
        'demo/models)')
    parser.add_argument('--port', type=int, default=7860)
    parser.add_argument('--device', default='cpu')
    parser.add_argument(
        '--trust-checkpoint', action='store_true',
        help='load checkpoints that can run code, from a source you trust')
    parser.add_argument(
        '--debug', action='store_true', help='show where an error is from')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
    with one_line_errors(args.debug):
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise ImportError('the page needs gradio, which is not here: pip '
                              'install gradio') from error
        models = {Path(config).stem: resolve(config, checkpoint)
                  for config, checkpoint in args.model}
        if len(models) < len(args.model):
            raise ValueError('two models have configs of the same name: '
                             'rename one.')
        if not args.model:
            models = {name: resolve(name) for name in names()}
        demo = Demo(models, args.device, args.trust_checkpoint)
        check_port(args.port)
        build_page(demo).launch(server_name=HOST, server_port=args.port)


if __name__ == '__main__':
    main()
