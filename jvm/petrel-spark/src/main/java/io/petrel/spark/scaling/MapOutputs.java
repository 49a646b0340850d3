package io.petrel.spark.scaling;

import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Which executors hold map output that a running job may still read? Such an executor is not free even without a task: when it
 * goes, Spark has to run its map tasks again. Not safe for use by several threads.
 */
final class MapOutputs {
  private final Map<Integer, Set<String>> holdersOfJob = new HashMap<>();
  private final Map<Integer, Integer> jobOfStage = new HashMap<>();

  void jobStarted(int job, List<Integer> stages) {
    holdersOfJob.put(job, new HashSet<>());
    stages.forEach(stage -> jobOfStage.put(stage, job));
  }

  void jobEnded(int job) {
    holdersOfJob.remove(job);
    jobOfStage.values().removeIf(of -> of == job);
  }

  /** A map task of a stage succeeded on an executor. */
  void written(int stage, String executor) {
    Set<String> holders = holdersOfJob.get(jobOfStage.get(stage));
    if (holders != null) {
      holders.add(executor);
    }
  }

  boolean neededFrom(String executor) {
    return holdersOfJob.values().stream().anyMatch(holders -> holders.contains(executor));
  }
}
