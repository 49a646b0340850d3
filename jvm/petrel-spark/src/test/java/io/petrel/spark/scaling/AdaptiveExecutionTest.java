package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.petrel.spark.ScalaLists;
import io.petrel.spark.SparingLog;
import io.petrel.spark.telemetry.Queries;
import io.petrel.spark.telemetry.Telemetry;
import java.lang.reflect.Constructor;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.apache.spark.Success$;
import org.apache.spark.TaskState$;
import org.apache.spark.scheduler.JobSucceeded$;
import org.apache.spark.scheduler.SparkListenerEvent;
import org.apache.spark.scheduler.SparkListenerJobEnd;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.scheduler.SparkListenerTaskStart;
import org.apache.spark.scheduler.StageInfo;
import org.apache.spark.scheduler.TaskInfo;
import org.apache.spark.scheduler.TaskLocality$;
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd;
import org.junit.jupiter.api.Test;
import scala.Option;

/** Adaptive execution runs a map stage as a job of its own; the job that reads its output begins later. */
class AdaptiveExecutionTest {
  private static final int STAGE = 10;

  private final SparingLog log = new SparingLog();
  private final Executors executors = new Executors(0, 1);
  private final FakeCluster cluster = new FakeCluster(executors);
  private final Telemetry telemetry = new Telemetry(executors, new Queries(log), log, () -> {});

  @Test
  void mapOutputIsHeldFromJobToJobOfAnSqlExecution() throws Exception {
    Properties execution = new Properties();
    execution.setProperty("spark.sql.execution.id", "5");
    runMapJob(execution);
    assertFalse(isFree());
    telemetry.onOtherEvent(executionEnd(4));
    assertFalse(isFree());
    telemetry.onOtherEvent(executionEnd(5));
    assertTrue(isFree());
  }

  @Test
  void mapOutputOfAJobAloneIsHeldUntilItsEnd() {
    runMapJob(null);
    assertTrue(isFree());
  }

  private void runMapJob(Properties properties) {
    cluster.launch("0", 100);
    telemetry.onJobStart(new SparkListenerJobStart(1, 0, ScalaLists.toScala(List.of(stage())), properties));
    TaskInfo task = new TaskInfo(1, 0, 0, 200, "0", "host-0", TaskLocality$.MODULE$.PROCESS_LOCAL(), false);
    telemetry.onTaskStart(new SparkListenerTaskStart(STAGE, 0, task));
    task.markFinished(TaskState$.MODULE$.FINISHED(), 300);
    telemetry.onTaskEnd(new SparkListenerTaskEnd(STAGE, 0, "ShuffleMapTask", Success$.MODULE$, task, null, null));
    assertFalse(isFree());
    telemetry.onJobEnd(new SparkListenerJobEnd(1, 400, JobSucceeded$.MODULE$));
  }

  private boolean isFree() {
    return executors.active().get(0).free();
  }

  /** Its options, all of them empty, are not as many in each release of Spark. */
  private static SparkListenerEvent executionEnd(long execution) throws ReflectiveOperationException {
    Constructor<?> constructor = SparkListenerSQLExecutionEnd.class.getConstructors()[0];
    Object[] arguments = new Object[constructor.getParameterCount()];
    Arrays.fill(arguments, Option.empty());
    arguments[0] = execution;
    arguments[1] = 0L;
    return (SparkListenerEvent) constructor.newInstance(arguments);
  }

  private static StageInfo stage() {
    return new StageInfo(
        STAGE,
        0,
        "map",
        1,
        ScalaLists.toScala(List.of()),
        ScalaLists.toScala(List.of()),
        "",
        null,
        ScalaLists.toScala(List.of()),
        Option.empty(),
        0,
        false,
        0);
  }
}
