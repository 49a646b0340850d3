package io.petrel.spark.scaling;

import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Which executors hold map output that work in progress may still read? Such an executor is not free even without a task: when
 * it goes, Spark has to run its map tasks again. Work is a whole SQL execution, because adaptive execution runs each map stage
 * as a job of its own and reads its output in a later one. Not safe for use by several threads.
 */
final class MapOutputs {
  /** More than this in progress are some whose end Spark did not tell: the oldest go. */
  private static final int MOST_WORK = 256;

  private final Map<String, Set<String>> holdersOfWork = new LinkedHashMap<>();
  private final Map<Integer, String> workOfStage = new HashMap<>();

  void jobStarted(String work, List<Integer> stages) {
    holdersOfWork.putIfAbsent(work, new HashSet<>());
    stages.forEach(stage -> workOfStage.put(stage, work));
    if (holdersOfWork.size() > MOST_WORK) {
      workEnded(holdersOfWork.keySet().iterator().next());
    }
  }

  void workEnded(String work) {
    if (holdersOfWork.remove(work) != null) {
      workOfStage.values().removeIf(work::equals);
    }
  }

  /** A map task of a stage succeeded on an executor. */
  void written(int stage, String executor) {
    Set<String> holders = holdersOfWork.get(workOfStage.get(stage));
    if (holders != null) {
      holders.add(executor);
    }
  }

  boolean neededFrom(String executor) {
    return holdersOfWork.values().stream().anyMatch(holders -> holders.contains(executor));
  }
}
