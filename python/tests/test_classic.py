"""The classic world behind Gymnasium's interface."""

import gymnasium as gym
import numpy as np
import petrel_gym
import pytest
from gymnasium.vector import AutoresetMode

ONE = "petrel_gym/Classic-v0"


def play(env, seed, steps=50):
    rows = [env.reset(seed=seed)[0]]
    env.action_space.seed(seed)
    for _ in range(steps):
        rows.append(env.step(env.action_space.sample())[0])
    return np.array(rows)


def test_published_figures_come_out():
    """The constant 12 x 8 GB, memory tier, no compression: no violation, 3,004 over 500 steps."""
    env = gym.make(ONE, episode_steps=500)
    costs, violations = [], 0
    for seed in range(20):
        env.reset(seed=seed)
        truncated, cost = False, 0.0
        while not truncated:
            _, _, terminated, truncated, info = env.step([11, 7, 0, 0])
            assert not terminated
            cost += info["cost_usd_per_hour"]
            violations += info["violated"]
        costs.append(cost)
    assert violations == 0
    assert np.mean(costs) == pytest.approx(3004, abs=2)


def test_reward_is_the_published_formula():
    env = gym.make(ONE, weights=(0.2, 0.3, 0.5))
    env.reset(seed=4)
    for _ in range(30):
        # NVMe: no penalty for hot data.
        _, reward, _, _, info = env.step([9, 3, 1, 1])
        cost, latency, throughput = (info[name] for name in ("cost_usd_per_hour", "latency_ms", "throughput"))
        assert reward == pytest.approx(-0.2 * cost / 10 - 0.3 * latency / 1000 + 0.5 * throughput / 1000)
        assert info["violated"] == (latency > 1000)


def test_every_scenario_shows_its_weights():
    shown = {name: gym.make(ONE, scenario=name).reset(seed=1)[0][6:9].tolist() for name in petrel_gym.SCENARIOS}
    assert shown["healthcare_critical"] == pytest.approx([0.1, 0.8, 0.1])
    assert shown["smart_city_budget"] == pytest.approx([0.9, 0.05, 0.05])
    assert len({tuple(weights) for weights in shown.values()}) == 4


def test_weights_can_change_at_a_reset():
    env = gym.make(ONE)
    observation, _ = env.reset(seed=1, options={"weights": (0.5, 0.25, 0.25)})
    assert observation[6:9].tolist() == [0.5, 0.25, 0.25]
    envs = gym.make_vec(ONE, num_envs=2)
    observations, _ = envs.reset(seed=1, options={"weights": [(1, 0, 0), (0, 1, 0)]})
    assert observations[:, 6:9].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_all_observations_lie_in_the_space():
    env = gym.make(ONE)
    for row in play(env, 3, steps=1000):
        assert row in env.observation_space
    env.reset(seed=1)
    for _ in range(200):
        assert env.step([0, 0, 3, 0])[0] in env.observation_space


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "urban"}, r"scenario: got `urban`, expected healthcare_critical, .*balanced"),
        ({"weights": (1, 2, 0)}, r"weights, latency: got `2`, expected 0 to 1"),
        ({"episode_steps": 1.5}, r"episode_steps: got 1.5, expected a whole number"),
        ({"weights": (1, 0)}, r"weights: got 2 values, expected 3 \(cost, latency, throughput\)"),
        ({"episode_steps": 0}, r"episode_steps: got `0`, expected 1 to "),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        petrel_gym.ClassicEnv(**arguments)


def test_episode_ends_by_truncation_and_the_next_one_goes_on():
    env = gym.make(ONE, episode_steps=3)
    first, _ = env.reset(seed=1)
    ends = [env.step([1, 1, 1, 1])[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    second, _ = env.reset()
    assert not np.array_equal(first, second)


def test_batch_of_one_seed_is_reset_at_once_in_same_step_mode():
    envs = gym.make_vec(ONE, num_envs=2, episode_steps=2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=5)
    alone = gym.make(ONE, episode_steps=2)
    alone.reset(seed=6)
    action = [3, 3, 0, 0]
    envs.step([action, action])
    alone.step(action)
    observations, _, _, truncated, infos = envs.step([action, action])
    last, _, _, _, last_info = alone.step(action)
    assert truncated.all()
    assert np.array_equal(infos["final_obs"][1], last)
    assert infos["final_info"]["latency_ms"][1] == last_info["latency_ms"]
    assert np.array_equal(observations[1], alone.reset()[0])
