package io.petrel.spark.telemetry;

import io.petrel.spark.ScalaLists;
import io.petrel.spark.SparingLog;
import io.petrel.spark.protocol.TaskFigures;
import io.petrel.spark.scaling.Executors;
import io.petrel.spark.telemetry.Stages.Attempt;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.spark.Resubmitted$;
import org.apache.spark.executor.TaskMetrics;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerApplicationEnd;
import org.apache.spark.scheduler.SparkListenerEvent;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;
import org.apache.spark.scheduler.SparkListenerExecutorRemoved;
import org.apache.spark.scheduler.SparkListenerJobEnd;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerStageCompleted;
import org.apache.spark.scheduler.SparkListenerStageSubmitted;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.scheduler.SparkListenerTaskStart;
import org.apache.spark.scheduler.StageInfo;
import org.apache.spark.scheduler.TaskInfo;
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd;
import org.apache.spark.sql.streaming.StreamingQueryListener.QueryProgressEvent;
import org.apache.spark.sql.streaming.StreamingQueryListener.QueryStartedEvent;
import org.apache.spark.sql.streaming.StreamingQueryListener.QueryTerminatedEvent;
import org.apache.spark.sql.streaming.StreamingQueryProgress;

/**
 * What happens in the application, as Spark's listener bus tells it. Streaming progress of every session comes over the same
 * bus, so no session has to exist yet. Only notes down; nothing here waits.
 */
public final class Telemetry extends SparkListener {
  private static final String MAP_TASK = "ShuffleMapTask";
  private static final String SQL_EXECUTION = "spark.sql.execution.id";

  private final Executors executors;
  private final Queries queries;
  private final SparingLog log;
  private final Runnable onApplicationEnd;
  private final Stages stages = new Stages();

  /** Tells {@code executors} and {@code queries} what happens, and {@code onApplicationEnd} when Spark begins to stop. */
  public Telemetry(Executors executors, Queries queries, SparingLog log, Runnable onApplicationEnd) {
    this.executors = executors;
    this.queries = queries;
    this.log = log;
    this.onApplicationEnd = onApplicationEnd;
  }

  /** Tasks as they are now. */
  public Tasks tasks() {
    return new Tasks(stages.pending(), stages.running(), stages.totals());
  }

  @Override
  public void onExecutorAdded(SparkListenerExecutorAdded event) {
    guarded(() -> executors.registered(event.executorId(), event.executorInfo(), event.time()));
  }

  @Override
  public void onExecutorRemoved(SparkListenerExecutorRemoved event) {
    guarded(() -> executors.removed(event.executorId(), event.time()));
  }

  @Override
  public void onJobStart(SparkListenerJobStart event) {
    guarded(
        () -> {
          List<Integer> stageIds = new ArrayList<>();
          ScalaLists.toJava(event.stageIds()).forEach(stage -> stageIds.add((Integer) stage));
          executors.jobStarted(work(event.jobId(), event.properties()), stageIds);
        });
  }

  @Override
  public void onJobEnd(SparkListenerJobEnd event) {
    guarded(() -> executors.workEnded(job(event.jobId())));
  }

  @Override
  public void onStageSubmitted(SparkListenerStageSubmitted event) {
    StageInfo stage = event.stageInfo();
    guarded(() -> stages.submitted(attempt(stage), stage.numTasks(), BatchKey.of(event.properties())));
  }

  @Override
  public void onStageCompleted(SparkListenerStageCompleted event) {
    guarded(() -> stages.completed(attempt(event.stageInfo())));
  }

  @Override
  public void onTaskStart(SparkListenerTaskStart event) {
    guarded(
        () -> {
          TaskInfo task = event.taskInfo();
          executors.taskStarted(task.executorId());
          stages.taskStarted(
              new Attempt(event.stageId(), event.stageAttemptId()), task.executorId(), task.launchTime());
        });
  }

  @Override
  public void onTaskEnd(SparkListenerTaskEnd event) {
    guarded(
        () -> {
          Attempt attempt = new Attempt(event.stageId(), event.stageAttemptId());
          if (event.reason() == Resubmitted$.MODULE$) {
            stages.taskResubmitted(attempt);
            return;
          }
          TaskInfo task = event.taskInfo();
          TaskMetrics metrics = event.taskMetrics();
          // Without a task and without what it left, its executor would be free.
          if (task.successful() && event.taskType().equals(MAP_TASK)) {
            executors.mapOutputWritten(event.stageId(), task.executorId());
          }
          long workedMs = metrics == null ? 0 : metrics.executorRunTime();
          executors.taskEnded(task.executorId(), task.launchTime(), task.finishTime(), workedMs);
          long readBytes = metrics == null ? 0 : metrics.inputMetrics().bytesRead();
          stages.taskEnded(attempt, figures(task.successful(), metrics), readBytes, task.finishTime());
        });
  }

  @Override
  public void onOtherEvent(SparkListenerEvent event) {
    if (event instanceof QueryStartedEvent started) {
      guarded(() -> queries.started(started.id(), started.runId(), started.name()));
    } else if (event instanceof QueryProgressEvent progressed) {
      StreamingQueryProgress progress = progressed.progress();
      guarded(
          () ->
              queries.progressed(
                  progress, stages.close(new BatchKey(progress.id().toString(), progress.batchId()))));
    } else if (event instanceof QueryTerminatedEvent terminated) {
      guarded(
          () -> {
            if (queries.ended(terminated.id(), terminated.runId())) {
              stages.forget(terminated.id().toString());
            }
          });
    } else if (event instanceof SparkListenerSQLExecutionEnd ended) {
      guarded(() -> executors.workEnded(execution(Long.toString(ended.executionId()))));
    }
  }

  @Override
  public void onApplicationEnd(SparkListenerApplicationEnd event) {
    guarded(onApplicationEnd);
  }

  /** What a job is a part of. */
  private static String work(int job, Properties properties) {
    String execution = properties == null ? null : properties.getProperty(SQL_EXECUTION);
    return execution == null ? job(job) : execution(execution);
  }

  private static String job(int id) {
    return "job " + id;
  }

  private static String execution(String id) {
    return "execution " + id;
  }

  private static Attempt attempt(StageInfo stage) {
    return new Attempt(stage.stageId(), stage.attemptNumber());
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

  /** Spark would write a stack trace for every event that surprises Petrel. */
  private void guarded(Runnable note) {
    try {
      note.run();
    } catch (Throwable surprise) {
      log.warn("telemetry", "could not take in an event of Spark's", surprise);
    }
  }
}
