package io.petrel.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Path;
import java.util.function.Predicate;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.functions;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The plugin in Spark: executors are processes of a local cluster, the controller answers over HTTP. */
class PluginTest {
  @TempDir private Path checkpoints;
  private TestController controller;
  private SparkSession spark;

  @BeforeEach
  void start() throws IOException {
    controller = new TestController();
  }

  @AfterEach
  void stop() {
    if (spark != null) {
      spark.stop();
    }
    controller.stop();
  }

  @Test
  void aRunningQueryIsScaledAndGoesOnWithoutItsController() throws Exception {
    spark = session("local-cluster[2,1,1024]");
    controller.want(1, false);
    StreamingQuery query = query();
    JsonNode first = controller.await("a batch", beat -> beat.get("batches").size() > 0);
    JsonNode batch = first.get("batches").get(0);
    assertEquals("numbers", batch.get("query").asText());
    assertTrue(batch.get("records").asLong() > 0, batch.toString());
    assertTrue(batch.get("tasks").asInt() > 0, batch.toString());
    assertEquals(1, batch.get("executors").asInt());
    assertEquals("observed", first.get("queries").get(0).get("latency_source").asText());
    assertEquals("test", first.get("job").asText());
    assertEquals("spark " + spark.version(), first.get("engine").asText());
    assertEquals(200.0, first.get("trigger_ms").asDouble());

    controller.await("CPU that an executor used", beat -> beat.get("executors").get(0).get("cpu_utilisation").asDouble() > 0);

    controller.want(2, false);
    controller.await("an outcome of the second decision", PluginTest::tellsOfTheSecondDecision);
    controller.await("two executors that run", beat -> running(beat) == 2 && beat.get("executors").size() == 2);

    controller.want(1, false);
    controller.await("one executor", beat -> running(beat) == 1 && beat.get("executors").size() == 1);

    controller.answerWith(401);
    controller.await("fallback", mode("fallback"));
    controller.answerWith(200);
    controller.want(2, false);
    controller.await("two executors again", mode("steered").and(beat -> running(beat) == 2));

    controller.want(2, true);
    controller.await("advice and two executors", mode("advised").and(beat -> running(beat) == 2));
    assertTrue(query.isActive(), () -> query.exception().toString());
    query.stop();
    // Two are wanted; Spark's dynamic allocation is at work again and finds one too many without tasks.
    controller.await("one idle executor less", mode("advised").and(beat -> running(beat) == 1));
    spark.stop();
    assertFalse(Thread.getAllStackTraces().keySet().stream().anyMatch(PluginTest::allocates), "dynamic allocation ended");
  }

  @Test
  void aWrongSettingLeavesTheApplicationAlone() {
    spark = builder("local[1]").config("spark.petrel.url", "nowhere").getOrCreate();
    assertEquals(10, spark.range(10).count());
  }

  @Test
  void withoutExecutorsToScaleTheQueryIsReported() throws Exception {
    spark = session("local[1]");
    controller.want(3, false);
    assertEquals(1, controller.await("the first heartbeat", heard -> true).get("sequence").asLong());
    query();
    JsonNode beat = controller.await("a batch", heard -> heard.get("batches").size() > 0);
    assertEquals(0, beat.get("executors").size());
    controller.want(4, false);
    JsonNode refused = controller.await("an outcome", PluginTest::anyOutcome);
    assertEquals("refused", refused.get("outcomes").get(0).get("outcome").asText());
  }

  private StreamingQuery query() throws Exception {
    Dataset<Row> numbers = spark.readStream().format("rate").option("rowsPerSecond", 100).load();
    return numbers
        .observe(
            "petrel",
            functions.expr("percentile_approx(unix_millis(timestamp), array(0.0, 0.5, 1.0))").as("event_ms"),
            functions.count("*").as("records"))
        .writeStream()
        .format("noop")
        .queryName("numbers")
        .trigger(Trigger.ProcessingTime(200))
        .option("checkpointLocation", checkpoints.toString())
        .start();
  }

  private SparkSession session(String master) {
    return builder(master)
        .config("spark.petrel.url", controller.url())
        .config("spark.petrel.heartbeat", "200ms")
        .config("spark.petrel.silence", "2s")
        .getOrCreate();
  }

  private static SparkSession.Builder builder(String master) {
    return SparkSession.builder()
        .master(master)
        .appName("test")
        .config("spark.plugins", PetrelPlugin.class.getName())
        .config("spark.ui.enabled", false)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.executor.memory", "512m")
        .config("spark.executor.extraClassPath", System.getProperty("java.class.path"))
        .config("spark.standalone.executorRemoveDelayOnDisconnection", "0s")
        .config("spark.dynamicAllocation.enabled", true)
        .config("spark.dynamicAllocation.shuffleTracking.enabled", true)
        .config("spark.dynamicAllocation.executorIdleTimeout", "2s")
        .config("spark.dynamicAllocation.minExecutors", 1)
        .config("spark.dynamicAllocation.maxExecutors", 2);
  }

  private static boolean tellsOfTheSecondDecision(JsonNode heartbeat) {
    return heartbeat.get("outcomes").findValues("decision_id").stream().anyMatch(id -> id.asInt() == 2);
  }

  private static boolean allocates(Thread thread) {
    return thread.getName().startsWith("spark-dynamic-executor-allocation");
  }

  private static boolean anyOutcome(JsonNode heartbeat) {
    return heartbeat.get("outcomes").size() > 0;
  }

  private static Predicate<JsonNode> mode(String mode) {
    return heartbeat -> heartbeat.get("mode").asText().equals(mode);
  }

  private static int running(JsonNode heartbeat) {
    int running = 0;
    for (JsonNode executor : heartbeat.get("executors")) {
      running += executor.get("phase").asText().equals("running") ? 1 : 0;
    }
    return running;
  }
}
