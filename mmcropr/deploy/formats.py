# Copyright (c) mmcropr contributors.
"""What a model can be exported to: how each format is written and run.

Every file carries a description of what is in it (:mod:`.description`) under
the key ``mmcropr``.
"""
import json
import zipfile
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch

from mmcropr.utils.versions import version_tuple

KEY = 'mmcropr'
TORCH_FLOOR = '2.6'  # of exporters that see shapes as they are
Run = Callable[[np.ndarray], List[np.ndarray]]


class Format(ABC):
    """One format of files.

    Attributes:
        suffix: Of its files.
        needs: Packages that write it, by import name.
        runs_by: Packages that run it, by import name.
    """

    suffix: str
    needs: Tuple[str, ...] = ()
    runs_by: Tuple[str, ...] = ()

    @abstractmethod
    def write(self, program: Any, names: List[str], description: dict,
              file: Path) -> None:
        """Write a ``torch.export.ExportedProgram``.

        Args:
            program: Takes one image.
            names: Of its outputs.
            description: Goes into the file.
            file: Can get other files beside it.
        """

    @abstractmethod
    def open(self, file: Path) -> Tuple[dict, Run]:
        """Description of a file, and what runs it."""


def install(*names: str) -> str:
    """Command that installs packages, by import name."""
    return f'pip install {" ".join(names)}'


def check_packages(names: Tuple[str, ...], what: str) -> None:
    """Raise an ImportError, with the command, unless all are there."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(f'{what} needs {" and ".join(missing)}. Run: '
                          f'{install(*missing)}')


def check_torch() -> None:
    """Raise an ImportError unless torch can export."""
    if version_tuple(torch.__version__) < version_tuple(TORCH_FLOOR):
        raise ImportError(
            f'exporting needs torch >= {TORCH_FLOOR}, found '
            f'{torch.__version__}, whose exporters are others. Export where '
            'there is one (docs/en/get_started.md: the default stack); '
            'checkpoints are the same on both stacks.')


class Onnx(Format):
    """ONNX, of standard operators only; runs in onnxruntime."""

    suffix = '.onnx'
    needs: Tuple[str, ...] = ('onnx', 'onnxscript')
    runs_by = ('onnxruntime', )

    def write(self, program: Any, names: List[str], description: dict,
              file: Path) -> None:
        with torch.no_grad():
            exported = torch.onnx.export(
                program, dynamo=True, input_names=['image'],
                output_names=names, opset_version=description['opset'],
                verbose=False)  # yapf: disable
        model = exported.model
        if isinstance(description['input']['shape'][0], str):
            for value in (*model.graph.inputs, *model.graph.outputs):
                shape = list(value.shape)
                value.shape = type(value.shape)(['batch', *shape[1:]])
        for node in model.graph:  # where each comes from in our code
            node.metadata_props.clear()
        model.metadata_props[KEY] = json.dumps(description)
        exported.save(file)

    def open(self, file: Path) -> Tuple[dict, Run]:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            str(file), options, providers=['CPUExecutionProvider'])
        found = session.get_modelmeta().custom_metadata_map
        name = session.get_inputs()[0].name
        return _parse(found.get(KEY), file), lambda image: session.run(
            None, {name: image})


class TorchExport(Format):
    """``torch.export``'s archive, for PyTorch without our code."""

    suffix = '.pt2'

    def write(self, program: Any, names: List[str], description: dict,
              file: Path) -> None:
        for part in program.graph_module.modules():
            graph = getattr(part, 'graph', None)
            for node in () if graph is None else graph.nodes:
                node.meta.pop('stack_trace', None)  # paths of this machine
        torch.export.save(
            program, str(file), extra_files={KEY: json.dumps(description)})

    def open(self, file: Path) -> Tuple[dict, Run]:
        found = {KEY: ''}
        program = torch.export.load(str(file), extra_files=found)
        return _parse(found[KEY], file), _by_torch(program.module())


