# Copyright (c) mmcropr contributors.
"""What a GPU does otherwise than a CPU. ``tools/gpu_check.sh`` runs these
where there is one; elsewhere they run on the CPU as far as they can."""
import copy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from mmcropr.models import CroprSegHead, CroprViT, LLFNeck
from mmcropr.registry import MODELS
from tests.utils import (REDUCERS, TINY, TINY_EVA, check_close, free_port,
                         group, load_tool, load_vectors)

pytestmark = pytest.mark.gpu
CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')
needs_gpu = pytest.mark.skipif(not CUDA, reason='no CUDA device')
HALVES = [
    torch.bfloat16,
    pytest.param(torch.float16, marks=pytest.mark.skipif(
        not CUDA, reason='no autocast to float16 on this CPU'))
]  # yapf: disable


@pytest.fixture(autouse=True)
def exact_products():
    """Products and convolutions in float32, as the vectors were made with; by
    default convolutions are in TF32."""
    parts = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    torch.manual_seed(0)
    yield
    for part, allowed in zip(parts, before):
        part.allow_tf32 = allowed


class NoReading(TorchDispatchMode):
    """Stands in, on a CPU, for what ``torch.cuda.set_sync_debug_mode`` finds:
    no operation may hand a tensor's value, or a size that follows from
    values, to Python."""

    READS = ('_local_scalar_dense', 'nonzero', 'masked_select', 'is_nonzero',
             'unique', 'equal.default')

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        name = str(op)
        if any(f'aten.{read}' in name for read in self.READS):
            raise RuntimeError(f'{name} waits for the device')
        if name.startswith('aten.index.Tensor') and any(
                i is not None and i.dtype == torch.bool for i in args[1]):
            raise RuntimeError(f'{name} by booleans waits for the device')
        return op(*args, **kwargs or {})


class NoWaiting:
    """Raise a RuntimeError where Python would wait for the device."""

    def __enter__(self) -> None:
        self.mode = None if CUDA else NoReading()
        if CUDA:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode('error')
        else:
            self.mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        if CUDA:
            torch.cuda.set_sync_debug_mode('default')
        else:
            self.mode.__exit__(*error)


def make(name: str = 'Cropr', arch: dict = TINY, size: int = 128,
         **keywords: Any) -> CroprViT:
    torch.manual_seed(0)
    reducer = dict(type=f'mmcropr.{name}', keep=[40, 24], modules=[0, 1],
                   **keywords)
    return CroprViT(arch, img_size=size, patch_size=16, out_type='tokens',
                    reducer=reducer).to(DEVICE).eval()  # yapf: disable


class Segmentor(nn.Module):
    """Backbone, fusion and auxiliary head, as one module."""

    def __init__(self, local: bool = True, num_classes: int = 5) -> None:
        super().__init__()
        self.backbone = make(num_queries='patch')
        self.neck = LLFNeck()
        self.head = CroprSegHead(
            in_channels=32, num_classes=num_classes, num_modules=2,
            local=local)

    def forward(self, image: torch.Tensor, samples: list) -> torch.Tensor:
        maps = self.neck(self.backbone(image))
        losses = self.head.loss(maps, samples)
        return maps[0].square().mean() + sum(losses.values())


def labels(count: int, size: int = 128) -> list:
    from mmengine.structures import BaseDataElement, PixelData
    return [
        BaseDataElement(
            gt_sem_seg=PixelData(
                data=torch.randint(5, (1, size, size), device=DEVICE)))
        for _ in range(count)
    ]


def test_vectors_in_float32():
    pytest.importorskip('mmpretrain')
    from tests.test_models.test_vectors import check_kept, convert, seg_model
    cfg, vectors = load_vectors('segmentation')
    model = seg_model(cfg).to(DEVICE).eval()
    model.load_state_dict(convert(group(vectors, 'state.'))[0])
    with torch.no_grad():
        maps = model.extract_feat(vectors['input.image'].to(DEVICE))
        logits = model.decode_head(maps)
    check_close(logits.cpu(), vectors['eval.logits'])
    check_kept(maps.state, group(vectors, 'eval.kept_index.'), 1)


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('arch', [TINY, TINY_EVA])
def test_half_precision(arch, dtype):
    """Scores of tokens in half precision keep nearly the same ones."""
    model, image = make(arch=arch), torch.rand(4, 3, 128, 128, device=DEVICE)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast(DEVICE.type, dtype):
            half = model(image)
    same = (exact.trace()[1] == half.trace()[1]).float().mean()
    assert same > 0.9
    error = (exact.full() - half.full()).abs().mean() / exact.full().std()
    assert error < 0.05


@pytest.mark.parametrize('name', REDUCERS)
@pytest.mark.parametrize('arch', [TINY, TINY_EVA])
def test_forward_does_not_wait(arch, name):
    model, image = make(name, arch), torch.rand(2, 3, 128, 128, device=DEVICE)
    if MODELS.get(name).needs_class_token and not model.trunk.has_class_token:
        pytest.skip('needs a class token')
    model(image)  # what is made once
    with torch.no_grad(), NoWaiting():
        model(image).full()
    model.train()
    with NoWaiting():
        model(image).full()


@pytest.mark.parametrize('local', [True, False])
def test_a_training_step_does_not_wait(local):
    model = Segmentor(local).to(DEVICE).train()
    image, samples = torch.rand(2, 3, 128, 128, device=DEVICE), labels(2)
    model(image, samples).backward()
    with NoWaiting():
        model(image, samples).backward()


