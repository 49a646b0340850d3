"""Petrel's worlds as Gymnasium environments.

Importing this package registers ``petrel_gym/Classic-v0`` and ``petrel_gym/Queue-v0`` for ``gymnasium.make`` (one world)
and ``gymnasium.make_vec`` (many worlds stepped together, outside the interpreter lock).
"""

from gymnasium.envs.registration import register

from petrel_gym.classic import SCENARIOS, ClassicEnv, ClassicVectorEnv
from petrel_gym.queue import QueueEnv, QueueVectorEnv

__all__ = ["SCENARIOS", "ClassicEnv", "ClassicVectorEnv", "QueueEnv", "QueueVectorEnv"]

register(
    id="petrel_gym/Classic-v0",
    entry_point="petrel_gym.classic:ClassicEnv",
    vector_entry_point="petrel_gym.classic:ClassicVectorEnv",
)
register(
    id="petrel_gym/Queue-v0",
    entry_point="petrel_gym.queue:QueueEnv",
    vector_entry_point="petrel_gym.queue:QueueVectorEnv",
)
