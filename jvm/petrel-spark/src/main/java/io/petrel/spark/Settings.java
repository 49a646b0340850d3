package io.petrel.spark;

import io.petrel.spark.scaling.Shrink;
import java.net.MalformedURLException;
import java.net.URI;
import java.net.URL;
import java.util.List;
import java.util.Locale;
import org.apache.spark.SparkConf;

/**
 * What the user set, checked.
 *
 * @param controller where heartbeats go
 * @param token sent with each heartbeat, or null
 * @param job name of the job
 * @param heartbeatMs time between heartbeats
 * @param silenceMs after this long without an answer Spark decides itself
 * @param hold true when the application keeps its executors then
 * @param executorCpu CPU limit of an executor in cores, or null when the executors shall find it
 * @param shrink what may be done to busy executors
 * @param executorMemoryGb memory of an executor with its overhead
 * @param cpusPerTask cores that a task takes
 */
record Settings(
    URL controller,
    String token,
    String job,
    long heartbeatMs,
    long silenceMs,
    boolean hold,
    Double executorCpu,
    Shrink shrink,
    double executorMemoryGb,
    int cpusPerTask) {

  private static final String HEARTBEAT_PATH = "/api/v1/heartbeat";
  private static final long LEAST_HEARTBEAT_MS = 100;

  /**
   * Reads {@code spark.petrel.*} and what Spark's own settings say about executors.
   *
   * @throws IllegalArgumentException naming the setting, its value and what is expected
   */
  static Settings of(SparkConf conf) {
    long heartbeatMs = conf.getTimeAsMs("spark.petrel.heartbeat", "1s");
    if (heartbeatMs < LEAST_HEARTBEAT_MS) {
      throw invalid(conf, "spark.petrel.heartbeat", "at least " + LEAST_HEARTBEAT_MS + "ms");
    }
    long silenceMs = conf.getTimeAsMs("spark.petrel.silence", "15s");
    if (silenceMs < 2 * heartbeatMs) {
      throw invalid(conf, "spark.petrel.silence", "at least two heartbeats, " + 2 * heartbeatMs + "ms");
    }
    return new Settings(
        controller(conf),
        conf.get("spark.petrel.token", null),
        conf.get("spark.petrel.job", conf.get("spark.app.name")),
        heartbeatMs,
        silenceMs,
        oneOf(conf, "spark.petrel.fallback", List.of("dynamic-allocation", "hold")).equals("hold"),
        executorCpu(conf),
        Shrink.valueOf(oneOf(conf, "spark.petrel.shrink", List.of("decommission", "idle", "kill")).toUpperCase(Locale.ROOT)),
        executorMemoryGb(conf),
        conf.getInt("spark.task.cpus", 1));
  }

  private static URL controller(SparkConf conf) {
    String expected = "the controller's address, http://HOST:PORT";
    String url = conf.get("spark.petrel.url", "");
    try {
      URI uri = URI.create(url.replaceAll("/+$", "") + HEARTBEAT_PATH);
      boolean http = "http".equals(uri.getScheme()) || "https".equals(uri.getScheme());
      if (http && uri.getHost() != null) {
        return uri.toURL();
      }
    } catch (IllegalArgumentException | MalformedURLException notAnAddress) {
      // Told below together with the other ways in which it can be wrong.
    }
    throw invalid(conf, "spark.petrel.url", expected);
  }

  private static Double executorCpu(SparkConf conf) {
    String setting = "spark.petrel.executor.cpu";
    if (!conf.contains(setting)) {
      return null;
    }
    double cores = conf.getDouble(setting, 0.0);
    if (!(cores > 0.0 && cores <= 1024.0)) {
      throw invalid(conf, setting, "cores, more than 0 and at most 1024");
    }
    return cores;
  }

  private static double executorMemoryGb(SparkConf conf) {
    long heapMb = conf.getSizeAsMb("spark.executor.memory", "1g");
    double factor = conf.getDouble("spark.executor.memoryOverheadFactor", 0.1);
    long leastMb = conf.getSizeAsMb("spark.executor.minMemoryOverhead", "384m");
    long usualMb = Math.max((long) (factor * heapMb), leastMb);
    long overheadMb = conf.getSizeAsMb("spark.executor.memoryOverhead", usualMb + "m");
    return (heapMb + overheadMb) / 1024.0;
  }

  /** The value of a setting that has to be one of {@code choices}; the first where it is not set. */
  private static String oneOf(SparkConf conf, String setting, List<String> choices) {
    String value = conf.get(setting, choices.get(0));
    if (!choices.contains(value)) {
      throw invalid(conf, setting, String.join(", ", choices));
    }
    return value;
  }

  private static IllegalArgumentException invalid(SparkConf conf, String setting, String expected) {
    return new IllegalArgumentException(
        setting + " '" + conf.get(setting, "") + "': expected " + expected);
  }
}
