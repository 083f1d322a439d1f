"""The generator of an episode's chance."""

from __future__ import annotations

from collections import Counter

from openspiel_env.chance import EpisodeRandom


def test_it_is_splitmix64() -> None:
    """The first numbers of the authors' own program for the seed 1234567."""
    rng = EpisodeRandom()
    rng.seed(1234567)
    assert [rng.getrandbits(64) for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_it_draws_evenly_and_goes_on_from_its_state() -> None:
    rng = EpisodeRandom()
    counts: Counter[int] = Counter()
    for seed in range(3000):  # first draws of neighbouring seeds
        rng.seed(seed)
        counts[rng.choice(range(3))] += 1
    assert min(counts.values()) > 900
    assert 0.0 <= rng.random() < 1.0
    assert rng.getrandbits(100) < 1 << 100
    state = rng.getstate()
    drawn = [rng.random() for _ in range(3)]
    rng.setstate(state)
    assert [rng.random() for _ in range(3)] == drawn
