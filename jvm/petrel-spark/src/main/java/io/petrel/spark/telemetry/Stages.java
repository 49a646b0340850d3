package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.TaskFigures;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.executor.TaskMetrics;
import org.apache.spark.scheduler.SparkListenerStageSubmitted;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.scheduler.SparkListenerTaskStart;

/** What do tasks do: those that wait, those that run, those of each micro-batch? Safe for use by several threads. */
final class Stages {
  /** Batches whose progress has not come yet; more than one per query only when Spark drops events. */
  private static final int MOST_OPEN_BATCHES = 256;

  private final Map<Integer, Stage> stages = new HashMap<>();
  private final Map<BatchKey, BatchTasks> batches = new LinkedHashMap<>();
  private TaskFigures totals = TaskFigures.NONE;

  private static final class Stage {
    final BatchTasks batch;
    int unfinished;
    int running;

    Stage(BatchTasks batch, int tasks) {
      this.batch = batch;
      this.unfinished = tasks;
    }
  }

  synchronized void submitted(SparkListenerStageSubmitted event) {
    BatchKey key = BatchKey.of(event.properties());
    stages.put(event.stageInfo().stageId(), new Stage(key == null ? null : open(key), event.stageInfo().numTasks()));
  }

  synchronized void completed(int stageId) {
    stages.remove(stageId);
  }

  synchronized void taskStarted(SparkListenerTaskStart event) {
    Stage stage = stages.get(event.stageId());
    if (stage == null) {
      return;
    }
    stage.running++;
    if (stage.batch != null) {
      stage.batch.started(event.taskInfo().executorId(), event.taskInfo().launchTime());
    }
  }

  synchronized void taskEnded(SparkListenerTaskEnd event) {
    boolean succeeded = event.taskInfo().successful();
    TaskMetrics metrics = event.taskMetrics();
    TaskFigures figures = figures(succeeded, metrics);
    totals = totals.plus(figures);
    Stage stage = stages.get(event.stageId());
    if (stage == null) {
      return;
    }
    stage.running = Math.max(0, stage.running - 1);
    if (succeeded) {
      stage.unfinished = Math.max(0, stage.unfinished - 1);
    }
    if (stage.batch != null) {
      long readBytes = metrics == null ? 0 : metrics.inputMetrics().bytesRead();
      stage.batch.ended(figures, readBytes, event.taskInfo().finishTime());
    }
  }

  /** The tasks of a batch that has been committed; none where Spark dropped their events. */
  synchronized BatchTasks close(BatchKey key) {
    BatchTasks tasks = batches.remove(key);
    return tasks == null ? new BatchTasks() : tasks;
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

  private BatchTasks open(BatchKey key) {
    BatchTasks tasks = batches.computeIfAbsent(key, unused -> new BatchTasks());
    if (batches.size() > MOST_OPEN_BATCHES) {
      batches.remove(batches.keySet().iterator().next());
    }
    return tasks;
  }

  private static TaskFigures figures(boolean succeeded, TaskMetrics metrics) {
    int finished = succeeded ? 1 : 0;
    if (metrics == null) {
      return new TaskFigures(finished, 1 - finished, 0, 0, 0, 0, 0, 0, 0);
    }
    return new TaskFigures(
        finished,
        1 - finished,
        metrics.executorRunTime(),
        metrics.executorCpuTime() / 1e6,
        metrics.jvmGCTime(),
        metrics.diskBytesSpilled(),
        metrics.shuffleWriteMetrics().bytesWritten(),
        metrics.shuffleReadMetrics().totalBytesRead(),
        metrics.shuffleReadMetrics().fetchWaitTime());
  }
}
