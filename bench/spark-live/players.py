"""Who plays? Each player is a section of the jobs file of `petrel control`; plugin and telemetry are the same for all."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Player:
    """One way of deciding how many executors the job has."""

    name: str
    label: str
    policy: str
    # Executors of the policy `fixed`, as a function of the most that are allowed.
    fixed: object = None
    # Spark scales by itself; the controller listens.
    advice_only: bool = False
    # Keys of `policy-settings` in the jobs file.
    policy_settings: dict = dataclasses.field(default_factory=dict)

    def initial_executors(self, most):
        """Executors that the job starts with."""
        return self.fixed(most) if self.fixed else 1

    def jobs_file(self, job, most, settings):
        """TOML for `petrel control --jobs`."""
        lines = [f'[jobs."{job}"]', f'policy = "{self.policy}"', "min-executors = 1", f"max-executors = {most}"]
        lines.append(f"fixed-executors = {self.initial_executors(most)}")
        lines.append(f"advice-only = {str(self.advice_only).lower()}")
        lines.extend(f"{key} = {value}" for key, value in settings.items())
        lines.extend(f"policy-settings.{key} = {value}" for key, value in self.policy_settings.items())
        return "\n".join(lines) + "\n"


PLAYERS = {
    player.name: player
    for player in (
        Player("fixed-small", "fixed, 1 executor", "fixed", fixed=lambda most: 1),
        Player("fixed-large", "fixed, all executors", "fixed", fixed=lambda most: most),
        Player("spark-da", "Spark's dynamic allocation", "fixed", advice_only=True),
        Player("hpa", "HPA's rule", "hpa"),
        # Kubernetes' default window outlasts a game. This one is that of Petrel's players (`scale-down-hold`).
        Player("hpa-quick", "HPA's rule, released after 20 s", "hpa", policy_settings={"hpa.scale_down_window_s": 20.0}),
        Player("forecast", "Petrel `forecast`", "forecast"),
        Player("ppo-spark", "Petrel learned (`ppo-spark`)", "ppo-spark"),
    )
}


def named(names):
    """The players of a list of names, in its order."""
    unknown = [name for name in names if name not in PLAYERS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"--players: got `{','.join(unknown)}`, expected some of {','.join(PLAYERS)}, each once")
    return [PLAYERS[name] for name in names]
