package io.petrel.spark.scaling;

import java.util.ArrayDeque;

/** How long does an executor take from request to its first task? Not safe for use by several threads. */
final class StartupDelays {
  /** What is assumed at least until enough executors have been seen. */
  private static final double ASSUMED_S = 10.0;

  /** The protocol takes no more than a day. */
  private static final double LONGEST_S = 86_400.0;

  private static final int ENOUGH = 3;
  private static final int MOST = 200;
  private static final double QUANTILE = 0.9;

  private final ArrayDeque<Double> seconds = new ArrayDeque<>();

  void add(double delayS) {
    if (seconds.size() == MOST) {
      seconds.removeFirst();
    }
    seconds.addLast(Math.min(delayS, LONGEST_S));
  }

  /** The delay that nine of ten executors keep. */
  double quantileS() {
    double[] sorted = seconds.stream().mapToDouble(Double::doubleValue).sorted().toArray();
    if (sorted.length < ENOUGH) {
      return sorted.length == 0 ? ASSUMED_S : Math.max(ASSUMED_S, sorted[sorted.length - 1]);
    }
    int rank = (int) Math.ceil(QUANTILE * sorted.length);
    return sorted[rank - 1];
  }
}
