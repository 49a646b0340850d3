"""Gymnasium's conventions around compiled worlds: what both environments have in common."""

from __future__ import annotations

from os import PathLike
from typing import Any, Sequence

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from petrel_gym._worlds import scenario_weights


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(f"render_mode: got {render_mode!r}, expected None (these worlds draw nothing)")


def _as_choices(actions: Any) -> np.ndarray:
    choices = np.asarray(actions)
    if not np.issubdtype(choices.dtype, np.integer):
        raise ValueError(f"action: got values of type {choices.dtype}, expected integers (one choice per head)")
    return choices.astype(np.int64, copy=False)


def _apply_options(worlds: Any, count: int, options: dict[str, Any] | None) -> None:
    options = dict(options or {})
    if "weights" in options:
        weights = np.asarray(options.pop("weights"), dtype=float)
        if weights.shape not in ((3,), (count, 3)):
            expected = "(3,)" if count == 1 else f"(3,) or ({count}, 3)"
            raise ValueError(f"options, shape of weights: got {weights.shape}, expected {expected}")
        for world, row in enumerate(np.broadcast_to(weights, (count, 3))):
            worlds.set_weights(world, row.tolist())
    if options:
        raise ValueError(f"options: got {', '.join(map(repr, options))}, expected 'weights' or none")


def reward_weights(scenario: str, weights: Sequence[float] | None) -> list[float]:
    """Cost, latency and throughput weights as given, or those of the published scenario."""
    if weights is None:
        return scenario_weights(scenario)
    weights = [float(weight) for weight in weights]
    if len(weights) != 3:
        raise ValueError(f"weights: got {len(weights)} values, expected 3 (cost, latency, throughput)")
    return weights


class WorldEnv(gym.Env):
    """One world. Episodes have a fixed length, so they are truncated and never terminate.

    ``reset(seed=s)`` starts the episode of seed ``s``, the same that Petrel's own tools play; ``reset()`` the next one of
    that sequence. ``reset(options={"weights": (a, b, c)})`` changes the reward weights, which are part of the observation.
    """

    metadata = {"render_modes": []}

    def __init__(self, worlds: Any, observation_space: gym.Space, action_space: gym.Space, render_mode: str | None):
        _check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = observation_space
        self.action_space = action_space
        self._worlds = worlds
        self._is_seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is None and not self._is_seeded:
            seed = int(self.np_random.integers(2**63))
        self._is_seeded = True
        _apply_options(self._worlds, 1, options)
        return self._worlds.reset([seed])[0], {}

    def step(self, action: Any):
        choices = _as_choices(action)
        if choices.shape != self.action_space.shape:
            raise ValueError(f"shape of action: got {choices.shape}, expected {self.action_space.shape}")
        observations, rewards, truncated, _, figures, _ = self._worlds.step(choices[None, :])
        info = {name: bool(column[0]) if name == "violated" else float(column[0]) for name, column in figures.items()}
        return observations[0], float(rewards[0]), False, bool(truncated[0]), info


def _with_mask(columns: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """The columns and, as Gymnasium wants it, for each the worlds that have a value: those of the mask."""
    return {name: column.copy() for name, column in columns.items()} | {f"_{name}": mask.copy() for name in columns}


class WorldVectorEnv(VectorEnv):
    """Many worlds, stepped together in Rust without the interpreter lock.

    World ``i`` of ``reset(seed=s)`` plays the episode of seed ``s + i``. ``autoreset_mode`` is Gymnasium's ``NEXT_STEP``
    (default) or ``SAME_STEP``, where the last observations come as ``infos["final_obs"]``. The option ``weights`` of
    ``reset`` has 3 values for all worlds, or a row of 3 for each.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        worlds: Any,
        num_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        render_mode: str | None,
        autoreset_mode: AutoresetMode,
    ):
        _check_render_mode(render_mode)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "autoreset_mode": autoreset_mode}
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._worlds = worlds
        self._is_seeded = False

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None):
        first = seed if seed is None or isinstance(seed, (int, np.integer)) else None
        super().reset(seed=None if first is None else int(first))
        if first is None and seed is not None:
            seeds = [None if s is None else int(s) for s in seed]
        elif first is None and self._is_seeded:
            seeds = [None] * self.num_envs
        else:
            start = int(self.np_random.integers(2**62)) if first is None else int(first)
            seeds = [start + i for i in range(self.num_envs)]
        self._is_seeded = True
        _apply_options(self._worlds, self.num_envs, options)
        return self._worlds.reset(seeds), {}

    def step(self, actions: Any):
        observations, rewards, truncated, stepped, figures, finals = self._worlds.step(_as_choices(actions))
        figures["violated"] = figures["violated"].astype(bool)
        infos = _with_mask(figures, stepped)
        if finals is not None:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for world in np.flatnonzero(truncated):
                final_obs[world] = finals[world]
            infos |= _with_mask({"final_obs": final_obs, "final_info": _with_mask(figures, truncated)}, truncated)
        return observations, rewards, np.zeros(self.num_envs, dtype=bool), truncated, infos


def check_autoreset_mode(autoreset_mode: AutoresetMode | str) -> AutoresetMode:
    """The mode as Gymnasium's enum; ``DISABLED`` is refused."""
    supported = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
    for mode in supported:
        if autoreset_mode in (mode, mode.value):
            return mode
    raise ValueError(f"autoreset_mode: got {autoreset_mode!r}, expected AutoresetMode.NEXT_STEP or SAME_STEP")


def check_type(name: str, value: Any, like: Any) -> None:
    """Refuses a setting that is not of the kind of ``like``: True or False, a whole number, a number, a text."""
    for kind, accepted, expected in (
        (bool, (bool, np.bool_), "True or False"),
        (int, (int, np.integer), "a whole number"),
        (float, (int, float, np.integer, np.floating), "a number"),
        (str, (str, PathLike), "a text"),
    ):
        if isinstance(like, kind):
            if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
                raise ValueError(f"{name}: got {value!r}, expected {expected}")
            return


def check_count(num_envs: int) -> int:
    """The number of worlds; less than one is refused."""
    check_type("num_envs", num_envs, 1)
    if num_envs < 1:
        raise ValueError(f"num_envs: got {num_envs}, expected 1 or more")
    return num_envs
