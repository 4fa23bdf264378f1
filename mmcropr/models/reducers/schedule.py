# Copyright (c) mmcropr contributors.
"""How many tokens are left after every reducer."""
import math
from fractions import Fraction
from itertools import accumulate
from typing import Any, List, Optional, Sequence, Tuple, Union

Progress = Tuple[int, int]


def sloped_rates(rate: int, slope: float, count: int) -> List[int]:
    """Whole rates on a line from ``int(rate * (1 - slope))`` to what makes
    ``rate`` their mean (Bolya et al., Token Merging, ICLR 2023).

    Args:
        rate: Mean rate, in patches.
        slope: From -1, from twice the rate down to 0, to 1, from 0 up.
        count: Number of modules.
    """
    low = int(rate * (1 - slope))
    high = 2 * rate - low
    if count == 1:
        return [rate]
    return [int(low + i * (high - low) / (count - 1)) for i in range(count)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_whole(values: Sequence[Any]) -> bool:
    return all(_is_number(value) and value % 1 == 0 for value in values)


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
        rate: Patches that leave per module; one number, or one per module.
        tpr: Total pruning ratio, pruned patches / N, in [0, 1).
        keep: Length after every module, prefix tokens included; taken as it
            is on the reference grid.
        keep_rate: Share of the current patches that stays at a module, in
            (0, 1]; one number, or one per module. As DynamicViT and the
            study of Haurum et al. give it: 0.7 three times leaves 70, 49 and
            34.3 % of all patches, rounded down. (EViT's own code rounds the
            current number up and has its fused token besides.)
        modules: Blocks (0-based) that a module follows. Defaults to blocks
            0..L-3, the ones of Last Layer Fusion, or where there is a number
            per module to as many of the first blocks. ``keep_rate`` as one
            number needs them.
        align: Lengths are multiples of this number; 1 switches it off.
        slope: With one ``rate``: rates fall (down to -1) or rise (up to 1)
            linearly over the modules around it, see :func:`sloped_rates`.

    Raises:
        ValueError: If not exactly one of ``rate``, ``tpr``, ``keep`` and
            ``keep_rate`` is given, one of them or ``slope`` is out of its
            range, a block does not exist, or no patch would be left.
    """

    def __init__(self,
                 depth: int,
                 grid: Tuple[int, int],
                 num_prefix: int,
                 rate: Union[int, Sequence[int], None] = None,
                 tpr: Optional[float] = None,
                 keep: Optional[Sequence[int]] = None,
                 modules: Optional[Sequence[int]] = None,
                 align: int = 8,
                 keep_rate: Union[float, Sequence[float], None] = None,
                 slope: Optional[float] = None) -> None:
        given = dict(rate=rate, tpr=tpr, keep=keep, keep_rate=keep_rate)
        given = {k: v for k, v in given.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                'a reducer takes exactly one of rate, tpr, keep and keep_rate'
                f', got {given or "none of them"}. rate=40 removes 40 patches '
                'per module, tpr=0.86 removes 86 % in total.')
        if not isinstance(align, int) or align < 1:
            raise ValueError(f'align must be 1 or more, got {align}')
        self._check_types(given, modules)
        self.grid, self.num_prefix, self.align = grid, num_prefix, align
        (self.kind, self.given), = given.items()
        self.rate, self.tpr = rate, tpr
        self.per_module = None
        if isinstance(self.given, Sequence):
            self.given = self.per_module = tuple(self.given)
        self.modules = self._check_modules(depth, modules)
        if slope is not None:
            self.per_module = self._slope(slope)
        elif self.kind == 'keep_rate' and self.per_module is None:
            self.per_module = (keep_rate, ) * len(self.modules)
        self._check_amount()

    @staticmethod
    def _check_types(given: dict, modules: Any) -> None:
        (kind, value), = given.items()
        lists = () if kind == 'tpr' else (list, tuple)
        if isinstance(value, lists) and lists:
            fits = all(_is_number(item) for item in value)
        else:
            fits = kind != 'keep' and _is_number(value)
        if not fits:
            wanted = {'tpr': 'a number', 'keep': 'a list of numbers'}.get(
                kind, 'a number or a list of them')
            raise ValueError(f'{kind} must be {wanted}, got {value!r}')
        if modules is not None and (isinstance(modules, (int, str))
                                    or not _are_whole(modules)):
            raise ValueError('modules must be a list of block numbers, got '
                             f'{modules!r}')

    def _slope(self, slope: float) -> Tuple[int, ...]:
        if self.kind != 'rate' or self.per_module is not None:
            raise ValueError(f'slope={slope} goes with one rate, got '
                             f'{self.kind}={self.given}')
        if self.rate < 0 or self.rate != int(self.rate):
            raise ValueError('rate is a whole number of patches, 0 or more, '
                             f'got {self.rate}')
        if not -1 <= slope <= 1:
            raise ValueError(f'slope must be in [-1, 1], got {slope}')
        return tuple(sloped_rates(self.rate, slope, len(self.modules)))

    def _check_modules(self, depth: int,
                       modules: Optional[Sequence[int]]) -> Tuple[int, ...]:
        if modules is None and self.per_module is not None:
            modules = range(len(self.per_module))
        elif modules is None and self.kind == 'keep_rate':
            raise ValueError(
                f'keep_rate={self.given} needs modules, the blocks after '
                'which that share stays, such as modules=[2, 5, 8] for a '
                'model of 12 blocks.')
        elif modules is None and depth < 3:
            raise ValueError('modules follow all blocks but the last two '
                             f'unless given, and this model has {depth}.')
        elif modules is None:
            modules = range(depth - 2)
        modules = tuple(map(int, modules))
        if (not modules or list(modules) != sorted(set(modules))
                or modules[0] < 0 or modules[-1] > depth - 2):
            raise ValueError(
                f'modules={modules} must be ascending block numbers from 0 '
                f'to {depth - 2} for a model of {depth} blocks: nothing can '
                'be pruned after the last block.')
        given = self.per_module
        if given is not None and len(given) != len(modules):
            raise ValueError(f'{self.kind} has {len(given)} numbers for '
                             f'{len(modules)} modules: one per module.')
        return modules

    def _check_amount(self) -> None:
        total = self.grid[0] * self.grid[1]
        given = self.per_module or (self.given, )
        if self.kind == 'rate' and (not _are_whole(given) or min(given) < 0):
            raise ValueError('rate is a whole number of patches, 0 or more, '
                             f'got {self.given}')
        if self.kind == 'tpr' and not 0 <= self.tpr < 1:
            raise ValueError(f'tpr must be in [0, 1), got {self.tpr}')
        if self.kind == 'keep_rate' and any(not 0 < r <= 1 for r in given):
            raise ValueError('keep_rate is the share of the patches that '
                             f'stays, in (0, 1], got {self.given}')
        if self.kind == 'keep_rate':
            self.rates = [Fraction(str(r)).as_integer_ratio() for r in given]
        if self.kind == 'keep' and not _are_whole(given):
            raise ValueError(f'keep is a list of whole lengths, got {given}')
        if self.kind == 'keep':
            bound = (total + self.num_prefix, *given)
            if any(a < b for a, b in zip(bound, given)):
                raise ValueError(f'keep={given} must not grow, and start '
                                 f'at {bound[0]} tokens or fewer.')
        if self.kind == 'keep_rate':
            above, below = self._shares((1, 1))[-1]
            left, pruned = total * above // below + self.num_prefix, True
        else:
            self.amounts = self._amounts()
            above, below, count = self.amounts[-1]
            left, pruned = total - math.ceil(count * above / below), above > 0
        if left < 1 + self.num_prefix * pruned:
            most = total - self.num_prefix - 1
            remedy = {
                'rate': f'the largest rate here is {most // len(self)}' if
                self.per_module is None else f'rates can add up to {most}',
                'tpr': 'the largest tpr here is '
                       f'{math.floor(1000 * most / total) / 1000}',
                'keep': 'the last length must be at least '
                        f'{self.num_prefix + 1}',
                'keep_rate': 'the product of all rates must be at least '
                             f'1 / {total}',
            }[self.kind]  # yapf: disable
            raise ValueError(
                f'{self.kind}={self.given} over {len(self)} modules leaves no '
                f'patch: {self.grid[0]} x {self.grid[1]} = {total} patches, '
                f'{left} of {total + self.num_prefix} tokens would be left, '
                f'{self.num_prefix} of them prefix tokens; {remedy}.')

    def __len__(self) -> int:
        return len(self.modules)

    def _amounts(self) -> List[Tuple[int, int, int]]:
        """For every module a fraction and a count, in plain integers so that
        torch.compile sees constants: it takes N to N - count * a / b."""
        total = self.grid[0] * self.grid[1]
        if self.kind == 'keep':
            return [(total - n, 1, 1) for n in map(int, self.per_module)]
        if self.per_module is not None:
            sums = accumulate(map(int, self.per_module))
            return [(amount, 1, 1) for amount in sums]
        if self.tpr is not None:
            step = Fraction(str(self.tpr)) * total / len(self)
        else:
            step = Fraction(self.rate)
        return [(step.numerator, step.denominator, i + 1)
                for i in range(len(self))]

    def _shares(self, progress: Progress) -> List[Tuple[int, int]]:
        """Of all patches, as fractions in plain integers, that are left after
        every module of a ``keep_rate``; each rate falls from 1 with the
        progress."""
        above, below, shares = 1, 1, []
        for part, whole in self.rates:
            above *= whole * progress[1] - (whole - part) * progress[0]
            below *= whole * progress[1]
            shares.append((above, below))
        return shares

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
        if self.kind == 'keep_rate':
            return self._lengths_by_share(total, (1, 1) if full else progress)
        if full and self.kind == 'keep' and total == reference:
            return list(map(int, self.per_module))
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

    def _lengths_by_share(self, total: int, progress: Progress) -> List[int]:
        result = [total + self.num_prefix]
        for above, below in self._shares(progress):
            left = max(total * above // below, 1) + self.num_prefix
            aligned = -(-left // self.align) * self.align
            result.append(min(result[-1], aligned))
        return result[1:]

    def prunes_nothing(self) -> bool:
        """Whether alignment undoes all of an amount above 0."""
        start = self.grid[0] * self.grid[1] + self.num_prefix
        if self.kind == 'keep_rate':
            asked = min(self.per_module) < 1
        else:
            asked = self.amounts[-1][0] > 0
        return asked and self.align > 1 and self.lengths()[-1] == start

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
