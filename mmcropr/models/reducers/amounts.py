# Copyright (c) mmcropr contributors.
"""The canonical form of a schedule, and the lengths that follow from it.

However it is spelled (:class:`PruningSchedule`), a schedule is one amount per
module: patches that leave, or a share of the current ones that stays. Numbers
are plain integers, so that ``torch.compile`` sees constants.
"""
from typing import List, NamedTuple, Sequence, Tuple, Union, cast

Grid = Tuple[int, int]
Progress = Tuple[int, int]


class Remove(NamedTuple):
    """Of the reference grid ``count * numerator / denominator`` patches are
    gone after this module: since the first one of the same schedule or, where
    ``total``, altogether."""
    numerator: int
    denominator: int
    count: int  # type: ignore[assignment]  # tuple has a method of the name
    total: bool = False

    def at(self, progress: Progress) -> Tuple[int, int, int]:
        """The same with the rate at this progress, rounded down."""
        done, whole = progress
        if done >= whole:
            return self.numerator, self.denominator, self.count
        rate = self.numerator * done // (self.denominator * whole)
        return rate, 1, self.count


class KeepShare(NamedTuple):
    """Of the patches before this module ``part / whole`` stay."""
    part: int
    whole: int

    def at(self, progress: Progress) -> Tuple[int, int]:
        """The same with the share at this progress, which falls from 1."""
        done, end = progress
        if done >= end:
            return self.part, self.whole
        return self.whole * end - (self.whole - self.part) * done, (
            self.whole * end)


Amount = Union[Remove, KeepShare]


class Entry(NamedTuple):
    """One module of a model: after which ``block`` it is, its ``amount``,
    what its length is a multiple of, and the number of the ``schedule`` that
    it is from, as several can share a model."""
    block: int
    amount: Amount
    align: int
    schedule: int = 0


def _round_up(numerator: int, denominator: int, align: int) -> int:
    """numerator / denominator, up to a multiple of ``align``."""
    return -(-numerator // (denominator * align)) * align


def lengths_after(entries: Sequence[Entry], grid: Grid, reference: Grid,
                  num_prefix: int, progress: Progress) -> List[int]:
    """Length of the sequence after every module, prefix included.

    Args:
        entries: In the order of their blocks.
        grid: Patches per column and row.
        reference: The grid that numbers of patches are of; of another one
            the same shares leave.
        num_prefix: Number of prefix tokens P.
        progress: Share of the full rate, numerator and denominator.
    """
    total, patches = reference[0] * reference[1], grid[0] * grid[1]
    exact = progress[0] >= progress[1] and total == patches
    length, result = patches + num_prefix, []
    # Where one schedule follows another, numbers go on from what remains:
    # as a fraction of the reference grid's patches that are gone so far ...
    removed, base, before, last = (0, 1), (0, 1), (0, 1), None
    # ... and of the patches of this grid that remain
    remaining = (patches, 1)
    for entry in entries:
        amount = entry.amount
        if entry.schedule != last and last is not None:
            before = _so_far(entries, entry, progress)
            base = _minus(removed, before)
            remaining = _remaining(removed, patches, total, num_prefix)
        last = entry.schedule
        if isinstance(amount, KeepShare):
            part, whole = amount.at(progress)
            remaining = (remaining[0] * part, remaining[1] * whole)
            floor = max(remaining[0] // remaining[1], 1) + num_prefix
            length = min(length, _round_up(floor, 1, entry.align))
            removed = _removed(remaining, patches, total, num_prefix)
        else:
            numerator, denominator, count = amount.at(progress)
            if amount.total:
                removed = (count * numerator, denominator)
            else:
                removed = _plus(base, (count * numerator, denominator))
            if exact and amount.total:
                length = min(length, total - amount.numerator)
            elif numerator > 0:
                scale = removed[1] * total
                rest = patches * scale - removed[0] * patches
                aligned = _round_up(rest, scale, entry.align)
                length = min(length, max(aligned, num_prefix + 1))
        result.append(length)
    return result


def _so_far(entries: Sequence[Entry], entry: Entry,
            progress: Progress) -> Tuple[int, int]:
    """What the schedule of an entry took before it, by its own numbers."""
    same = [e for e in entries if e.schedule == entry.schedule]
    number = same.index(entry)
    if number == 0 or isinstance(entry.amount, KeepShare):
        return 0, 1
    before = cast(Remove, same[number - 1].amount)
    numerator, denominator, count = before.at(progress)
    return count * numerator, denominator


def _plus(a: Tuple[int, int], b: Tuple[int, int]) -> Tuple[int, int]:
    if a[0] == 0:
        return b
    return a[0] * b[1] + b[0] * a[1], a[1] * b[1]


def _minus(a: Tuple[int, int], b: Tuple[int, int]) -> Tuple[int, int]:
    return _plus(a, (-b[0], b[1])) if a[0] else (-b[0], b[1])


def _remaining(removed: Tuple[int, int], patches: int, total: int,
               num_prefix: int) -> Tuple[int, int]:
    """Patches of this grid that remain where so many of the reference
    grid's are gone; the first of them made room for the prefix tokens."""
    if removed[0] == 0:
        return patches, 1
    scale = removed[1] * total
    return patches * scale - removed[0] * patches - num_prefix * scale, scale


def _removed(remaining: Tuple[int, int], patches: int, total: int,
             num_prefix: int) -> Tuple[int, int]:
    """Inverse of :func:`_remaining`."""
    if remaining[0] == patches * remaining[1]:
        return 0, 1
    return ((patches - num_prefix) * remaining[1] - remaining[0]) * total, (
        remaining[1] * patches)
