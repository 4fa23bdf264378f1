# Copyright (c) mmcropr contributors.
"""How many tokens are left after every reducer."""
import math
from fractions import Fraction
from typing import List, Optional, Sequence, Tuple

Progress = Tuple[int, int]


class PruningSchedule:
    """Kept lengths, known before the first forward for any grid.

    A rate of R patches per module leaves N - R * (i + 1) tokens after module
    i, prefix tokens included (Cropr): the first module also removes
    as many patches as there are prefix tokens, so lengths stay multiples of 8
    where N and R are. ``tpr`` spreads its patches evenly in the same way.
    Lengths are rounded up to multiples of ``align``, because one token off
    such a multiple costs a GPU much of its throughput. On a grid other than
    the reference grid the same share of the patches leaves.

    Args:
        depth: Number of transformer blocks L.
        grid: Reference grid (h, w), from the image size of training.
        num_prefix: Number of prefix tokens P.
        rate: Patches that leave per module.
        tpr: Total pruning ratio, pruned patches / N, in [0, 1).
        keep: Length after every module, prefix tokens included; taken as it
            is on the reference grid.
        modules: Blocks (0-based) that a module follows. Defaults to blocks
            0..L-3, the ones of Last Layer Fusion, or with ``keep`` to as many
            of the first blocks as it has lengths.
        align: Lengths are multiples of this number; 1 switches it off.

    Raises:
        ValueError: If not exactly one of ``rate``, ``tpr`` and ``keep`` is
            given, a block does not exist, or no patch would be left.
    """

    def __init__(self,
                 depth: int,
                 grid: Tuple[int, int],
                 num_prefix: int,
                 rate: Optional[int] = None,
                 tpr: Optional[float] = None,
                 keep: Optional[Sequence[int]] = None,
                 modules: Optional[Sequence[int]] = None,
                 align: int = 8) -> None:
        given = dict(rate=rate, tpr=tpr, keep=keep)
        given = {k: v for k, v in given.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                'a reducer takes exactly one of rate, tpr and keep, got '
                f'{given or "none of them"}. rate=40 removes 40 patches per '
                'module, tpr=0.86 removes 86 % in total.')
        if align < 1:
            raise ValueError(f'align must be 1 or more, got {align}')
        self.grid, self.num_prefix, self.align = grid, num_prefix, align
        self.rate, self.tpr, self.kind = rate, tpr, next(iter(given))
        self.keep = None if keep is None else tuple(keep)
        self.modules = self._check_modules(depth, modules)
        self._check_amount()

    def _check_modules(self, depth: int,
                       modules: Optional[Sequence[int]]) -> Tuple[int, ...]:
        if modules is None:
            count = max(depth - 2, 0) if self.keep is None else len(self.keep)
            modules = range(count)
        modules = tuple(modules)
        if (not modules or list(modules) != sorted(set(modules))
                or modules[0] < 0 or modules[-1] > depth - 2):
            raise ValueError(
                f'modules={modules} must be ascending block numbers from 0 '
                f'to {depth - 2} for a model of {depth} blocks: nothing can '
                'be pruned after the last block.')
        if self.keep is not None and len(self.keep) != len(modules):
            raise ValueError(f'keep has {len(self.keep)} lengths for '
                             f'{len(modules)} modules: one per module.')
        return modules

    def _check_amount(self) -> None:
        total = self.grid[0] * self.grid[1]
        if self.rate is not None and (self.rate < 0
                                      or self.rate != int(self.rate)):
            raise ValueError('rate is a whole number of patches, 0 or more, '
                             f'got {self.rate}')
        if self.tpr is not None and not 0 <= self.tpr < 1:
            raise ValueError(f'tpr must be in [0, 1), got {self.tpr}')
        if self.keep is not None:
            bound = (total + self.num_prefix, *self.keep)
            if any(a < b for a, b in zip(bound, self.keep)):
                raise ValueError(f'keep={self.keep} must not grow, and start '
                                 f'at {bound[0]} tokens or fewer.')
        self.amounts = self._amounts()
        above, below, count = self.amounts[-1]
        left = total - math.ceil(count * above / below)
        if left < 1 + self.num_prefix * (above > 0):
            most = total - self.num_prefix - 1
            how, remedy = {
                'rate': (self.rate, f'the largest rate here is '
                         f'{most // len(self)}'),
                'tpr': (self.tpr, f'the largest tpr here is '
                        f'{math.floor(1000 * most / total) / 1000}'),
                'keep': (self.keep, 'the last length must be at least '
                         f'{self.num_prefix + 1}'),
            }[self.kind]
            raise ValueError(
                f'{self.kind}={how} over {len(self)} modules leaves no patch: '
                f'{self.grid[0]} x {self.grid[1]} = {total} patches, '
                f'{left} of {total + self.num_prefix} tokens would be left, '
                f'{self.num_prefix} of them prefix tokens; {remedy}.')

    def __len__(self) -> int:
        return len(self.modules)

    def _amounts(self) -> List[Tuple[int, int, int]]:
        """For every module a fraction and a count, in plain integers so that
        torch.compile sees constants: it takes N to N - count * a / b."""
        total = self.grid[0] * self.grid[1]
        if self.keep is not None:
            return [(total - length, 1, 1) for length in self.keep]
        if self.tpr is not None:
            step = Fraction(str(self.tpr)) * total / len(self)
        else:
            step = Fraction(self.rate)
        return [(step.numerator, step.denominator, i + 1)
                for i in range(len(self))]

    def lengths(self,
                grid: Optional[Tuple[int, int]] = None,
                progress: Progress = (1, 1)) -> List[int]:
        """Length of the sequence after every module, prefix included.

        Args:
            grid: Patches per column and row; the reference grid by default.
            progress: Share of the full rate in [0, 1] as numerator and
                denominator, for the curriculum. The rate is rounded down.
        """
        grid = self.grid if grid is None else grid
        total, reference = grid[0] * grid[1], self.grid[0] * self.grid[1]
        full = progress[0] >= progress[1]
        if full and self.keep is not None and total == reference:
            return list(self.keep)
        length, result = total + self.num_prefix, []
        for above, below, count in self.amounts:
            if not full:
                above = above * progress[0] // (below * progress[1])
                below = 1
            if above > 0:
                # ceil of (total - pruned) / align, pruned being the share
                # count * above / below of the reference grid's patches
                scale = below * reference
                left = total * scale - count * above * total
                aligned = -(-left // (scale * self.align)) * self.align
                length = min(length, max(aligned, self.num_prefix + 1))
            result.append(length)
        return result

    def misses_tpr(self, tolerance: float = 0.01) -> bool:
        """Whether alignment takes the reference grid's ratio off ``tpr``."""
        if self.tpr is None:
            return False
        left = self.lengths()[-1] / (self.grid[0] * self.grid[1])
        return abs(1 - left - self.tpr) > tolerance

    def describe(self) -> str:
        """One line: modules, lengths and ratio on the reference grid."""
        lengths, total = self.lengths(), self.grid[0] * self.grid[1]
        pruned = total + self.num_prefix - lengths[-1]
        return (f'{len(self)} modules after blocks {self.modules[0]}..'
                f'{self.modules[-1]}, {lengths[0]}..{lengths[-1]} tokens of '
                f'{total + self.num_prefix} on a {self.grid[0]} x '
                f'{self.grid[1]} grid, TPR {pruned / total:.1%}')
