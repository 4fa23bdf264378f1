# Copyright (c) mmcropr contributors.
"""What a few seeds say about an order of methods."""
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

DRAWS = 2000


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval, None where one seed gives
    none."""
    value: float
    low: Optional[float] = None
    high: Optional[float] = None


def kendall(ours: Dict[str, Dict[int, float]],
            published: Dict[str, float]) -> Optional[Interval]:
    """Kendall's tau (b) between medians over seeds and published figures.

    Its interval is a bootstrap over seeds: every draw takes seeds with
    replacement, the same ones for all rows, as rows of a seed share their
    order of the data.

    Args:
        ours: Accuracy of every row, by seed. Seeds that one row lacks count
            for none.
        published: Of the rows that have one.

    Returns:
        None with fewer than three rows that have both, without a common seed,
        or where all are alike.
    """
    names = [name for name in ours if name in published]
    if len(names) < 3:
        return None
    wanted = [published[name] for name in names]
    common = sorted(set.intersection(*(set(ours[name]) for name in names)))
    values = {name: [ours[name][seed] for seed in common] for name in names}
    count = len(common)
    if not count:
        return None

    def tau(seeds: np.ndarray) -> float:
        medians = [np.median(np.take(values[name], seeds)) for name in names]
        return float(stats.kendalltau(medians, wanted).statistic)

    value = tau(np.arange(count))
    if np.isnan(value):
        return None
    if count < 2:
        return Interval(value)
    rng = np.random.default_rng(0)
    draws = [tau(rng.integers(count, size=count)) for _ in range(DRAWS)]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def paired(ours: Dict[int, float], other: Dict[int, float]) -> Interval:
    """Mean difference, ours minus the other's, over the seeds of both, with
    the interval of Student's t.

    Args:
        ours: Accuracy by seed.
        other: Accuracy by seed.
    """
    seeds = sorted(set(ours) & set(other))
    gaps = np.array([ours[seed] - other[seed] for seed in seeds])
    mean = float(gaps.mean())
    if len(gaps) < 2:
        return Interval(mean)
    half = stats.t.ppf(.975, len(gaps) - 1) * gaps.std(ddof=1)
    half = float(half / np.sqrt(len(gaps)))
    return Interval(mean, mean - half, mean + half)


def spread(values: Sequence[float]) -> Tuple[float, float, float]:
    """Median, least and greatest."""
    return (float(np.median(values)), float(min(values)), float(max(values)))


def by_seed(results: List[dict], name: str, metric: str) -> Dict[int, float]:
    """A metric of a row, by seed."""
    return {r['seed']: r['metrics'][metric] for r in results
            if r['row'] == name and metric in r['metrics']}
