# Copyright (c) mmcropr contributors.
"""How many tokens are left after every reducer."""
import math
from fractions import Fraction
from itertools import accumulate
from typing import Any, List, Optional, Sequence, Tuple, Union

from .amounts import Entry, Grid, KeepShare, Progress, Remove, lengths_after


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


def _one_amount(amounts: dict) -> Tuple[str, Any]:
    """The one that is given of rate, tpr, keep and keep_rate; a list as a
    tuple.

    Raises:
        ValueError: If there is not one, or it is of another type.
    """
    specified = {k: v for k, v in amounts.items() if v is not None}
    if len(specified) != 1:
        raise ValueError(
            'a reducer takes exactly one of rate, tpr, keep and keep_rate'
            f', got {specified or "none of them"}. rate=40 removes 40 patches '
            'per module, tpr=0.86 removes 86 % in total.')
    (kind, value), = specified.items()
    if isinstance(value, (list, tuple)) and kind != 'tpr':
        fits, value = all(map(_is_number, value)), tuple(value)
    else:
        fits = kind != 'keep' and _is_number(value)
    if not fits:
        expected = {'tpr': 'a number', 'keep': 'a list of numbers'}.get(
            kind, 'a number or a list of them')
        raise ValueError(f'{kind} must be {expected}, got {value!r}')
    return kind, value


