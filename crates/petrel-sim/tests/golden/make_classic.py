#!/usr/bin/env python3
"""Golden vectors of the classic world: an implementation of its published formulas that shares nothing with the Rust one.

Every row is a state, weights, an action and five uniform draws, then what one step gives. Rows form short episodes,
so each state is what the row before left, plus corner cases. Standard library only:

    python3 make_classic.py > classic.csv
"""

import csv
import random
import sys

RATIO = (1.0, 0.6, 0.3)
PRICE = (0.10, 0.05, 0.02, 0.005)
TIER_MS = (5, 20, 100, 5000)
CODEC_MS = (0, 10, 50)
SCENARIOS = ((0.1, 0.8, 0.1), (0.2, 0.3, 0.5), (0.9, 0.05, 0.05), (0.33, 0.33, 0.33))
COLUMNS = (
    "alpha beta gamma next_workload volume shuffle temperature executors memory tier codec "
    "u_burst u_factor u_volume u_share u_temperature reward cost latency throughput".split()
    + [f"o{i}" for i in range(13)]
    + "after_next_workload after_volume after_shuffle after_temperature".split()
)


def uniform(low, high, u):
    return low + u * (high - low)


def step(weights, state, action, u):
    alpha, beta, gamma = weights
    w, volume, s, temperature = state
    n, m, tier, codec = action
    cost = 0.1 * n + 0.05 * n * m + (s * RATIO[codec] / 1024) * PRICE[tier]
    latency = max(10, 100 * w / (n * m) + TIER_MS[tier] * (s * RATIO[codec]) / 100 + CODEC_MS[codec] * s / 100)
    throughput = n * m * 1000 / latency
    penalty = 0.5 if temperature > 0.7 and tier > 1 else 0.0
    if u[0] < 0.2:
        following, flag = min(900, w * uniform(2, 4, u[1])), 1
    else:
        following, flag = max(10, min(900, w * uniform(0.8, 1.2, u[1]))), 0
    cpu = min(100, 100 * w / (n * m))
    memory = min(100, 100 * volume / (n * m))
    observation = (w, volume, cpu, memory, latency, cost, alpha, beta, gamma, s, temperature, following, flag)
    new_volume = uniform(10, 500, u[2])
    after = (following, new_volume, new_volume * uniform(0.1, 0.5, u[3]), u[4])
    reward = -alpha * cost / 10 - beta * latency / 1000 + gamma * throughput / 1000 - penalty
    return (reward, cost, latency, throughput), observation, after


def main():
    chance = random.Random(20261125)

    def draws():
        return tuple(chance.random() for _ in range(5))

    def action():
        return (chance.randint(1, 20), chance.randint(1, 8), chance.randrange(4), chance.randrange(3))

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)

    def write(weights, state, act, u):
        outcome, observation, after = step(weights, state, act, u)
        values = (*weights, *state, *act, *u, *outcome, *observation, *after)
        out.writerow([repr(float(v)) if not isinstance(v, int) else v for v in values])
        return after

    for weights in SCENARIOS:
        for _ in range(3):
            volume = chance.uniform(10, 500)
            state = (chance.uniform(10, 200), volume, volume * chance.uniform(0.1, 0.5), chance.random())
            for _ in range(20):
                state = write(weights, state, action(), draws())

    balanced = SCENARIOS[3]
    calm, burst = (0.2, 0.5, 0.5, 0.5, 0.5), (0.1999999999, 0.5, 0.5, 0.5, 0.5)
    for state, act, u in (
        ((10.0, 10.0, 1.0, 0.5), (20, 8, 0, 0), calm),  # latency at its floor of 10 ms
        ((10.0, 10.0, 1.0, 0.5), (1, 1, 0, 0), (0.9, 0.0, 0.0, 0.0, 0.0)),  # workload at its floor
        ((899.0, 500.0, 250.0, 0.7), (1, 1, 3, 0), burst),  # ceiling by a burst; 0.7 is not yet hot
        ((899.0, 500.0, 250.0, 0.70001), (1, 1, 3, 0), (0.9, 0.999, 0.99, 0.99, 0.99)),  # ceiling without; hot on archive
        ((500.0, 500.0, 250.0, 0.9), (12, 8, 2, 2), calm),  # hot on S3
        ((500.0, 500.0, 250.0, 0.9), (12, 8, 1, 2), calm),  # hot on NVMe: no penalty
    ):
        write(balanced, state, act, u)


main()
