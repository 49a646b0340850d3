package io.petrel.spark.protocol;

/**
 * Sums over finished tasks.
 *
 * @param finished tasks that succeeded
 * @param failed tasks that did not
 * @param runMs wall time on executors
 * @param cpuMs CPU time on executors
 * @param gcMs garbage collection while they ran
 * @param spillBytes spilled to disk
 * @param shuffleWrittenBytes shuffle written
 * @param shuffleReadBytes shuffle read
 * @param fetchWaitMs waiting for shuffle blocks
 */
public record TaskFigures(
    long finished,
    long failed,
    double runMs,
    double cpuMs,
    double gcMs,
    long spillBytes,
    long shuffleWrittenBytes,
    long shuffleReadBytes,
    double fetchWaitMs) {

  /** No task at all. */
  public static final TaskFigures NONE = new TaskFigures(0, 0, 0, 0, 0, 0, 0, 0, 0);

  /** Both together. */
  public TaskFigures plus(TaskFigures other) {
    return new TaskFigures(
        finished + other.finished,
        failed + other.failed,
        runMs + other.runMs,
        cpuMs + other.cpuMs,
        gcMs + other.gcMs,
        spillBytes + other.spillBytes,
        shuffleWrittenBytes + other.shuffleWrittenBytes,
        shuffleReadBytes + other.shuffleReadBytes,
        fetchWaitMs + other.fetchWaitMs);
  }

  /** What these have more than {@code other}. */
  public TaskFigures minus(TaskFigures other) {
    return new TaskFigures(
        finished - other.finished,
        failed - other.failed,
        runMs - other.runMs,
        cpuMs - other.cpuMs,
        gcMs - other.gcMs,
        spillBytes - other.spillBytes,
        shuffleWrittenBytes - other.shuffleWrittenBytes,
        shuffleReadBytes - other.shuffleReadBytes,
        fetchWaitMs - other.fetchWaitMs);
  }
}
