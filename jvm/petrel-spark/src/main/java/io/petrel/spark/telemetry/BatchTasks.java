package io.petrel.spark.telemetry;

import io.petrel.spark.protocol.TaskFigures;
import java.util.HashSet;
import java.util.Set;

/** What did the tasks of one micro-batch do? Not safe for use by several threads. */
final class BatchTasks {
  private final Set<String> executors = new HashSet<>();
  private TaskFigures figures = TaskFigures.NONE;
  private long inputBytes;
  private int started;
  private int running;
  private long busySinceMs;
  private long busyMs;

  void started(String executor, long timeMs) {
    executors.add(executor);
    started++;
    if (running++ == 0) {
      busySinceMs = timeMs;
    }
  }

  void ended(TaskFigures task, long readBytes, long timeMs) {
    figures = figures.plus(task);
    inputBytes += readBytes;
    if (running > 0 && --running == 0) {
      busyMs += Math.max(0, timeMs - busySinceMs);
    }
  }

  TaskFigures figures() {
    return figures;
  }

  long inputBytes() {
    return inputBytes;
  }

  int tasks() {
    return started;
  }

  int executors() {
    return executors.size();
  }

  /** Wall time until {@code timeMs} in which at least one task ran; one that nobody needs any more may run on. */
  long busyMs(long timeMs) {
    return running == 0 ? busyMs : busyMs + Math.max(0, timeMs - busySinceMs);
  }
}
