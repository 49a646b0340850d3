"""AutoETS and AutoARIMA (statsforecast) against Petrel's forecasters, at the same origins of the same test series.

    petrel arena forecast --traces DIR --out OUT     # writes OUT/windows.csv and OUT/at_origins.csv
    pip install statsforecast
    bench/forecast_rivals.py OUT                     # about an hour on two cores; fits are kept in OUT/rivals.csv

Both are fitted anew at every origin on the 480 s before it; the 0.1 and 0.9 quantiles are the ends of their 80 % interval,
the median their mean, all cut off at 0 and at twice the largest value of the window. A loss is divided by the mean rate of its series, averaged over the seeds of a
trace, then over the traces. The best rival of a horizon is the one of AutoETS, AutoARIMA, their naive model with its normal
interval, and Petrel's last value and seasonal naive (quantiles of their own past errors) with the lowest mean loss there.
The last line is JSON: per horizon `ratio` (mixture / best rival), and `coverage` of the mixture's 80 % interval.
"""

import argparse
import collections
import csv
import json
import math
import multiprocessing
import os
import pathlib
import random
import warnings

HORIZONS_S = (5, 15, 30, 60, 120)
LEVELS = (0.1, 0.5, 0.9)
OWN_RIVALS = ("last-value", "seasonal-naive")
FITTED = ("AutoETS", "AutoARIMA", "Naive")


def fit(row):
    """Quantiles of every fitted rival at one origin: rows of rivals.csv."""
    import numpy
    from statsforecast.models import AutoARIMA, AutoETS, Naive

    window = numpy.array(row["window"].split(), dtype=float)
    rows = []
    for name, model in (("AutoETS", AutoETS(season_length=1)), ("AutoARIMA", AutoARIMA(season_length=1)), ("Naive", Naive())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answer = model.forecast(y=window, h=max(HORIZONS_S), level=[80])
                table = [[answer["lo-80"][h - 1], answer["mean"][h - 1], answer["hi-80"][h - 1]] for h in HORIZONS_S]
            except Exception:  # a model that cannot be fitted (a silent window): what was last seen goes on
                table = [[window[-1]] * 3] * len(HORIZONS_S)
        for horizon, quantiles in zip(HORIZONS_S, table):
            fallback = window[-1]
            values = [max(0.0, float(q)) if math.isfinite(q) else fallback for q in quantiles]
            rows.append([row["trace"], row["seed"], row["origin_s"], name, horizon, *values])
    return rows


def read(path):
    csv.field_size_limit(1 << 24)
    with open(path, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def fit_all(windows, path, processes):
    """Fits what rivals.csv does not hold yet, appending as results come."""
    header = ["trace", "seed", "origin_s", "forecaster", "horizon_s", "q10", "q50", "q90"]
    have = {(r["trace"], r["seed"], r["origin_s"]) for r in read(path)} if path.exists() else set()
    missing = [row for row in windows if (row["trace"], row["seed"], row["origin_s"]) not in have]
    random.Random(4).shuffle(missing)  # a run that is stopped early has seen all traces
    with open(path, "a", encoding="utf-8", newline="") as lines, multiprocessing.Pool(processes) as pool:
        writer = csv.writer(lines)
        if not have:
            writer.writerow(header)
        for done, rows in enumerate(pool.imap_unordered(fit, missing, chunksize=4), 1):
            writer.writerows(rows)
            lines.flush()
            if done % 100 == 0:
                print(f"{done} of {len(missing)} origins fitted", flush=True)


def pinball(outcome, quantile, level):
    return max(level * (outcome - quantile), (level - 1) * (outcome - quantile))


def scores(windows, forecasts):
    """{(forecaster, trace, horizon): (mean scaled pinball loss, coverage)}, seeds averaged."""
    outcomes = {(row["trace"], row["seed"], row["origin_s"]): row for row in windows}
    highest = {key: 2 * max(map(float, row["window"].split())) for key, row in outcomes.items()}
    losses, inside = collections.defaultdict(list), collections.defaultdict(list)
    for row in forecasts:
        window = outcomes.get((row["trace"], row["seed"], row["origin_s"]))
        if window is None:
            continue
        outcome, scale = float(window[f"outcome_{row['horizon_s']}s"]), float(window["mean_rate"])
        quantiles = [float(row[column]) for column in ("q10", "q50", "q90")]
        if row["forecaster"] in FITTED:  # models with a multiplicative trend explode now and then
            quantiles = [min(quantile, highest[row["trace"], row["seed"], row["origin_s"]]) for quantile in quantiles]
        key = (row["forecaster"], row["trace"], int(row["horizon_s"]))
        losses[key].append(sum(pinball(outcome, q, level) for q, level in zip(quantiles, LEVELS)) / len(LEVELS) / scale)
        inside[key].append(quantiles[0] <= outcome <= quantiles[2])
    return {key: (sum(loss) / len(loss), sum(inside[key]) / len(loss)) for key, loss in losses.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path, help="folder that `petrel arena forecast` wrote")
    arguments.add_argument("--processes", type=int, default=os.cpu_count())
    arguments.add_argument("--no-fit", action="store_true", help="compare with the fits that OUT/rivals.csv holds")
    given = arguments.parse_args()
    windows = read(given.out / "windows.csv")
    if not given.no_fit:
        fit_all(windows, given.out / "rivals.csv", given.processes)
    rivals = read(given.out / "rivals.csv")
    fitted = {(row["trace"], row["seed"], row["origin_s"]) for row in rivals}
    windows = [row for row in windows if (row["trace"], row["seed"], row["origin_s"]) in fitted]
    table = scores(windows, rivals + read(given.out / "at_origins.csv"))
    traces = sorted({trace for _, trace, _ in table})
    names = sorted({name for name, _, _ in table})
    rivals = [name for name in names if name in FITTED + OWN_RIVALS]

    def mean(name, horizon, column=0):
        return sum(table[name, trace, horizon][column] for trace in traces) / len(traces)

    print(f"{'mean scaled pinball loss':26}" + "".join(f"{horizon:>9} s" for horizon in HORIZONS_S))
    for name in names:
        print(f"{name:26}" + "".join(f"{mean(name, horizon):11.4f}" for horizon in HORIZONS_S))
    ratio, best, geometric, coverage = {}, {}, {}, {}
    print("\nmixture / best rival of the trace")
    for trace in traces:
        cells = []
        for horizon in HORIZONS_S:
            rival = min(rivals, key=lambda name: table[name, trace, horizon][0])
            cells.append(f"{table['mixture', trace, horizon][0] / table[rival, trace, horizon][0]:6.3f} {rival[:14]:14}")
        print(f"{trace:20}" + " ".join(cells))
    for horizon in HORIZONS_S:
        best[horizon] = min(rivals, key=lambda name: mean(name, horizon))
        ratio[horizon] = round(mean("mixture", horizon) / mean(best[horizon], horizon), 4)
        logs = lambda name: [math.log(table["mixture", t, horizon][0] / table[name, t, horizon][0]) for t in traces]
        geometric[horizon] = round(max(math.exp(sum(logs(name)) / len(traces)) for name in rivals), 4)
        coverage[horizon] = round(mean("mixture", horizon, 1), 4)
    print("\nmixture / best rival on average: " + ", ".join(f"{h} s {ratio[h]} ({best[h]})" for h in HORIZONS_S))
    print(json.dumps({"ratio": ratio, "best_rival": best, "geometric_mean_ratio": geometric, "coverage": coverage,
                      "origins": len(windows), "traces": len(traces)}))


if __name__ == "__main__":
    main()
