# Copyright (c) mmcropr contributors.
from typing import Any, Dict, List, Optional, Tuple

from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import BaseDetector, SemiBaseDetector
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmcropr.registry import MODELS
from mmcropr.structures import TokenState

from ..backbones import cropr_vit_of
from ..checks import check_model
from ..heads import CroprMultiLabelHead, StateHead

REMEDY = ("Without one use the config of the detector itself: "
          "`tools/model_converters/strip_auxiliary.py` writes it.")


@MODELS.register_module()
class CroprDetector(BaseDetector):
    """Trains the reducers of any mmdet detector through an auxiliary head.

    The losses are the detector's own plus those of the auxiliary head, named
    ``aux.module<i>.loss_...``. Everything else is the detector's: prediction,
    data preprocessor, hooks that look for its parts. It is needed for
    training only; ``tools/model_converters/strip_auxiliary.py`` writes config
    and checkpoint of the plain detector.

    Args:
        detector: Config of a detector of mmdet whose backbone is a
            :class:`CroprViT`.
        auxiliary_head: Config of the auxiliary head. Sizes that it leaves
            out (channels, modules, heads, classes) are those of the detector.
        data_preprocessor: For the detector, if its config has none.
        init_cfg: As of every mmengine module.

    Raises:
        TypeError: If ``detector`` is none.
        ValueError: If there is no auxiliary head, or it does not fit the
            detector: modules, channels, queries or classes.
    """

    def __init__(self,
                 detector: dict,
                 auxiliary_head: Optional[dict] = None,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        if auxiliary_head is None:
            raise ValueError(
                'CroprDetector trains an auxiliary head and has none: add '
                "auxiliary_head=dict(type='mmcropr.CroprMultiLabelHead', "
                f'...). {REMEDY}')
        built = self._build(detector, data_preprocessor)
        super().__init__(built.data_preprocessor, init_cfg)
        self.detector = built
        self.auxiliary_head: StateHead = MODELS.build(
            self._complete(auxiliary_head))
        check_model(self, teachers=False)
        self._check_classes()
        self._register_load_state_dict_pre_hook(self._adopt_plain)

    @staticmethod
    def _adopt_plain(state_dict: dict, prefix: str, *args: Any) -> None:
        """Take a checkpoint of the plain detector for the detector inside,
        as ``load_from`` and fine-tuning need it."""
        prefixes = (f'{prefix}detector.', f'{prefix}auxiliary_head.')
        keys = [key for key in state_dict if key.startswith(prefix)]
        if keys and not any(key.startswith(prefixes) for key in keys):
            for key in keys:
                new = f'{prefix}detector.{key[len(prefix):]}'
                state_dict[new] = state_dict.pop(key)

    @staticmethod
    def _build(cfg: dict, data_preprocessor: Optional[dict]) -> BaseDetector:
        cfg = ConfigDict(cfg)  # parts of mmdet read it by attribute
        if data_preprocessor is not None:
            cfg.setdefault('data_preprocessor', data_preprocessor)
        try:
            built = MMDET_MODELS.build(cfg)
        except AttributeError as error:
            if "'CroprViT' object has no attribute" not in str(error):
                raise
            raise ValueError(
                f'detector={cfg.get("type")!r} asks its backbone for what a '
                'plain ViT has not (TridentNet for the branches of its '
                f'ResNet): {error}. Take another detector.') from error
        if not isinstance(built, BaseDetector):
            raise TypeError(
                f'detector={cfg.get("type")!r} is a {type(built).__name__}, '
                'no detector of mmdet such as FasterRCNN, RetinaNet or DINO.')
        if isinstance(built, CroprDetector):
            raise ValueError('detector is a CroprDetector itself: one is '
                             'enough; give it the detector inside.')
        if isinstance(built, SemiBaseDetector):
            raise ValueError(
                f'detector={cfg.get("type")!r} holds detectors itself and '
                'runs them several times per loss: put the CroprDetector '
                "into it, as its `detector`, with the detector inside.")
        backbone = getattr(built, 'backbone', None)
        if cropr_vit_of(backbone) is None:
            raise ValueError(
                f'the backbone of detector={cfg.get("type")!r} is '
                f'{type(backbone).__name__}; CroprDetector trains the '
                'reducers of a mmcropr.CroprViT.')
        return built

    def _complete(self, head: dict) -> dict:
        """The config of the auxiliary head with the sizes that it leaves
        out."""
        name = head.get('type')
        kind = MODELS.get(name) if isinstance(name, str) else name
        if not (isinstance(kind, type) and issubclass(kind, StateHead)):
            raise TypeError(
                f'auxiliary_head={name!r} does not read what reducers '
                'leave; a detector trains Cropr by '
                "dict(type='mmcropr.CroprMultiLabelHead').")
        sizes = kind.sizes_of(cropr_vit_of(self.detector.backbone))
        if 'in_channels' in sizes and 'num_classes' not in head:
            sizes['num_classes'] = self._num_classes()
        given = {**sizes, **head}
        things, stuff = self._panoptic()
        if issubclass(kind, CroprMultiLabelHead) and stuff and (
                given['num_classes'] == things + stuff):
            given.setdefault('num_things', things)
        return given

    def _panoptic(self) -> Tuple[int, int]:
        """Classes of things and of stuff, 0 each unless the detector is
        panoptic."""
        for module in self.detector.modules():
            if isinstance(getattr(module, 'num_stuff_classes', None), int):
                return module.num_things_classes, module.num_stuff_classes
        return 0, 0

    def _classes(self) -> Dict[str, int]:
        """Classes of every head of the detector that knows them, by its
        name."""
        return {
            name or type(module).__name__: module.num_classes
            for name, module in self.detector.named_modules()
            if isinstance(getattr(module, 'num_classes', None), int)
            and not name.endswith('rpn_head')
            and not isinstance(module, RPNHead)
        }

    def _num_classes(self) -> int:
        """Classes of the labels: of things and stuff if the detector is
        panoptic, else of the objects. It may have heads of others, too: those
        of its boxes count.

        Raises:
            ValueError: If that is not clear.
        """
        panoptic = self._panoptic()
        if panoptic[1]:
            return sum(panoptic)
        numbers_by_head = self._classes()
        boxes = {v for k, v in numbers_by_head.items() if 'bbox_head' in k}
        numbers = boxes or set(numbers_by_head.values())
        if len(numbers) != 1:
            heads = ', '.join(f'{k} {v}' for k, v in numbers_by_head.items())
            raise ValueError(
                f'the heads of {type(self.detector).__name__} do not say how '
                f'many classes the labels have ({heads or "none knows"}): '
                'give num_classes in auxiliary_head.')
        return numbers.pop()

    def _check_classes(self) -> None:
        """Raise a ValueError unless some head has the classes of ours."""
        num_classes = getattr(self.auxiliary_head, 'num_classes', None)
        numbers_by_head = self._classes()
        if num_classes is not None and numbers_by_head and (
                num_classes not in numbers_by_head.values()):
            heads = ', '.join(f'{k} {v}' for k, v in numbers_by_head.items())
            raise ValueError(
                f'the auxiliary head has num_classes={num_classes}, the '
                f'detector: {heads}.')

    def __getattr__(self, name: str) -> Any:
        """Parts of the detector, such as ``bbox_head``, for hooks."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'detector':
                raise
            return getattr(self.detector, name)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """Losses of the detector and of every module's auxiliary head.

        Args:
            batch_inputs: (B, C, H, W).
            batch_data_samples: ``DetDataSample`` of every image.
        """
        states: List[TokenState] = []

        def remember(module: nn.Module, args: Any, output: Any) -> None:
            states.append(
                output if isinstance(output, TokenState) else output.state)

        handle = self.detector.backbone.register_forward_hook(remember)
        try:
            losses = self.detector(
                batch_inputs, batch_data_samples, mode='loss')
        finally:
            handle.remove()
        if len(states) != 1:
            raise RuntimeError(
                f'{type(self.detector).__name__} ran its backbone '
                f'{len(states)} times for one loss; the auxiliary head needs '
                'one run over the batch.')
        extra = self.auxiliary_head.loss(states[0], batch_data_samples)
        losses.update({f'aux.{key}': value for key, value in extra.items()})
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: list,
                **kwargs: Any) -> list:
        """Predictions of the detector."""
        return self.detector.predict(batch_inputs, batch_data_samples,
                                     **kwargs)

    def _forward(self,
                 batch_inputs: Tensor,
                 batch_data_samples: Optional[list] = None) -> Any:
        return self.detector(batch_inputs, batch_data_samples, mode='tensor')

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """Feature maps of the detector."""
        return self.detector.extract_feat(batch_inputs)
