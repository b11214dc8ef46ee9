"""Where the names of points go in a picture, so that no name lies on another."""

from dataclasses import dataclass

import numpy as np

# Where a name may lie about its point: pixels from the marker, and directions in the order of preference.
DISTANCES = (2, 7, 14, 22, 32, 44, 58, 76, 100, 130, 165, 205, 250, 300)
ANGLES = np.deg2rad([0, 180, 90, -90, 30, -30, 150, -150, 60, -60, 120, -120, 15, -15, 165, -165])
# What a place costs, in pixels of distance.
ON_MARKER, ON_LEADER, LEADER_ON_NAME, LEADERS_CROSS = 600, 250, 250, 80
NEARER_TO_ANOTHER, LEADER_ON_MARKER, ON_BAR = 40, 12, 10
NEAR = 6  # pixels
CROWD = 60  # pixels
ROUNDS = 4


@dataclass(frozen=True)
class _Places:
    """All places of one name.

    Attributes:
        middles: shape (places, 2), all in pixels.
        boxes: left, bottom, right and top, shape (places, 4).
        leaders: lines from the marker to the name, shape (places, 2, 2).
        cost: whatever the places of the others, infinite outside of the window, shape (places,).
    """

    middles: np.ndarray
    boxes: np.ndarray
    leaders: np.ndarray
    cost: np.ndarray


def place(
    centers: np.ndarray, radii: np.ndarray, extents: np.ndarray, bars: np.ndarray, window: np.ndarray
) -> list[np.ndarray | None]:
    """Where names go; the same for the same points.

    One after the other takes the best place that is left, those in the thick of it first; then each may take a better
    one, in a few rounds.

    Args:
        centers: of the markers, shape (n, 2), all in pixels.
        radii: of the markers, shape (n,).
        extents: width and height of each name, shape (n, 2).
        bars: ends of lines that names should not lie on, shape (lines, 2, 2).
        window: left, bottom, right and top of what names may lie in, shape (4,).

    Returns:
        The middle of each name, None where there is no room.
    """
    markers = np.concatenate([centers - radii[:, None], centers + radii[:, None]], axis=1)
    names = [_places(i, centers, radii, extents[i], markers, bars, window) for i in range(len(centers))]
    apart = np.hypot(*(centers[:, None] - centers[None]).transpose(2, 0, 1))
    order = np.argsort(-(apart < CROWD).sum(1), kind="stable")
    chosen: dict[int, int] = {}
    for _ in range(ROUNDS):
        before = dict(chosen)
        for i in order:
            others = [(names[j], k) for j, k in chosen.items() if j != i]
            cost = names[i].cost if not others else _with_others(names[i], others)
            best = int(np.argmin(cost))
            if np.isfinite(cost[best]):
                chosen[int(i)] = best
        if chosen == before:
            break
    return [names[i].middles[chosen[i]] if i in chosen else None for i in range(len(centers))]


def _places(
    i: int, centers: np.ndarray, radii: np.ndarray, extent: np.ndarray, markers: np.ndarray, bars: np.ndarray,
    window: np.ndarray,
) -> _Places:  # fmt: skip
    directions = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    middles = centers[i] + directions * (radii[i] + np.array(DISTANCES)[:, None, None] + extent / 2)
    middles = middles.reshape(-1, 2)
    boxes = np.concatenate([middles - extent / 2 - 1, middles + extent / 2 + 1], axis=1)
    ends = np.clip(centers[i], boxes[:, :2], boxes[:, 2:])
    leaders = np.stack([np.broadcast_to(centers[i], ends.shape), ends], axis=1)
    others = np.delete(markers, i, axis=0)
    outside = (boxes[:, :2] < window[:2]).any(1) | (boxes[:, 2:] > window[2:]).any(1)
    cost = (
        np.repeat(DISTANCES, len(ANGLES))
        + ON_MARKER * _overlap(boxes, markers).sum(1)
        + NEARER_TO_ANOTHER * (_gaps(boxes, others) < 2 * _gaps(boxes, markers[[i]]) + NEAR).sum(1)
        + LEADER_ON_MARKER * _touch(leaders, others).sum(1)
        + ON_BAR * _touch(bars, boxes).any(0)
    )
    return _Places(middles, boxes, leaders, np.where(outside, np.inf, cost))


def _with_others(name: _Places, others: list[tuple[_Places, int]]) -> np.ndarray:
    """What each place of a name costs beside the chosen ones of others, shape (places,)."""
    taken = np.stack([other.boxes[k] for other, k in others])
    leaders = np.stack([other.leaders[k] for other, k in others])
    cost = (
        name.cost
        + LEADER_ON_NAME * _touch(name.leaders, _wider(taken)).sum(1)
        + ON_LEADER * _touch(leaders, _wider(name.boxes)).any(0)
        + LEADERS_CROSS * _cross(name.leaders, leaders).sum(1)
    )
    return np.where(_overlap(name.boxes, taken).any(1), np.inf, cost)


def _gaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far boxes are from others, shape (boxes, others)."""
    apart = np.maximum(boxes[:, None, :2] - others[None, :, 2:], others[None, :, :2] - boxes[:, None, 2:])
    return np.hypot(*np.maximum(apart, 0).transpose(2, 0, 1))


def _wider(boxes: np.ndarray) -> np.ndarray:
    """Boxes with some pixels more on each side."""
    return boxes + np.array([-NEAR, -NEAR, NEAR, NEAR])


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes overlap, shape (boxes, others)."""
    return ((boxes[:, None, :2] < others[None, :, 2:]) & (others[None, :, :2] < boxes[:, None, 2:])).all(2)


def _touch(lines: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which lines of shape (lines, 2, 2) pass through which boxes, shape (lines, boxes)."""
    starts, way = lines[:, None, 0], lines[:, None, 1] - lines[:, None, 0]
    way = np.where(way == 0, 1e-9, way)
    # The parts of the way at which the line enters and leaves the columns and rows of a box.
    ends = (boxes[None, :, :2] - starts) / way, (boxes[None, :, 2:] - starts) / way
    enters, leaves = np.minimum(*ends).max(2), np.maximum(*ends).min(2)
    return (enters < leaves) & (enters < 1) & (leaves > 0)


def _cross(lines: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which lines cross which others, shape (lines, others)."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.sign((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1])
                       - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0]))  # fmt: skip

    a, b, c, d = lines[:, None, 0], lines[:, None, 1], others[None, :, 0], others[None, :, 1]
    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
