"""Killed processes lose nothing; and the campaign would say so if they did."""

import numpy as np
import pytest

from tests.crash import campaign

pytestmark = pytest.mark.usefixtures("usual_promotion")


@pytest.mark.parametrize(
    ("kills", "seed", "kinds"),
    [(2, 3, campaign.SHORT), pytest.param(100, 100, campaign.EACH, marks=pytest.mark.slow)],
    ids=["short", "whole"],
)
def test_kills_at_random_moments_lose_nothing(tmp_path, kills, seed, kinds):
    done = campaign.campaign(tmp_path, kills, seed=seed, kinds=kinds)
    assert len(done) == kills and {kill.kind for kill in done} == set(kinds)
    assert any(kill.seen.writing for kill in done)


def test_a_difference_of_one_bit_is_seen(tmp_path):
    expected = {"a": np.arange(4.0), "b": np.asarray("x")}
    campaign.require_same(tmp_path, expected, {"a": np.arange(4.0), "b": np.asarray("x")})
    for other in ({"a": np.nextafter(np.arange(4.0), 9)}, {"a": np.arange(4)}, {"b": np.asarray("y")}, {"c": 0}):
        with pytest.raises(AssertionError, match=f"{next(iter(other))} differ"):
            campaign.require_same(tmp_path, expected, expected | other)
    (tmp_path / ".samples.npz.host.1.tmp").touch()
    with pytest.raises(AssertionError, match="half-written or damaged files are left"):
        campaign.require_same(tmp_path, expected, expected)


@pytest.mark.parametrize(
    ("log", "logged", "stamp", "message"),
    [
        ("resumes at step 20\n", 35, 7, None),
        ("resumes at step 10\n", 35, 7, r"went on from \[10\], but kept \[20\]"),
        ("resumes at step 20\n", 41, 7, "lost more than what its last checkpoint lacked"),
        ("resumes at step 20\n", 35, 8, "samples were drawn again after step"),
    ],
)
def test_lost_work_is_seen(tmp_path, monkeypatch, log, logged, stamp, message):
    kill = campaign.Kill("step", campaign.look(tmp_path)._replace(logged=logged, kept=20, samples={"a.npz": 7}))
    (tmp_path / "run.log").write_text(log)
    monkeypatch.setattr(campaign, "look", lambda directory: kill.seen._replace(samples={"a.npz": stamp, "b.npz": 9}))
    if message is None:
        return campaign.require_kept(tmp_path / "run", [kill])
    with pytest.raises(AssertionError, match=message):
        campaign.require_kept(tmp_path / "run", [kill])
