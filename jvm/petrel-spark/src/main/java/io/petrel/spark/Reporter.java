package io.petrel.spark;

import io.petrel.spark.protocol.BatchReport;
import io.petrel.spark.protocol.DecisionOutcome;
import io.petrel.spark.protocol.Heartbeat;
import io.petrel.spark.protocol.TaskFigures;
import io.petrel.spark.scaling.Executors;
import io.petrel.spark.scaling.Steering;
import io.petrel.spark.telemetry.Queries;
import io.petrel.spark.telemetry.Tasks;
import io.petrel.spark.telemetry.Telemetry;
import io.petrel.spark.telemetry.Unacknowledged.Sent;

/** What does the next heartbeat say? Used by one thread. */
final class Reporter {
  private final Settings settings;
  private final String engine;
  private final long attempt;
  private final Telemetry telemetry;
  private final Queries queries;
  private final Executors executors;
  private final Steering steering;
  private TaskFigures acknowledgedTasks = TaskFigures.NONE;
  private long sequence;

  Reporter(
      Settings settings,
      String engine,
      long attempt,
      Telemetry telemetry,
      Queries queries,
      Executors executors,
      Steering steering) {
    this.settings = settings;
    this.engine = engine;
    this.attempt = attempt;
    this.telemetry = telemetry;
    this.queries = queries;
    this.executors = executors;
    this.steering = steering;
  }

  /**
   * A heartbeat and what it carried that has to be told until it is answered.
   *
   * @param heartbeat the message
   * @param batches its batches
   * @param outcomes its outcomes
   * @param tasks all tasks up to it
   */
  record Report(Heartbeat heartbeat, Sent<BatchReport> batches, Sent<DecisionOutcome> outcomes, TaskFigures tasks) {}

  Report next(long nowMs) {
    Sent<BatchReport> batches = queries.batches().all();
    Sent<DecisionOutcome> outcomes = steering.outcomes().all();
    Tasks tasks = telemetry.tasks();
    Queries.Overview overview = queries.overview(nowMs);
    Double cpu = settings.executorCpu() == null ? executors.cpuLimit() : settings.executorCpu();
    Heartbeat heartbeat =
        new Heartbeat(
            Heartbeat.VERSION,
            settings.job(),
            attempt,
            ++sequence,
            nowMs,
            executors.statuses(),
            batches.entries(),
            overview.lagRecords(),
            tasks.pending(),
            tasks.running(),
            overview.committedRecords(),
            overview.triggerMs(),
            settings.executorMemoryGb(),
            cpu,
            executors.startupDelayS(),
            steering.appliedDecision(),
            overview.watermarkMs(),
            executors.executorSeconds(nowMs),
            engine,
            steering.mode(),
            overview.statuses(),
            tasks.totals().minus(acknowledgedTasks),
            outcomes.entries());
    return new Report(heartbeat, batches, outcomes, tasks.totals());
  }

  void acknowledged(Report report) {
    queries.batches().acknowledge(report.batches());
    steering.outcomes().acknowledge(report.outcomes());
    acknowledgedTasks = report.tasks();
  }
}
