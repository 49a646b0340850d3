"""What Gymnasium and Stable-Baselines3 ask of any environment, for every registered one."""

import pathlib

import gymnasium as gym
import numpy as np
import petrel_gym
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_sb3

WORLDS = [name for name in gym.registry if name.startswith("petrel_gym/")]


def sampled(space, seed, steps):
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


@pytest.fixture(params=WORLDS)
def world(request):
    return request.param


def test_passes_the_checker_of_gymnasium(world):
    check_env(gym.make(world).unwrapped)


def test_passes_the_checker_of_stable_baselines3(world):
    check_env_sb3(gym.make(world).unwrapped)


def test_stable_baselines3_learns_on_it(world):
    model = PPO("MlpPolicy", gym.make(world), n_steps=64, batch_size=32, n_epochs=1, device="cpu", seed=1)
    model.learn(128)
    assert model.num_timesteps == 128


def test_a_seed_decides_everything(world):
    one, other = gym.make(world), gym.make(world)
    actions = sampled(one.action_space, 1, 30)
    for seed, same in ((3, True), (4, False)):
        first = [one.reset(seed=3)[0], *(one.step(action)[0] for action in actions)]
        second = [other.reset(seed=seed)[0], *(other.step(action)[0] for action in actions)]
        assert np.array_equal(first, second) == same


def test_a_seed_forgets_what_was_played_before(world):
    env = gym.make(world)
    fresh = env.reset(seed=8)[0]
    for action in sampled(env.action_space, 2, 10):
        env.step(action)
    assert np.array_equal(env.reset(seed=8)[0], fresh)


def test_without_a_seed_every_episode_differs(world):
    first, second = gym.make(world), gym.make(world)
    action = sampled(first.action_space, 1, 1)[0]

    def rewards(env):
        env.reset()
        return [env.step(action)[1] for _ in range(20)]

    played = [rewards(first), rewards(first), rewards(second)]
    assert played[0] != played[1] and played[0] != played[2]


def test_worlds_of_a_batch_play_as_they_do_alone(world):
    envs = gym.make_vec(world, num_envs=3)
    alone = [gym.make(world) for _ in range(3)]
    observations, _ = envs.reset(seed=20)
    for number, env in enumerate(alone):
        assert np.array_equal(observations[number], env.reset(seed=20 + number)[0])
    for actions in sampled(envs.action_space, 1, 40):
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        assert not terminated.any() and not truncated.any()
        for number, env in enumerate(alone):
            observation, reward, _, _, info = env.step(actions[number])
            assert np.array_equal(observations[number], observation)
            assert rewards[number] == reward
            assert {name: infos[name][number] for name in info} == info
            assert all(infos[f"_{name}"][number] for name in info)


def test_next_step_mode_resets_with_the_step_after_the_end(world):
    envs = gym.make_vec(world, num_envs=2, **short(world))
    envs.reset(seed=1)
    action = sampled(envs.action_space, 1, 1)[0]
    truncated = np.zeros(2, dtype=bool)
    for _ in range(100):
        _, _, _, truncated, _ = envs.step(action)
        if truncated.any():
            break
    assert truncated.all()
    observations, rewards, _, truncated, infos = envs.step(action)
    assert not truncated.any()
    assert rewards.tolist() == [0, 0]
    assert not infos["_violated"].any()
    assert observations in envs.observation_space


def short(world):
    """Arguments for an episode of at most 100 steps."""
    return {"episode_steps": 5} if "Classic" in world else {"duration_s": 60}


def test_batch_spaces_hold_what_comes_out(world):
    envs = gym.make_vec(world, num_envs=4)
    observations, _ = envs.reset(seed=1)
    assert observations in envs.observation_space
    for actions in sampled(envs.action_space, 1, 20):
        assert envs.step(actions)[0] in envs.observation_space
    envs.close()


def test_seeds_can_be_given_one_by_one(world):
    envs = gym.make_vec(world, num_envs=2)
    observations, _ = envs.reset(seed=[9, 9])
    assert np.array_equal(observations[0], observations[1])
    with pytest.raises(ValueError, match="number of seeds: got `3`, expected 2, one per world"):
        envs.reset(seed=[1, 2, 3])


def test_nothing_is_drawn(world):
    assert gym.make(world, render_mode=None).render_mode is None
    entry_point = gym.envs.registration.load_env_creator(gym.spec(world).entry_point)
    with pytest.raises(ValueError, match="render_mode: got 'human', expected None"):
        entry_point(render_mode="human")


def test_wrong_actions_are_refused_with_what_was_expected(world):
    env = gym.make(world).unwrapped
    env.reset(seed=1)
    good = [0] * env.action_space.shape[0]
    heads = len(good)
    with pytest.raises(ValueError, match=r"memory: got `8`, expected 0 to 7 \(choice of head 1 of the action\)"):
        env.step([0, 8, *good[2:]])
    with pytest.raises(ValueError, match="executors: got `-1`, expected 0 to "):
        env.step([-1, *good[1:]])
    with pytest.raises(ValueError, match=rf"shape of action: got \(2,\), expected \({heads},\)"):
        env.step([1, 2])
    with pytest.raises(ValueError, match="action: got values of type float64, expected integers"):
        env.step([0.5, *good[1:]])
    envs = gym.make_vec(world, num_envs=2)
    envs.reset(seed=1)
    with pytest.raises(ValueError, match="world 1, codec: got `3`, expected 0 to 2"):
        envs.step([good, [*good[:3], 3, *good[4:]]])
    with pytest.raises(ValueError, match=rf"shape of actions: got `\[1, {heads}\]`, expected \[2, {heads}\]"):
        envs.step([good])


def test_wrong_options_are_refused(world):
    with pytest.raises(ValueError, match="options: got 'speed', expected 'weights' or none"):
        gym.make(world).reset(options={"speed": 1})
    with pytest.raises(ValueError, match="num_envs: got 0, expected 1 or more"):
        gym.make_vec(world, num_envs=0)
    with pytest.raises(ValueError, match="autoreset_mode: got 'Disabled', expected"):
        gym.make_vec(world, num_envs=1, autoreset_mode="Disabled")


def test_the_example_of_the_readme_runs():
    """With a hundredth of its steps."""
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    example = readme.split("```python\n")[1].split("```")[0]
    assert "20_000" in example
    exec(example.replace("20_000", "200").replace('device="cpu"', 'n_steps=100, batch_size=50, n_epochs=1, device="cpu"'), {})


def test_every_world_is_registered():
    assert WORLDS == ["petrel_gym/Classic-v0", "petrel_gym/Queue-v0"]
    assert petrel_gym.SCENARIOS[3] == "balanced"
