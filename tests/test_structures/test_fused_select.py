# Copyright (c) mmcropr contributors.
"""The Triton kernel in Triton's interpreter, on the CPU. It has to be chosen
before Triton is imported, so in a process of its own, which runs this file."""
import sys
from itertools import product

import pytest
import torch

KINDS = dict(
    distinct=lambda b, k: torch.randn(b, k),
    half=lambda b, k: torch.stack(
        [torch.randperm(k) - k / 2 for _ in range(b)]).half(),
    ties=lambda b, k: torch.randint(-1, 2, (b, k)).float(),
    infinite=lambda b, k: torch.randn(b, k).sign() * torch.inf,
    no_number=lambda b, k: torch.randn(b, k).index_fill(
        1, torch.tensor([0]), torch.nan),
    negative=lambda b, k: torch.randn(b, k).index_fill(
        1, torch.tensor([0]), -torch.tensor(torch.nan)))
SIZES = [(1, 17, 5, 0), (3, 100, 64, 1), (2, 33, 1, 5), (2, 40, 39, 2)]


def check(kind: str, batch: int, count: int, num_keep: int,
          num_prefix: int) -> None:
    from mmcropr.structures.fused_select import fused_select
    from mmcropr.structures.rows import select_rows
    torch.manual_seed(0)
    scores = KINDS[kind](batch, count)
    through = torch.randperm(batch * (num_prefix + count))
    found = fused_select(scores, num_keep, num_prefix, through)
    kept, pruned, *origin = found
    assert origin[0].equal(through[kept]) and origin[1].equal(through[pruned])
    part_of_more = torch.cat([scores, scores], 1)[:, count:]
    first = fused_select(part_of_more, num_keep, num_prefix)
    for part, wanted in zip(first, (kept, pruned, kept, pruned)):
        assert part.equal(wanted)
    rows = batch * (num_prefix + count)
    assert torch.cat([kept, pruned]).sort()[0].equal(torch.arange(rows))
    assert (kept.diff() > 0).all() and (pruned.diff() > 0).all()
    everything = torch.cat([
        torch.full((batch, num_prefix), torch.inf),
        scores.float().nan_to_num(nan=torch.inf)], 1).flatten()
    least = everything[kept].view(batch, -1).min(1)[0]
    assert (least >= everything[pruned].view(batch, -1).max(1)[0]).all()
    if kind in ('distinct', 'half', 'no_number', 'negative'):
        wanted = select_rows(scores, num_keep, num_prefix)
        assert kept.equal(wanted[0])
        assert pruned.equal(wanted[1].sort()[0])


def test_selects_what_plain_operations_do():
    from tests.utils import run_tool
    pytest.importorskip('triton', minversion='3.0')
    done = run_tool(sys.executable, __file__, TRITON_INTERPRET='1')
    assert done.stdout == f'{len(KINDS) * len(SIZES)} equal\n', done.stderr


def test_without_what_the_kernel_needs(monkeypatch):
    """A kernel that cannot be built is said and left out: here it has no
    GPU."""
    pytest.importorskip('triton', minversion='3.0')
    from mmcropr.structures import rows
    said = []
    monkeypatch.setattr(rows, 'print_log', lambda text, logger: said.append(
        text))
    works = rows._kernel_works.__wrapped__
    assert not works(torch.device('cpu'))
    assert 'does not run here: ' in said[0]
    monkeypatch.setattr(rows.importlib.util, 'find_spec', lambda name: None)
    assert not works(torch.device('cpu')) and len(said) == 1


if __name__ == '__main__':
    for kind, sizes in product(KINDS, SIZES):
        check(kind, *sizes)
    print(f'{len(KINDS) * len(SIZES)} equal')
