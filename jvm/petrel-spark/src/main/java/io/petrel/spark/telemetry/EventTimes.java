package io.petrel.spark.telemetry;

import java.util.List;

/**
 * When did the records of a batch happen? A distribution over event time, piecewise linear between points.
 *
 * @param timesMs ascending times, milliseconds since the Unix epoch
 * @param shares share of the records that happened before each of them, ascending from 0 to 1
 * @param source where that is known from, as the protocol names it
 */
record EventTimes(double[] timesMs, double[] shares, String source) {

  /** The query measured the quantiles itself: equally spaced from the least to the greatest. */
  static EventTimes observed(List<? extends Number> quantilesMs) {
    int last = quantilesMs.size() - 1;
    double[] times = new double[last + 1];
    double[] shares = new double[last + 1];
    for (int index = 0; index <= last; index++) {
      times[index] = quantilesMs.get(index).doubleValue();
      shares[index] = last == 0 ? 1.0 : (double) index / last;
    }
    return new EventTimes(times, shares, "observed");
  }

  /**
   * Spark reports least, mean and greatest event time of a query with a watermark: evenly spread on either side of the mean,
   * with the one weight that has this mean.
   */
  static EventTimes range(double leastMs, double meanMs, double greatestMs) {
    double belowMean = greatestMs > leastMs ? (greatestMs - meanMs) / (greatestMs - leastMs) : 1.0;
    return new EventTimes(
        new double[] {leastMs, meanMs, greatestMs}, new double[] {0.0, belowMean, 1.0}, "event-time-range");
  }

  /** All that is known is when the batch could have read its records: evenly spread between two times. */
  static EventTimes arrival(double fromMs, double toMs) {
    return new EventTimes(new double[] {fromMs, toMs}, new double[] {0.0, 1.0}, "arrival");
  }

  /** Share of the records that happened before {@code timeMs}. */
  double shareBefore(double timeMs) {
    if (timeMs <= timesMs[0]) {
      return 0.0;
    }
    for (int above = 1; above < timesMs.length; above++) {
      if (timeMs <= timesMs[above]) {
        double part = (timeMs - timesMs[above - 1]) / (timesMs[above] - timesMs[above - 1]);
        return shares[above - 1] + part * (shares[above] - shares[above - 1]);
      }
    }
    return 1.0;
  }
}
