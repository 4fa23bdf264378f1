# Copyright (c) mmcropr contributors.
from typing import Optional

import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from torch import Tensor


class QueryDraws:
    """Draws queries without replacement, by generators of its own.

    A draw follows from torch's seed, the rank, the iteration of the run (so
    that a resumed one repeats it) and the module. Without a run, or with
    several losses in an iteration, from how many there were, too.
    """

    def __init__(self) -> None:
        self._iteration: Optional[int] = None
        self._calls = 0

    def begin(self) -> None:
        """To be called once per loss, before its draws."""
        # Where a runner is at work, it says here where it is
        hub = MessageHub.get_current_instance()
        iteration = hub.get_info('iter', 0)
        repeated = iteration == self._iteration
        self._calls = self._calls + 1 if repeated else 0
        self._iteration = iteration

    def __call__(self, module: int, total: int, count: int) -> Tensor:
        """``count`` of ``total`` rows for a module, ascending, on the CPU."""
        seed = torch.initial_seed()
        for number in (get_rank(), self._iteration or 0, self._calls, module):
            # Steps of a linear congruential generator (Knuth, MMIX)
            seed = (seed + number + 1) * 6364136223846793005
            seed = (seed + 1442695040888963407) % 2**64
        generator = torch.Generator().manual_seed(seed >> 1)
        return torch.randperm(total, generator=generator)[:count].sort()[0]