@pytest.mark.parametrize('reading', [
    lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(),
    lambda x: bool(x[0] > 0)])
def test_waiting_is_found(reading):
    x = torch.rand(4, device=DEVICE)
    with pytest.raises(RuntimeError), NoWaiting():
        reading(x)


def test_ddp_in_one_process():
    """Over NCCL where there is a GPU: the same gradients, each reduced
    once, and no weight without one."""
    plain = Segmentor().to(DEVICE).train()
    twin = copy.deepcopy(plain)
    image, samples = torch.rand(2, 3, 128, 128, device=DEVICE), labels(2)
    plain(image, samples).backward()
    distributed.init_process_group(
        'nccl' if CUDA else 'gloo', rank=0, world_size=1,
        init_method=f'tcp://127.0.0.1:{free_port()}')
    try:
        wrapped = DistributedDataParallel(twin)
        for _ in range(2):  # unused weights would stop the second
            twin.zero_grad()
            wrapped(image, samples).backward()
        for ours, theirs in zip(plain.parameters(), twin.parameters()):
            torch.testing.assert_close(ours.grad, theirs.grad)
    finally:
        distributed.destroy_process_group()


@needs_gpu
@pytest.mark.parametrize('options', [dict(), dict(mode='reduce-overhead')])
def test_compiled_equals_eager(options):
    """Also as a CUDA graph, whose memory must not depend on values. On a CPU
    test_compile.py does so."""
    model, image = make(), torch.rand(2, 3, 128, 128, device=DEVICE)
    compiled = torch.compile(
        lambda x: model(x).full(), fullgraph=True, **options)
    with torch.no_grad():
        for _ in range(3):
            found = compiled(image).clone()
        torch.testing.assert_close(
            found, model(image).full(), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@needs_gpu
@pytest.mark.parametrize('name', ['Cropr', 'AttnTopK', 'EViT', 'ToMe'])
def test_a_cuda_graph_equals_eager(name):
    load_tool('analysis_tools/benchmark.py')
    timing = import_module('timing')
    model, image = make(name), torch.rand(2, 3, 128, 128, device=DEVICE)
    found = []

    @torch.no_grad()
    def run():
        found[:] = [model(image).full()]

    replay = timing.graph_of(run)
    image.copy_(torch.rand_like(image))  # other values, so other tokens
    replay()
    with torch.no_grad():
        wanted = model(image).full()
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize('batch, count', [(1, 1024), (8, 1024), (2, 9216)])
def test_fused_selection(batch, count, monkeypatch):
    """The Triton kernel selects what the plain operations do."""
    from mmcropr.structures import rows
    scores = torch.randn(batch, count, device=DEVICE)
    through = torch.randperm(batch * (count + 1), device=DEVICE)
    monkeypatch.setattr(rows, 'FUSED', False)
    wanted = rows.select_rows(scores, count - 40, 1, through=through)
    monkeypatch.setattr(rows, 'FUSED', True)
    assert rows._takes_kernel(scores, 1)
    found = rows.select_rows(scores, count - 40, 1, through=through)
    assert found.kept.equal(wanted.kept)
    pruned = wanted.pruned.view(batch, -1).sort(1)[0].flatten()
    assert found.pruned.equal(pruned)
    assert found.kept_origin.equal(through[wanted.kept])
    assert found.pruned_origin.equal(through[pruned])


@needs_gpu
@pytest.mark.parametrize('arch, most', [(TINY, 5), (TINY_EVA, 6)])
def test_kernels_of_a_module(arch, most):
    """What the GPU is asked for; test_kernels.py counts operations of a
    CPU, which has no fused selection."""
    from torch.profiler import ProfilerActivity, profile

    def count(modules):
        model = CroprViT(
            dict(arch, depth=6), img_size=128, patch_size=16,
            out_type='tokens', reducer=dict(
                type='mmcropr.Cropr', rate=8, modules=list(range(modules))))
        model.to(DEVICE).eval().fold_queries()
        image = torch.rand(2, 3, 128, 128, device=DEVICE)
        with torch.no_grad():
            model(image)
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                model(image)
                torch.cuda.synchronize()
        return sum(event.count for event in seen.key_averages()
                   if event.device_type == torch.autograd.DeviceType.CUDA)

    assert 0 < (count(4) - count(2)) / 2 <= most


UNMASKED = ('Cropr', 'NonSalient', 'Random', 'Variance', 'AttnTopK', 'TopK',
            'EViT', 'SiT', 'Sinkhorn', 'PatchMerger', 'DPCKNN', 'KMedoids')


@needs_gpu
@pytest.mark.parametrize('name', UNMASKED)
def test_flash_attention_runs(name):
    """No reducer but those with sizes or filling keeps it from running."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    arch = dict(TINY, embed_dim=64)  # heads of 32 channels
    model, image = make(name, arch), torch.rand(2, 3, 128, 128, device=DEVICE)
    with torch.no_grad(), torch.autocast('cuda', torch.float16):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            model(image)


@needs_gpu
def test_peak_memory_of_a_training_step():
    """Local losses keep one module's activations; with so many classes, these
    are most of the memory."""
    peaks = []
    for local in (True, False):
        model = Segmentor(local, num_classes=4000).to(DEVICE).train()
        image, samples = torch.rand(64, 3, 128, 128, device=DEVICE), labels(64)
        for _ in range(2):
            model.zero_grad()
            torch.cuda.reset_peak_memory_stats()
            model(image, samples).backward()
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[0] < 0.95 * peaks[1]
