"""The queue world behind Gymnasium's interface."""

import gzip

import gymnasium as gym
import numpy as np
import petrel_gym
import pytest
from petrel_gym.queue import RAW_NAMES

ONE = "petrel_gym/Queue-v0"
PLENTY = [19, 3, 0, 1, 0]
LITTLE = [0, 3, 0, 1, 0]


def entry(observation, name):
    return float(observation[RAW_NAMES.index(name)])


def play(env, action, seed=1):
    env.reset(seed=seed)
    infos, rewards, truncated = [], [], False
    while not truncated:
        _, reward, terminated, truncated, info = env.step(action)
        assert not terminated
        rewards.append(reward)
        infos.append(info)
    return infos, rewards


def test_an_episode_has_an_interval_for_every_five_seconds():
    infos, _ = play(gym.make(ONE, duration_s=120), PLENTY)
    assert len(infos) == 24


def test_more_executors_cost_more_and_violate_less():
    env = gym.make(ONE, trace="flash-crowd", duration_s=300)
    plenty, _ = play(env, PLENTY)
    little, _ = play(env, LITTLE)
    assert sum(info["cost_usd"] for info in plenty) > 2 * sum(info["cost_usd"] for info in little)
    assert np.mean([info["violated"] for info in plenty]) < 0.1
    assert np.mean([info["violated"] for info in little]) > 0.9
    assert little[-1]["backlog"] > plenty[-1]["backlog"]


def test_the_same_seed_brings_the_same_arrivals_to_any_player():
    env = gym.make(ONE, duration_s=120)
    plenty, little = (play(env, action, seed=5)[0] for action in (PLENTY, LITTLE))
    assert [info["arrived"] for info in plenty] == [info["arrived"] for info in little]
    assert [info["arrived"] for info in plenty] != [info["arrived"] for info in play(env, PLENTY, seed=6)[0]]


def test_episodes_without_a_seed_have_other_arrivals():
    env = gym.make(ONE, duration_s=60)
    env.reset(seed=5)
    first = [env.step(PLENTY)[4]["arrived"] for _ in range(12)]
    env.reset()
    assert first != [env.step(PLENTY)[4]["arrived"] for _ in range(12)]


def test_reward_follows_weights_and_penalty():
    def rewards(**settings):
        return play(gym.make(ONE, trace="flash-crowd", duration_s=120, **settings), LITTLE)

    infos, costs_only = rewards(weights=(1, 0, 0), violation_penalty=0)
    assert all(-1 < reward < 0 for reward in costs_only)
    _, penalised = rewards(weights=(1, 0, 0), violation_penalty=2)
    violated = np.array([info["violated"] for info in infos])
    assert violated.any()
    assert np.array(penalised) == pytest.approx(np.array(costs_only) - 2 * violated)
    _, latency_only = rewards(weights=(0, 1, 0), violation_penalty=0)
    assert latency_only == pytest.approx([-min(10, info["p95_ms"] / 3000) for info in infos])


def test_the_edge_signal_can_be_hidden():
    seen, _ = gym.make(ONE, observation="raw", trace="flash-crowd").reset(seed=2)
    hidden, _ = gym.make(ONE, observation="raw", trace="flash-crowd", edge_signal=False).reset(seed=2)
    assert entry(seen, "arrival_rate") == entry(hidden, "arrival_rate")
    assert entry(seen, "forecast_age_s") < 60 < entry(hidden, "forecast_age_s")


def test_a_pool_repeats_its_arrivals_only():
    env = gym.make(ONE, duration_s=60, arrivals_pool=2)
    arrived = [tuple(info["arrived"] for info in play(env, PLENTY, seed)[0]) for seed in range(12)]
    assert len(set(arrived)) == 2


def test_an_encoded_observation_does_not_change_with_the_size_of_the_job():
    small, large = (gym.make(ONE, trace="steady", max_executors=size).reset(seed=1)[0] for size in (20, 80))
    # Arrival rate, CPU, weights, forecasts: by the need of the job.
    assert small[[0, 2, 6, 7, 8]] == pytest.approx(large[[0, 2, 6, 7, 8]], abs=0.1)
    raw_small, raw_large = (
        entry(gym.make(ONE, observation="raw", trace="steady", max_executors=size).reset(seed=1)[0], "arrival_rate")
        for size in (20, 80)
    )
    assert raw_large > 2 * raw_small


def test_raw_observations_lie_in_their_space():
    env = gym.make(ONE, observation="raw", duration_s=300)
    observation, _ = env.reset(seed=1)
    assert observation.shape == (len(RAW_NAMES),)
    truncated = False
    while not truncated:
        assert observation in env.observation_space
        observation, _, _, truncated, _ = env.step(LITTLE)


def test_heads_follow_the_settings():
    env = gym.make(ONE, max_executors=100, max_prewarm=0)
    assert env.action_space.nvec.tolist() == [100, 8, 4, 3, 1]


def test_a_recorded_trace_plays_the_part_of_its_split(tmp_path):
    """A trace of an hour whose last quarter is ten times as busy."""
    rates = [100] * 2700 + [1000] * 900
    path = tmp_path / "busy-end.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("bin_start_s,count\n" + "".join(f"{second},{rate}\n" for second, rate in enumerate(rates)))

    def first_rate(split):
        env = gym.make(ONE, observation="raw", trace=path, split=split, duration_s=120)
        return entry(env.reset(seed=1)[0], "arrival_rate")

    assert first_rate("test") > 5 * first_rate("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trace": "storm"}, "trace: got `storm`, expected synthetic, steady, .*flash-crowd, or the path of a CSV file"),
        ({"observation": "some"}, "observation: got `some`, expected encoded or raw"),
        ({"split": "all"}, "split: got `all`, expected train, validate or test"),
        ({"max_executors": 0}, "max_executors: got `0`, expected 1 to 1000"),
        ({"max_prewarm": -3}, "max_prewarm: got `-3`, expected 0 to 1000"),
        ({"max_prewarm": "many"}, "max_prewarm: got 'many', expected a whole number"),
        ({"edge_signal": 1}, "edge_signal: got 1, expected True or False"),
        ({"slo_ms": True}, "slo_ms: got True, expected a number"),
        ({"load": float("nan")}, "load: got `NaN`, expected 0.001 to 1000"),
        ({"duration_s": 0}, "duration_s: got `0`, expected 1 to 86400"),
        ({"speed": 2}, "settings: got 'speed', expected observation, trace, split, "),
        ({"params_toml": "[time]\ninterval = 5"}, r"(?s)params_toml: .*unknown field `interval`, expected one of `interval_s`"),
        ({"scenario": "urban"}, "scenario: got `urban`"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        petrel_gym.QueueEnv(**settings)


def test_a_file_that_is_no_trace_is_refused_by_its_line(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("bin_start_s,count\n0,1\none,2\n")
    with pytest.raises(ValueError, match="words line 3: got `one,2`, expected a number of seconds"):
        petrel_gym.QueueEnv(trace=path)
