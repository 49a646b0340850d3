"""``petrel_gym/Classic-v0``: the published 13-dimensional environment, exactly.

It is a formula without queue, cold start or memory; policies should not be tuned for it alone.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from petrel_gym._worlds import ClassicWorlds
from petrel_gym.world_env import WorldEnv, WorldVectorEnv, check_autoreset_mode, check_count, check_type, reward_weights

#: The published sets of reward weights.
SCENARIOS = ("healthcare_critical", "industrial_high_throughput", "smart_city_budget", "balanced")

#: Entries of an observation, raw units.
OBSERVATION_NAMES = (
    "workload_per_s",
    "volume_mb",
    "cpu_percent",
    "memory_percent",
    "latency_ms",
    "cost_usd_per_hour",
    "weight_cost",
    "weight_latency",
    "weight_throughput",
    "shuffle_mb",
    "data_temperature",
    "next_workload_per_s",
    "burst",
)

# The largest latency: 900 messages/s on 1 GB, and 250 MB uncompressed in the archive tier.
_HIGH = (900, 500, 100, 100, 102_500, 10.1, 1, 1, 1, 250, 1, 900, 1)


def observation_space() -> spaces.Box:
    """Thirteen entries as in ``OBSERVATION_NAMES``."""
    high = np.array(_HIGH, dtype=np.float32)
    return spaces.Box(np.zeros_like(high), high, dtype=np.float32)


def action_space() -> spaces.MultiDiscrete:
    """Executors 1 to 20, memory 1 to 8 GB, tier (memory, NVMe, S3, archive), codec (none, light, heavy); each from 0."""
    return spaces.MultiDiscrete([20, 8, 4, 3])


class ClassicEnv(WorldEnv):
    """One classic world.

    Args:
        scenario: name of a published set of reward weights, see ``SCENARIOS``.
        weights: cost, latency and throughput weights instead of a scenario's, each 0 to 1.
        episode_steps: length of an episode; the published tables play 500.

    ``info`` has ``cost_usd_per_hour``, ``latency_ms``, ``throughput`` and ``violated`` (latency over 1,000 ms).
    """

    def __init__(
        self,
        scenario: str = "balanced",
        weights: Sequence[float] | None = None,
        episode_steps: int = 1000,
        render_mode: str | None = None,
    ):
        check_type("episode_steps", episode_steps, 1)
        worlds = ClassicWorlds(1, reward_weights(scenario, weights), episode_steps, AutoresetMode.NEXT_STEP.value)
        super().__init__(worlds, observation_space(), action_space(), render_mode)


class ClassicVectorEnv(WorldVectorEnv):
    """``num_envs`` classic worlds; the other arguments as in ``ClassicEnv``."""

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str = "balanced",
        weights: Sequence[float] | None = None,
        episode_steps: int = 1000,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ):
        check_type("episode_steps", episode_steps, 1)
        mode = check_autoreset_mode(autoreset_mode)
        worlds = ClassicWorlds(check_count(num_envs), reward_weights(scenario, weights), episode_steps, mode.value)
        super().__init__(worlds, num_envs, observation_space(), action_space(), render_mode, mode)
