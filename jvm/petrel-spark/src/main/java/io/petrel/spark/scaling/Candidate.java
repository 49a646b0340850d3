package io.petrel.spark.scaling;

/**
 * An executor that may have to go.
 *
 * @param id Spark's name of it
 * @param runningTasks tasks that run on it
 * @param registeredMs since when it is there
 */
public record Candidate(String id, int runningTasks, long registeredMs) {
  boolean idle() {
    return runningTasks == 0;
  }
}
