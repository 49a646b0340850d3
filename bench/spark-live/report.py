#!/usr/bin/env python3
"""Table, verdict and plots of the games that `run.py` left in a directory.

The unit of the statistics is a game: its two bursts share driver, executors and forecaster. Intervals are 95 % percentile
bootstraps over games (10,000 draws, seeded), and are left out where all games gave the same; differences are taken seed by
seed, as all players of a seed get the same load. Fewer than six games give no verdict: with n pairs a difference of one sign
has a probability of 2 to the power of 1 - n by chance.

usage: bench/spark-live/report.py --out DIR [--plots docs/spark-live]
"""

import argparse
import csv
import dataclasses
import json
import pathlib

import matplotlib
import numpy as np

from players import PLAYERS

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "petrel"
from matplotlib import pyplot, ticker  # noqa: E402 (the backend is chosen first)

DRAWS = 10_000
RIVAL = "spark-da"
PETREL = ("forecast", "ppo-spark")
# The bar compares players that cost at most this much more.
COST_RATIO = 1.1
LEAST_GAMES = 6


def rows(path):
    """The rows of a CSV file, numbers as numbers; none when it is missing."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text):
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def append(path, new):
    """Appends rows to a CSV file; the first ones bring the header."""
    is_new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, new[0].keys())
        if is_new:
            writer.writeheader()
        writer.writerows(new)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits=0):
        if self.low == self.high:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def estimate(values):
    """Mean of `values`, one a game, with its bootstrap interval."""
    values = np.asarray(values, float)
    dice = np.random.default_rng(7)
    means = values[dice.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def by_seed(bursts, name, figure):
    """The mean of a burst's figure for every seed that a player played."""
    mine = {}
    for row in bursts:
        if row["player"] == name:
            mine.setdefault(row["seed"], []).append(figure(row))
    return {seed: float(np.mean(figures)) for seed, figures in mine.items()}


def over_share(row):
    """Share of a burst's intervals that are over the objective, percent."""
    return 100 * row["over_objective"] / row["intervals"]


def executor_seconds(row):
    return row["executor_seconds"]


@dataclasses.dataclass(frozen=True)
class Result:
    """What one player achieved over all its games."""

    name: str
    games: int
    over: int
    intervals: int
    over_share: Estimate
    p50_ms: Estimate
    p95_ms: Estimate
    p99_ms: Estimate
    executor_seconds: Estimate
    cost_usd: float
    in_sink: int
    lost: int
    doubled: int


def results(bursts, games):
    """One result per player, in the order of the players."""
    found = []
    for name in PLAYERS:
        mine = [row for row in bursts if row["player"] == name]
        played = [row for row in games if row["player"] == name]
        if not mine:
            continue
        quantiles = (estimate(list(by_seed(bursts, name, lambda row, key=key: row[key]).values()))
                     for key in ("p50_ms", "p95_ms", "p99_ms"))
        found.append(Result(
            name, len(played), *(sum(row[key] for row in mine) for key in ("over_objective", "intervals")),
            estimate(list(by_seed(bursts, name, over_share).values())), *quantiles,
            estimate(list(by_seed(bursts, name, executor_seconds).values())),
            sum(row["cost_usd"] for row in mine) / len(mine),
            *(sum(row[key] for row in played) for key in ("in_sink", "lost", "doubled"))))
    return found


def beside_rival(bursts, name, figure):
    """A figure of the player and of the rival, for every seed that both played."""
    mine, rival = by_seed(bursts, name, figure), by_seed(bursts, RIVAL, figure)
    return [(mine[seed], rival[seed]) for seed in sorted(mine.keys() & rival.keys())]


def difference_to_rival(bursts, name):
    """Share of intervals over the objective minus the rival's, seed by seed, in percentage points."""
    pairs = beside_rival(bursts, name, over_share)
    return estimate([mine - rival for mine, rival in pairs]) if pairs else None


