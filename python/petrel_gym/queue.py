"""``petrel_gym/Queue-v0``: a streaming job on executors: micro-batches, a backlog, cold starts, storage tiers, prices.

A step is one decision interval (5 s). Everybody who plays a seed meets the same arrivals, the same i-th start-up delay
and the same pre-emptions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from petrel_gym._worlds import QueueWorlds, queue_raw_names
from petrel_gym.world_env import WorldEnv, WorldVectorEnv, check_autoreset_mode, check_count, check_type, reward_weights

#: Entries of a raw observation.
RAW_NAMES = tuple(queue_raw_names())


def _spaces(worlds: QueueWorlds, observation: str) -> tuple[spaces.Box, spaces.MultiDiscrete]:
    bound = 20.0 if observation == "encoded" else 1e9
    seen = spaces.Box(-bound, bound, (worlds.observation_len,), dtype=np.float32)
    return seen, spaces.MultiDiscrete(worlds.heads)


#: Settings of both environments with their defaults; ``QueueEnv`` explains them.
DEFAULTS: dict[str, Any] = {
    "observation": "encoded",
    "trace": "synthetic",
    "split": "train",
    "duration_s": 600,
    "load": 1.0,
    "slo_ms": 3000.0,
    "max_executors": 20,
    "max_prewarm": 10,
    "edge_signal": True,
    "scenario": "balanced",
    "weights": None,
    "violation_penalty": 1.0,
    "arrivals_pool": 0,
    "params_toml": None,
}


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in DEFAULTS:
            raise ValueError(f"settings: got {name!r}, expected {', '.join(DEFAULTS)}")
        check_type(name, settings[name], DEFAULTS[name])
    settings = DEFAULTS | settings
    settings["trace"] = str(settings["trace"])
    settings["weights"] = reward_weights(settings["scenario"], settings["weights"])
    return settings


class QueueEnv(WorldEnv):
    """One streaming job.

    Settings:
        observation: ``"encoded"``, what Petrel's own networks see: numbers of the size of one that do not change with the
            load (``crates/petrel-policy/src/encode.rs`` lists them); or ``"raw"``, entries as in ``RAW_NAMES``.
        trace: ``"synthetic"`` (a family per episode), one family (``steady``, ``diurnal``, ``bursty``, ``self-exciting``,
            ``shock``, ``flash-crowd``), or the path of a recorded trace: CSV ``bin_start_s,count``, plain or ``.gz``.
        split: ``"train"``, ``"validate"`` or ``"test"``: other seeds of synthetic families; the first 60 %, the next 15 %
            and the rest of a recorded trace.
        duration_s: length of an episode, seconds.
        load: 1 means a mean load of a quarter of what the largest fleet serves.
        slo_ms: limit of the 95th percentile of event-to-commit latency in an interval, milliseconds.
        max_executors: the action's first head.
        max_prewarm: most spare executors kept warm.
        edge_signal: False hides the gateways' forecasts.
        scenario, weights: reward weights, as in ``ClassicEnv``.
        violation_penalty: taken off the reward of a violated interval.
        arrivals_pool: share the arrivals of this many episodes among all; 0 prepares new ones for every seed. Preparing
            runs the real forecasters over 1,200 s and takes far longer than playing; a few hundred are enough to learn on.
        params_toml: text of other parameters than Petrel's own (``crates/petrel-sim/params/queue.toml``); ``slo_ms`` and
            ``max_executors`` count instead of those in its section ``job``.

    Action: executors from 1, memory from the smallest executor's, tier (memory, NVMe, S3, archive), codec (none, lz4,
    zstd), warm spares; each counted from 0. Reward of an interval: γ·min(1, committed/arrived) − α·cost/cost of the
    largest fleet − β·min(10, p95/slo) − penalty if violated. Dollars in ``info["cost_usd"]`` are those of the interval.
    """

    def __init__(self, render_mode: str | None = None, **settings: Any):
        settings = _with_defaults(settings)
        worlds = QueueWorlds(1, settings, AutoresetMode.NEXT_STEP.value)
        super().__init__(worlds, *_spaces(worlds, settings["observation"]), render_mode)


class QueueVectorEnv(WorldVectorEnv):
    """``num_envs`` streaming jobs; the settings as in ``QueueEnv``."""

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **settings: Any,
    ):
        mode = check_autoreset_mode(autoreset_mode)
        settings = _with_defaults(settings)
        worlds = QueueWorlds(check_count(num_envs), settings, mode.value)
        super().__init__(worlds, num_envs, *_spaces(worlds, settings["observation"]), render_mode, mode)
