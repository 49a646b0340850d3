"""Which load does a seed stand for? Two flash crowds over a quiet rate, as a CSV file for `petrel fleet --trace`.

    rate
     ▲                 ┌─────┐                ┌─────┐
     │               ╱        ╲             ╱        ╲
     │ ─ ─ ─ ─ ─ ─╱─            ╲─ ─ ─ ─ ╱─            ╲─ ─ ─
     └──lead-in──▲──climb──▲plateau──quiet────────────────────▶ time

The shape is that of the built-in family `flash-crowd` (a quadratic climb, a plateau, an exponential fall) with a ratio of
peak to quiet rate of one's own and two bursts that always lie inside the run. A gateway can see the climb; nobody is told
when it comes. Records of the lead-in are sent and checked, and not judged: the job warms up there.
"""

import dataclasses
import math
import random

FALL_S = 8.0
# The longest burst with a few seconds of quiet before it, twice.
LEAST_JUDGED_S = 130


@dataclasses.dataclass(frozen=True)
class Burst:
    """Seconds of the trace at which the rate begins to climb, is at its peak, and begins to fall."""

    onset_s: int
    peak_s: int
    end_s: int

    def factor(self, second, ratio):
        """Rate at `second` as a multiple of the quiet rate."""
        if second < self.onset_s:
            return 1.0
        if second < self.peak_s:
            climbed = (second - self.onset_s) / (self.peak_s - self.onset_s)
            return 1.0 + (ratio - 1.0) * climbed**2
        if second < self.end_s:
            return ratio
        return 1.0 + (ratio - 1.0) * math.exp(-(second - self.end_s) / FALL_S)


@dataclasses.dataclass(frozen=True)
class Load:
    """The load of one seed: rates in records/s per second of the trace."""

    seed: int
    base: float
    ratio: float
    lead_in_s: int
    judged_s: int
    bursts: tuple[Burst, ...]

    @property
    def total_s(self):
        return self.lead_in_s + self.judged_s

    def rate(self, second):
        return self.base * max((burst.factor(second, self.ratio) for burst in self.bursts), default=1.0)

    def write(self, path):
        """Writes `bin_start_s,count`, with a quiet minute behind the end: the fleet would begin the trace again there."""
        with open(path, "w", encoding="utf-8") as out:
            out.write("bin_start_s,count\n")
            for second in range(self.total_s + 60):
                rate = self.rate(second) if second < self.total_s else self.base
                out.write(f"{second},{rate:.3f}\n")


def draw(seed, base, ratio, lead_in_s, judged_s):
    """The load of `seed`: each half of the judged time has one burst, begun and ended inside it."""
    if judged_s % 10 or judged_s < LEAST_JUDGED_S:
        raise ValueError(f"judged seconds: got {judged_s}, expected a multiple of 10 of at least {LEAST_JUDGED_S}: two bursts "
                         "must fit, and each half hold whole intervals")
    if lead_in_s < 0 or lead_in_s % 5:
        raise ValueError(f"lead-in seconds: got {lead_in_s}, expected a multiple of 5 of at least 0: the judged time begins with "
                         "a whole interval")
    dice = random.Random(seed)
    half_s = judged_s // 2
    bursts = []
    for start_s in (lead_in_s, lead_in_s + half_s):
        climb_s, plateau_s = dice.randint(20, 28), dice.randint(16, 20)
        # A few seconds of quiet first, and the fall inside the half.
        onset_s = start_s + dice.randint(6, half_s - climb_s - plateau_s - int(FALL_S))
        bursts.append(Burst(onset_s, onset_s + climb_s, onset_s + climb_s + plateau_s))
    return Load(seed, base, ratio, lead_in_s, judged_s, tuple(bursts))


def steady(seed, rate, lead_in_s, judged_s):
    """A load without a burst."""
    return Load(seed, rate, 1.0, lead_in_s, judged_s, ())