def seconds_by_rival(bursts, name):
    """Executor-seconds as a share of the rival's, seed by seed, in percent."""
    shares = [100 * mine / rival for mine, rival in beside_rival(bursts, name, executor_seconds) if rival]
    return estimate(shares) if shares else None


def table(found, bursts):
    lines = ["| player | games | intervals over the objective | in % | difference to Spark's, points | p50, s | p95, s | p99, s "
             "| executor-seconds a burst | of Spark's, % | cost a burst, $ | records in the sink | lost | doubled |",
             "|---" * 14 + "|"]
    for result in found:
        is_rival = result.name == RIVAL
        paired = None if is_rival else difference_to_rival(bursts, result.name)
        share = None if is_rival else seconds_by_rival(bursts, result.name)
        seconds = (Estimate(e.value / 1e3, e.low / 1e3, e.high / 1e3) for e in (result.p50_ms, result.p95_ms, result.p99_ms))
        cells = [PLAYERS[result.name].label, str(result.games), f"{result.over} of {result.intervals}",
                 result.over_share.text(1), paired.text(1) if paired else "", *(e.text(1) for e in seconds),
                 result.executor_seconds.text(), share.text() if share else "", f"{result.cost_usd:.5f}",
                 f"{result.in_sink:,}", str(result.lost), str(result.doubled)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def unsound(games):
    """Games whose figures cannot be believed, and why, in words; empty when there are none."""
    reasons = {"lost": "records lost", "doubled": "records doubled", "gaps": "gaps in the numbers of a device",
               "stalled_ms": "ms in which devices could not send"}
    return [f"seed {game['seed']}, `{game['player']}`: {game[key]} {what}"
            for game in games for key, what in reasons.items() if game[key]]


def verdict(bursts, games):
    """Whether Petrel's best player meets the bar, in words.

    Players with enough games are compared on the seeds that all of these have played.
    """
    wrong = unsound(games)
    if wrong:
        return f"No verdict, as there are games that cannot be believed: {'; '.join(wrong)}."
    seeds = {name: set(by_seed(bursts, name, over_share)) for name in PLAYERS}
    judged = [name for name in PLAYERS if len(seeds[name]) >= LEAST_GAMES]
    petrel = [name for name in judged if name in PETREL]
    common = set.intersection(*(seeds[name] for name in judged)) if judged else set()
    if not petrel or RIVAL not in judged or len(common) < LEAST_GAMES:
        return (f"No verdict: {LEAST_GAMES} games on the same seeds are needed of one of Petrel's players and of Spark's dynamic "
                "allocation.")
    bursts = [row for row in bursts if row["seed"] in common]
    over = {name: estimate(list(by_seed(bursts, name, over_share).values())) for name in judged}
    seconds = {name: estimate(list(by_seed(bursts, name, executor_seconds).values())) for name in judged}
    best = min(petrel, key=lambda name: (over[name].value, seconds[name].value))
    peers = [name for name in judged if seconds[name].value <= COST_RATIO * seconds[best].value]
    lowest = min(peers, key=lambda name: (over[name].value, name != best))
    whose = "its own" if lowest == best else f"that of `{lowest}`, {over[lowest].text(1)} %"
    is_apart = over[best].high < over[RIVAL].low
    return (f"On {len(common)} seeds Petrel's best player is `{best}`: {over[best].text(1)} % of the intervals over the "
            f"objective at {seconds[best].text()} executor-seconds a burst. Among the players with at most {COST_RATIO} times "
            f"its executor-seconds ({', '.join(peers)}) the lowest share is {whose}. Its interval is "
            f"{'' if is_apart else 'not '}below that of Spark's dynamic allocation ({over[RIVAL].text(1)} % at "
            f"{seconds[RIVAL].text()} executor-seconds). It held {seconds_by_rival(bursts, best).text()} % of the "
            f"executor-seconds of Spark's dynamic allocation on the same seeds. The bar is "
            f"{'met' if lowest == best and is_apart else 'not met'}.")


def plot_game_of_seed(intervals, seed, objective_ms, path):
    """Arrivals, executors and latency of every player over the time of one seed."""
    games = {name: [row for row in intervals if row["player"] == name and row["seed"] == seed] for name in PLAYERS}
    games = {name: game for name, game in games.items() if game}
    most = max(row["executors_held"] for game in games.values() for row in game)
    top = max(row["rate"] for game in games.values() for row in game)
    figure, panes = pyplot.subplots(len(games), 1, figsize=(9, 1.6 * len(games) + 1), sharex=True, sharey=True, squeeze=False)
    for left, (name, game) in zip(panes[:, 0], games.items()):
        seconds = [row["second"] for row in game]
        left.set_title(PLAYERS[name].label, fontsize=9, loc="left")
        left.step(seconds, [row["p95_ms"] / 1e3 for row in game], where="post", color="tab:red", label="p95 of the latency, s")
        left.axhline(objective_ms / 1e3, color="tab:red", linestyle=":", linewidth=1, label="objective")
        right = left.twinx()
        right.set_ylim(0, most * 1.1)
        right.fill_between(seconds, [most * row["rate"] / top for row in game], step="post", color="0.9",
                           label=f"arrivals, at most {top:,.0f} records/s")
        right.step(seconds, [row["executors_running"] for row in game], where="post", color="tab:blue", label="executors running")
        right.step(seconds, [row["executors_held"] for row in game], where="post", color="tab:blue", linestyle=":",
                   label="executors held")
        # Else the arrivals hide the latency.
        left.set_zorder(right.get_zorder() + 1)
        left.patch.set_visible(False)
    # After the last line: the logarithmic scale is shared by all panes.
    left.set_yscale("log")
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(ticker.NullFormatter())
    left.set_xlabel("second of the trace")
    handles = [pair for pane in (left, right) for pair in zip(*pane.get_legend_handles_labels())]
    figure.legend(*zip(*handles), fontsize=7, ncols=len(handles), loc="lower center")
    save(figure, path, bottom=0.35 / figure.get_figheight())


def plot_cost_against_violations(found, path):
    """Executor-seconds against the share of intervals over the objective, a point for each player."""
    figure, pane = pyplot.subplots(figsize=(8, 4))
    for result in found:
        share, seconds = result.over_share, result.executor_seconds
        pane.errorbar(seconds.value, share.value, fmt="o", capsize=3,
                      xerr=[[seconds.value - seconds.low], [seconds.high - seconds.value]],
                      yerr=[[share.value - share.low], [share.high - share.value]], label=PLAYERS[result.name].label)
    pane.set_xlabel("executor-seconds a burst, request to release")
    pane.set_ylabel("intervals over the objective, %")
    pane.set_xlim(left=0)
    pane.set_ylim(bottom=-2)
    pane.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save(figure, path)


def save(figure, path, bottom=0.0):
    """Writes a figure; the same figure gives the same file. `bottom` is the share that its legend takes."""
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(out, plots, objective_ms):
    """Writes `report.md` and the plots; returns the text of the report."""
    bursts, games, intervals = (rows(out / f"{name}.csv") for name in ("bursts", "games", "intervals"))
    if not bursts:
        raise SystemExit(f"{out / 'bursts.csv'}: expected games of run.py, found none")
    found = results(bursts, games)
    text = f"{table(found, bursts)}\n\n{verdict(bursts, games)}\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    plots.mkdir(parents=True, exist_ok=True)
    plot_cost_against_violations(found, plots / "cost-against-violations.svg")
    for seed in sorted({row["seed"] for row in intervals}):
        plot_game_of_seed(intervals, seed, objective_ms, plots / f"seed-{seed}.svg")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory of run.py")
    parser.add_argument("--plots", type=pathlib.Path, help="directory of the plots [default: that of --out]")
    options = parser.parse_args()
    objective_ms = json.loads((options.out / "settings.json").read_text(encoding="utf-8"))["objective_ms"]
    print(write(options.out, options.plots or options.out, objective_ms))


if __name__ == "__main__":
    main()
