package io.petrel.spark.telemetry;

import io.petrel.spark.ScalaLists;
import io.petrel.spark.SparingLog;
import io.petrel.spark.scaling.Executors;
import java.util.ArrayList;
import java.util.List;
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
import org.apache.spark.scheduler.TaskInfo;
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
          List<Integer> stages = new ArrayList<>();
          ScalaLists.toJava(event.stageIds()).forEach(stage -> stages.add((Integer) stage));
          executors.jobStarted(event.jobId(), stages);
        });
  }

  @Override
  public void onJobEnd(SparkListenerJobEnd event) {
    guarded(() -> executors.jobEnded(event.jobId()));
  }

  @Override
  public void onStageSubmitted(SparkListenerStageSubmitted event) {
    guarded(() -> stages.submitted(event));
  }

  @Override
  public void onStageCompleted(SparkListenerStageCompleted event) {
    guarded(() -> stages.completed(event.stageInfo().stageId()));
  }

  @Override
  public void onTaskStart(SparkListenerTaskStart event) {
    guarded(
        () -> {
          executors.taskStarted(event.taskInfo().executorId());
          stages.taskStarted(event);
        });
  }

  @Override
  public void onTaskEnd(SparkListenerTaskEnd event) {
    guarded(
        () -> {
          TaskInfo task = event.taskInfo();
          long workedMs = event.taskMetrics() == null ? 0 : event.taskMetrics().executorRunTime();
          executors.taskEnded(task.executorId(), task.launchTime(), task.finishTime(), workedMs);
          if (task.successful() && event.taskType().equals(MAP_TASK)) {
            executors.mapOutputWritten(event.stageId(), task.executorId());
          }
          stages.taskEnded(event);
        });
  }

  @Override
  public void onOtherEvent(SparkListenerEvent event) {
    if (event instanceof QueryStartedEvent started) {
      guarded(() -> queries.started(started.id(), started.name()));
    } else if (event instanceof QueryProgressEvent progressed) {
      StreamingQueryProgress progress = progressed.progress();
      guarded(
          () ->
              queries.progressed(
                  progress, stages.close(new BatchKey(progress.id().toString(), progress.batchId()))));
    } else if (event instanceof QueryTerminatedEvent terminated) {
      guarded(() -> queries.ended(terminated.id()));
    }
  }

  @Override
  public void onApplicationEnd(SparkListenerApplicationEnd event) {
    guarded(onApplicationEnd);
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
