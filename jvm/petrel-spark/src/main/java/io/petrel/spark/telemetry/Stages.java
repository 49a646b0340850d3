package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.TaskFigures;
import java.util.LinkedHashMap;
import java.util.Map;

/** What do tasks do: those that wait, those that run, those of each micro-batch? Safe for use by several threads. */
final class Stages {
  /** Batches whose progress has not come yet; more than one per query only when Spark drops events. */
  private static final int MOST_OPEN_BATCHES = 256;

  /** More than this at once are some whose end Spark did not tell: the oldest go. */
  private static final int MOST_ATTEMPTS = 1_000;

  private final Map<Attempt, Stage> stages = new LinkedHashMap<>();
  private final Map<BatchKey, BatchTasks> batches = new LinkedHashMap<>();
  private TaskFigures totals = TaskFigures.NONE;

  /**
   * One attempt at a stage.
   *
   * @param stage Spark's number of the stage
   * @param number of the attempt, from 0
   */
  record Attempt(int stage, int number) {}

  private static final class Stage {
    final BatchTasks batch;
    int unfinished;
    int running;
    boolean completed;

    Stage(BatchTasks batch, int tasks) {
      this.batch = batch;
      this.unfinished = tasks;
    }
  }

  /** A stage with this many tasks began; {@code key} is null for a stage of no streaming query. */
  synchronized void submitted(Attempt attempt, int tasks, BatchKey key) {
    stages.put(attempt, new Stage(key == null ? null : open(key), tasks));
    if (stages.size() > MOST_ATTEMPTS) {
      stages.remove(stages.keySet().iterator().next());
    }
  }

  /** A stage ended; tasks that nobody needs any more, such as speculative ones, may still run. */
  synchronized void completed(Attempt attempt) {
    Stage stage = stages.get(attempt);
    if (stage != null) {
      stage.completed = true;
      stage.unfinished = 0;
      removeIfOver(attempt, stage);
    }
  }

  synchronized void taskStarted(Attempt attempt, String executor, long timeMs) {
    Stage stage = stages.get(attempt);
    if (stage == null) {
      return;
    }
    stage.running++;
    if (stage.batch != null) {
      stage.batch.started(executor, timeMs);
    }
  }

  synchronized void taskEnded(Attempt attempt, TaskFigures task, long readBytes, long timeMs) {
    totals = totals.plus(task);
    Stage stage = stages.get(attempt);
    if (stage == null) {
      return;
    }
    stage.running = Math.max(0, stage.running - 1);
    stage.unfinished = (int) Math.max(0, stage.unfinished - task.finished());
    if (stage.batch != null) {
      stage.batch.ended(task, readBytes, timeMs);
    }
    removeIfOver(attempt, stage);
  }

  /** The output of a task that had finished was lost with its executor: the task waits again. */
  synchronized void taskResubmitted(Attempt attempt) {
    Stage stage = stages.get(attempt);
    if (stage != null && !stage.completed) {
      stage.unfinished++;
    }
  }

  /** The tasks of a batch that has been committed; none where Spark dropped their events. */
  synchronized BatchTasks close(BatchKey key) {
    BatchTasks tasks = batches.remove(key);
    return tasks == null ? new BatchTasks() : tasks;
  }

  /** A query ended: nobody will ask for the batch that it had begun. */
  synchronized void forget(String queryId) {
    batches.keySet().removeIf(key -> key.queryId().equals(queryId));
  }

  /** Tasks of running stages that have no slot yet. */
  synchronized int pending() {
    return stages.values().stream().mapToInt(stage -> Math.max(0, stage.unfinished - stage.running)).sum();
  }

  /** Tasks that run. */
  synchronized int running() {
    return stages.values().stream().mapToInt(stage -> stage.running).sum();
  }

  /** All tasks that ended since the driver started. */
  synchronized TaskFigures totals() {
    return totals;
  }

  private void removeIfOver(Attempt attempt, Stage stage) {
    if (stage.completed && stage.running == 0) {
      stages.remove(attempt);
    }
  }

  private BatchTasks open(BatchKey key) {
    BatchTasks tasks = batches.computeIfAbsent(key, unused -> new BatchTasks());
    if (batches.size() > MOST_OPEN_BATCHES) {
      batches.remove(batches.keySet().iterator().next());
    }
    return tasks;
  }
}
