# Copyright (c) mmcropr contributors.
"""Several reducers in one model."""
from typing import Sequence

from .amounts import Remove, lengths_after
from .schedule import PruningSchedule


class CombinedSchedule(PruningSchedule):
    """Several schedules in one model, in the order of their blocks. A rate
    goes on from what the modules before it left, as does ``keep_rate``;
    ``keep`` gives lengths as they are, and ``tpr`` is the share of all patches
    that its own modules prune.

    Args:
        schedules: Of the same model; no two of their modules follow the same
            block.

    Raises:
        ValueError: If two do, or no patch would be left.
    """

    def __init__(self, schedules: Sequence[PruningSchedule]) -> None:
        first = schedules[0]
        self.grid, self.num_prefix, self.tpr = (first.grid, first.num_prefix,
                                                None)
        self.entries = sorted(
            (entry._replace(schedule=number)
             for number, schedule in enumerate(schedules)
             for entry in schedule.entries),
            key=lambda entry: entry.block)
        self.modules = tuple(entry.block for entry in self.entries)
        self.text = ' and '.join(s.text for s in schedules)
        twice = [a for a, b in zip(self.modules, self.modules[1:]) if a == b]
        if twice:
            raise ValueError(
                f'blocks {twice} have modules of two reducers; give each of '
                f'{self.text} modules of its own.')
        unaligned = [entry._replace(align=1) for entry in self.entries]
        lengths = lengths_after(unaligned, self.grid, self.grid,
                                self.num_prefix, (1, 1))
        total = self.grid[0] * self.grid[1]
        before = [total + self.num_prefix, *lengths]
        for entry, length in zip(self.entries, before):
            amount = entry.amount
            keep = total - amount.numerator if isinstance(
                amount, Remove) and amount.total else length
            if keep > length:
                raise ValueError(
                    f'{self.text}: keep asks for {keep} tokens after block '
                    f'{entry.block}, and {length} are left before it: keep '
                    'must not grow.')
        if lengths[-1] <= self.num_prefix + 1 and lengths[-1] < total:
            raise ValueError(
                f'{self.text} together leave {lengths[-1]} of '
                f'{total + self.num_prefix} tokens, {self.num_prefix} of '
                'them prefix tokens: let less leave.')

    def prunes_little(self) -> bool:
        return self.lengths()[-1] == (
            self.grid[0] * self.grid[1] + self.num_prefix)
