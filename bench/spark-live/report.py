#!/usr/bin/env python3
"""Table, verdict and plots of the games that `run.py` left in a directory.

The unit of the statistics is a burst: one half of the judged time of one game. Intervals are 95 % percentile bootstraps over
bursts (10,000 draws, seeded); differences are taken burst by burst, as all players get the same load.

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

    def text(self, digits=0, unit=""):
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]{unit}"

    def touches(self, other):
        return self.low <= other.high and other.low <= self.high


def estimate(values, weights=None):
    """Mean of `values` over bursts (weighted), with its bootstrap interval."""
    values = np.asarray(values, float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)
    dice = np.random.default_rng(7)
    picks = dice.integers(0, len(values), (DRAWS, len(values)))
    means = (values * weights)[picks].sum(axis=1) / weights[picks].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float((values * weights).sum() / weights.sum()), float(low), float(high))


@dataclasses.dataclass(frozen=True)
class Result:
    """What one player achieved over all its bursts."""

    name: str
    over_share: Estimate
    p50_ms: Estimate
    p95_ms: Estimate
    p99_ms: Estimate
    executor_seconds: Estimate
    cost_usd: float
    games: int
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
        shares = [100 * row["over_objective"] / row["intervals"] for row in mine]
        found.append(Result(
            name, estimate(shares, [row["intervals"] for row in mine]),
            *(estimate([row[key] for row in mine]) for key in ("p50_ms", "p95_ms", "p99_ms", "executor_seconds")),
            sum(row["cost_usd"] for row in mine) / len(mine), len(played),
            *(sum(row[key] for row in played) for key in ("in_sink", "lost", "doubled"))))
    return found


def beside_rival(bursts, name, figure):
    """A figure of a burst, of the player and of the rival, for every burst that both played."""
    figures = {(row["seed"], row["burst"], row["player"]): figure(row) for row in bursts}
    pairs = [(mine, figures.get((seed, burst, RIVAL))) for (seed, burst, player), mine in figures.items() if player == name]
    return [(mine, rival) for mine, rival in pairs if rival is not None]


def difference_to_rival(bursts, name):
    """Share of intervals over the objective minus the rival's, burst by burst, in percentage points."""
    pairs = beside_rival(bursts, name, lambda row: 100 * row["over_objective"] / row["intervals"])
    return estimate([mine - rival for mine, rival in pairs]) if pairs else None


def seconds_by_rival(bursts, name):
    """Executor-seconds as a share of the rival's, burst by burst, in percent."""
    pairs = beside_rival(bursts, name, lambda row: row["executor_seconds"])
    shares = [100 * mine / rival for mine, rival in pairs if rival]
    return estimate(shares) if shares else None


def table(found, bursts):
    lines = ["| player | intervals over the objective, % | difference to Spark's, points | p50, s | p95, s | p99, s "
             "| executor-seconds a burst | of Spark's, % | cost a burst, $ | records in the sink | lost | doubled |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for result in found:
        is_rival = result.name == RIVAL
        paired = None if is_rival else difference_to_rival(bursts, result.name)
        share = None if is_rival else seconds_by_rival(bursts, result.name)
        seconds = (Estimate(e.value / 1e3, e.low / 1e3, e.high / 1e3) for e in (result.p50_ms, result.p95_ms, result.p99_ms))
        cells = [PLAYERS[result.name].label, result.over_share.text(1), paired.text(1) if paired else "",
                 *(e.text(1) for e in seconds), result.executor_seconds.text(), share.text() if share else "",
                 f"{result.cost_usd:.5f}",
                 f"{result.in_sink:,}", str(result.lost), str(result.doubled)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(found, bursts):
    """Whether Petrel's best player meets the bar, in words."""
    by_name = {result.name: result for result in found}
    petrel = [by_name[name] for name in PETREL if name in by_name]
    rival = by_name.get(RIVAL)
    if not petrel or rival is None:
        return "No verdict: the games of Petrel's players and of Spark's dynamic allocation are needed."
    best = min(petrel, key=lambda result: (result.over_share.value, result.executor_seconds.value))
    budget = COST_RATIO * best.executor_seconds.value
    peers = [result for result in found if result.executor_seconds.value <= budget]
    lowest = min(peers, key=lambda result: result.over_share.value)
    is_lowest = best.over_share.value <= lowest.over_share.value
    is_apart = best.over_share.high < rival.over_share.low
    whose = "its own" if is_lowest else f"that of `{lowest.name}`, {lowest.over_share.value:.1f} %"
    share = seconds_by_rival(bursts, best.name)
    cost = f" It held {share.text()} % of the executor-seconds of Spark's dynamic allocation on the same bursts." if share else ""
    contact = "touch" if best.over_share.touches(rival.over_share) else "do not touch"
    return (f"Petrel's best player is `{best.name}`: {best.over_share.text(1)} % of the intervals over the objective at "
            f"{best.executor_seconds.value:.0f} executor-seconds a burst. Among the players with at most {COST_RATIO} times "
            f"its executor-seconds ({', '.join(result.name for result in peers)}) the lowest share is {whose}. Its interval "
            f"and that of Spark's dynamic allocation ({rival.over_share.text(1)} % at {rival.executor_seconds.value:.0f} "
            f"executor-seconds) {contact}.{cost} The bar is {'met' if is_lowest and is_apart else 'not met'}.")


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
    text = f"{table(found, bursts)}\n\n{verdict(found, bursts)}\n"
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
