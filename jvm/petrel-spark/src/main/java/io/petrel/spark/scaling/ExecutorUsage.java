package io.petrel.spark.scaling;

import java.io.Serializable;

/**
 * What does an executor use of its CPU? Sent by the executor's side of the plugin to the driver's.
 *
 * @param executor Spark's name of it
 * @param limitCores CPU limit in cores, or null without one
 * @param usedCores CPU used over the last second, in cores
 */
public record ExecutorUsage(String executor, Double limitCores, double usedCores) implements Serializable {

  /** CPU used as a share of the limit, or of {@code cores} where there is none: 0 to 1. */
  public double utilisation(int cores) {
    double available = limitCores == null ? cores : limitCores;
    return available > 0 ? Math.min(1.0, Math.max(0.0, usedCores / available)) : 0.0;
  }
}