def _find_modules(depth: int, fuse_at: Optional[int], kind: str, value: Any,
                  modules: Optional[Sequence[int]]) -> Tuple[int, ...]:
    """Blocks that a module follows, as given or by default.

    Raises:
        ValueError: If they are no blocks, not ascending, or not as many as
            there are amounts.
    """
    # Without fusion a module may follow the last block but one
    last = depth - 2 if fuse_at is None else fuse_at - 2
    if modules is not None and (isinstance(modules, (int, float, str))
                                or not _are_whole(modules)):
        raise ValueError('modules must be a list of block numbers, got '
                         f'{modules!r}')
    if modules is None and isinstance(value, tuple):
        modules = range(len(value))
    elif modules is None and kind == 'keep_rate':
        raise ValueError(
            f'keep_rate={value} needs modules, the blocks after '
            'which that share stays, such as modules=[2, 5, 8] for a '
            'model of 12 blocks.')
    elif modules is None and last < 0:
        raise ValueError(
            'modules follow the blocks before the one that fuses, but the '
            f'last of them, unless given: none of {depth} blocks with '
            f'fuse_at={fuse_at}.')
    elif modules is None:
        modules = range(last + 1)
    modules = tuple(map(int, modules))
    most = depth - 2 if fuse_at is None else fuse_at - 1
    if (not modules or list(modules) != sorted(set(modules))
            or modules[0] < 0 or modules[-1] > most):
        reason = ('nothing can be pruned after the last block'
                  if most == depth - 2 else
                  f'all tokens are back before block {fuse_at}')
        raise ValueError(
            f'modules={modules} must be ascending block numbers from 0 '
            f'to {most} for a model of {depth} blocks: {reason}.')
    if isinstance(value, tuple) and len(value) != len(modules):
        raise ValueError(f'{kind} has {len(value)} numbers for '
                         f'{len(modules)} modules: one per module.')
    return modules


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
        modules: Blocks (0-based) that a module follows. Defaults to all
            before the one that fuses but the last of them, or where there is
            a number per module to as many of the first blocks. ``keep_rate``
            as one number needs them.
        align: Lengths are multiples of this number; 1 switches it off.
        slope: With one ``rate``: rates fall (down to -1) or rise (up to 1)
            linearly over the modules around it, see :func:`sloped_rates`.
        fuse_at: Block before which all tokens are put back, the last one
            (Last Layer Fusion) by default; -1 counts from the end. Modules
            follow blocks 0..L-3 then, since pruning after block L-2 would be
            undone at once. None where nothing is put back: 0..L-2.

    Attributes:
        modules: Blocks that a module follows.
        entries: Amount of every module, see :mod:`.amounts`.
        text: The amount as given, such as 'rate=40'.

    Raises:
        ValueError: If not exactly one of ``rate``, ``tpr``, ``keep`` and
            ``keep_rate`` is given, one of them or ``slope`` is out of its
            range, a block does not exist, or no patch would be left.
    """

    def __init__(self,
                 depth: int,
                 grid: Grid,
                 num_prefix: int,
                 rate: Union[int, Sequence[int], None] = None,
                 tpr: Optional[float] = None,
                 keep: Optional[Sequence[int]] = None,
                 modules: Optional[Sequence[int]] = None,
                 align: int = 8,
                 keep_rate: Union[float, Sequence[float], None] = None,
                 slope: Optional[float] = None,
                 fuse_at: Optional[int] = -1) -> None:
        kind, value = _one_amount(
            dict(rate=rate, tpr=tpr, keep=keep, keep_rate=keep_rate))
        if not isinstance(align, int) or align < 1:
            raise ValueError(f'align must be 1 or more, got {align}')
        self.grid, self.num_prefix, self.text = grid, num_prefix, (
            f'{kind}={value}')
        self.tpr = tpr
        if fuse_at is not None and fuse_at < 0:
            fuse_at += depth
        self.modules = _find_modules(depth, fuse_at, kind, value, modules)
        if slope is not None:
            value = self._sloped(kind, value, slope)
        self.entries = [
            Entry(block, amount, align) for block, amount in zip(
                self.modules, self._amounts(kind, value))
        ]
        self._check_left(kind, isinstance(value, tuple))

    def _sloped(self, kind: str, rate: Any,
                slope: float) -> Tuple[int, ...]:
        if kind != 'rate' or isinstance(rate, tuple):
            raise ValueError(f'slope={slope} goes with one rate, got '
                             f'{self.text}')
        if rate < 0 or rate != int(rate):
            raise ValueError('rate is a whole number of patches, 0 or more, '
                             f'got {rate}')
        if not -1 <= slope <= 1:
            raise ValueError(f'slope must be in [-1, 1], got {slope}')
        return tuple(sloped_rates(int(rate), slope, len(self)))

    def _amounts(self, kind: str, value: Any) -> list:
        """Any spelling -> an amount per module."""
        total, count = self.grid[0] * self.grid[1], len(self)
        values = value if isinstance(value, tuple) else (value, )
        if kind == 'rate' and (not _are_whole(values) or min(values) < 0):
            raise ValueError('rate is a whole number of patches, 0 or more, '
                             f'got {value}')
        if kind == 'tpr' and not 0 <= value < 1:
            raise ValueError(f'tpr must be in [0, 1), got {value}')
        if kind == 'keep_rate' and any(not 0 < r <= 1 for r in values):
            raise ValueError('keep_rate is the share of the patches that '
                             f'stays, in (0, 1], got {value}')
        if kind == 'keep' and not _are_whole(values):
            raise ValueError(f'keep is a list of whole lengths, got {values}')
        if kind == 'keep':
            bound = (total + self.num_prefix, *values)
            if any(a < b for a, b in zip(bound, values)):
                raise ValueError(f'keep={values} must not grow, and start '
                                 f'at {bound[0]} tokens or fewer.')
            return [Remove(total - int(n), 1, 1, total=True) for n in values]
        if kind == 'keep_rate':
            values = values * count if len(values) == 1 else values
            shares = [Fraction(str(r)) for r in values]
            return [KeepShare(r.numerator, r.denominator) for r in shares]
        if isinstance(value, tuple):
            return [Remove(n, 1, 1) for n in accumulate(map(int, value))]
        rate = Fraction(
            value) if kind == 'rate' else Fraction(str(value)) * total / count
        return [
            Remove(rate.numerator, rate.denominator, i + 1)
            for i in range(count)
        ]

    def _unaligned(self) -> Tuple[int, bool]:
        """Tokens that would be left without ``align``, and whether any patch
        shall leave."""
        total = self.grid[0] * self.grid[1]
        if isinstance(self.entries[-1].amount, KeepShare):
            left = Fraction(total)
            for entry in self.entries:
                left *= Fraction(*entry.amount)
            return math.floor(left) + self.num_prefix, left < total
        numerator, denominator, count, _ = self.entries[-1].amount
        return total - math.ceil(count * numerator / denominator), (
            numerator > 0)

    def _check_left(self, kind: str, per_module: bool) -> None:
        left, prunes = self._unaligned()
        if left >= 1 + self.num_prefix * prunes:
            return
        total = self.grid[0] * self.grid[1]
        most = total - self.num_prefix - 1
        remedy = {
            'rate': f'rates can add up to {most}' if per_module else
                    f'the largest rate here is {most // len(self)}',
            'tpr': 'the largest tpr here is '
                   f'{math.floor(1000 * most / total) / 1000}',
            'keep': 'the last length must be at least '
                    f'{self.num_prefix + 1}',
            'keep_rate': f'the product of all rates must be at least '
                         f'1 / {total}',
        }[kind]  # yapf: disable
        raise ValueError(
            f'{self.text} over {len(self)} modules leaves no '
            f'patch: {self.grid[0]} x {self.grid[1]} = {total} patches, '
            f'{left} of {total + self.num_prefix} tokens would be left, '
            f'{self.num_prefix} of them prefix tokens; {remedy}.')

    def __len__(self) -> int:
        return len(self.modules)

    def lengths(self,
                grid: Optional[Grid] = None,
                progress: Progress = (1, 1)) -> List[int]:
        """Length of the sequence after every module, prefix included.

        Args:
            grid: Patches per column and row; the reference grid by default.
            progress: Share of the full rate in [0, 1] as numerator and
                denominator, for the curriculum. The rate is rounded down.
        """
        grid = self.grid if grid is None else grid
        return lengths_after(self.entries, grid, self.grid, self.num_prefix,
                             progress)

    def prunes_little(self) -> bool:
        """Whether alignment undoes more than half of what was asked for."""
        start = self.grid[0] * self.grid[1] + self.num_prefix
        unaligned, prunes = self._unaligned()
        left = self.lengths()[-1]
        return prunes and 2 * (left - unaligned) > start - unaligned

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
