package io.petrel.spark.protocol;

import java.util.List;

/**
 * What the driver tells the controller, once a second: protocol 2 of {@code docs/protocol.md}.
 *
 * @param version {@link #VERSION}
 * @param job name of the job
 * @param attempt start of this driver, milliseconds since the Unix epoch
 * @param sequence counts the heartbeats of an attempt, from 1
 * @param timeMs when it was made, milliseconds since the Unix epoch
 * @param executors executors in every phase
 * @param batches batches since the last acknowledged heartbeat, oldest first
 * @param lagRecords records in the log that are not committed yet: of the query with the most
 * @param tasksPending tasks of running stages that have no slot yet
 * @param tasksRunning tasks running
 * @param committedRecords records committed since this driver started: of the query with the most
 * @param triggerMs trigger interval, 0 for "as soon as possible"
 * @param executorMemoryGb memory of an executor with its overhead, gigabytes
 * @param executorCpu CPU limit of an executor in cores, or null without a limit
 * @param startupDelayS 0.9 quantile of request to first task, over the executors seen so far
 * @param appliedDecision last desired state that was applied
 * @param watermarkMs event-time watermark of the query that is furthest behind, or null
 * @param executorSeconds executor seconds from request to release since this driver started
 * @param engine Spark and its release
 * @param mode who decides at the moment
 * @param queries streaming queries
 * @param tasks tasks since the last acknowledged heartbeat
 * @param outcomes what became of decisions since the last acknowledged heartbeat, oldest first
 */
public record Heartbeat(
    int version,
    String job,
    long attempt,
    long sequence,
    long timeMs,
    List<ExecutorStatus> executors,
    List<BatchReport> batches,
    long lagRecords,
    int tasksPending,
    int tasksRunning,
    long committedRecords,
    double triggerMs,
    double executorMemoryGb,
    Double executorCpu,
    double startupDelayS,
    long appliedDecision,
    Long watermarkMs,
    double executorSeconds,
    String engine,
    EngineMode mode,
    List<QueryStatus> queries,
    TaskFigures tasks,
    List<DecisionOutcome> outcomes) {

  /** Version of the protocol that this plugin speaks. */
  public static final int VERSION = 2;
}