class Aot(Format):
    """AOTInductor's package: compiled for the machine that exports, runs in
    PyTorch."""

    suffix = '.pt2'

    def write(self, program: Any, names: List[str], description: dict,
              file: Path) -> None:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(file), inductor_configs={
                'aot_inductor.metadata': {KEY: json.dumps(description)}
            })  # yapf: disable

    def open(self, file: Path) -> Tuple[dict, Run]:
        model = torch._inductor.aoti_load_package(str(file))
        return _parse(model.get_metadata().get(KEY), file), _by_torch(model)


def _by_torch(model: Callable) -> Run:
    @torch.no_grad()
    def run(image: np.ndarray) -> List[np.ndarray]:
        return [x.numpy() for x in model(torch.from_numpy(image))]

    return run


class OpenVino(Onnx):
    """OpenVINO's IR, two files, made by way of ONNX."""

    suffix = '.xml'
    needs = ('onnx', 'onnxscript', 'openvino')
    runs_by = ('openvino', )

    def write(self, program: Any, names: List[str], description: dict,
              file: Path) -> None:
        import openvino
        source = file.with_suffix('.onnx')
        super().write(program, names, description, source)
        model = openvino.convert_model(str(source))
        model.set_rt_info(json.dumps(description), [KEY])
        openvino.save_model(model, str(file), compress_to_fp16=False)
        for part in file.parent.glob(f'{source.name}*'):
            part.unlink()

    def open(self, file: Path) -> Tuple[dict, Run]:
        import openvino
        core = openvino.Core()
        model = core.read_model(str(file))
        found = model.rt_info[KEY].value if KEY in model.rt_info else None
        compiled = core.compile_model(
            model, 'CPU', {
                'INFERENCE_PRECISION_HINT': 'f32',
                'INFERENCE_NUM_THREADS': torch.get_num_threads()
            })

        def run(image: np.ndarray) -> List[np.ndarray]:
            result = compiled(image)
            return [result[i] for i in range(len(compiled.outputs))]

        return _parse(found, file), run


FORMATS: Dict[str, Format] = {
    'onnx': Onnx(),
    'torch-export': TorchExport(),
    'aot': Aot(),
    'openvino': OpenVino(),
}


def _parse(text: Any, file: Path) -> dict:
    if not text:
        raise ValueError(f'{file} was not written by tools/deploy/export.py: '
                         'it does not say what is in it.')
    return json.loads(text)


def format_of(file: Path) -> Format:
    """Format of a file, by its suffix and, where two share it, its content.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is something else, or of no known format.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f'no file at {file}')
    if file.suffix == '.pt2':
        if not zipfile.is_zipfile(file):
            raise ValueError(f'{file} is no archive; it may be truncated.')
        with zipfile.ZipFile(file) as archive:
            compiled = any('aotinductor' in x for x in archive.namelist())
        return FORMATS['aot' if compiled else 'torch-export']
    for kind in FORMATS.values():
        if kind.suffix == file.suffix:
            return kind
    known = sorted({kind.suffix for kind in FORMATS.values()})
    raise ValueError(f'{file} is of no known format; they end in '
                     f'{", ".join(known)}.')


def open_file(file: Path) -> Tuple[dict, Callable]:
    """Description of an exported file, and a function of an image (B, C, H,
    W) -> dict of its outputs by name, all arrays.

    Raises:
        ImportError: With the command, if its runtime is not installed.
        ValueError: If it cannot be read, or was not written by us.
    """
    kind = format_of(file)
    check_packages(kind.runs_by, f'{Path(file).name}')
    try:
        description, run = kind.open(Path(file))
    except ValueError:
        raise
    except Exception as error:  # every runtime has errors of its own
        raise ValueError(f'{file} cannot be read: '
                         f'{type(error).__name__}: {error}') from error
    names = [output['name'] for output in description['outputs']]
    return description, lambda image: dict(zip(names, run(image)))
