package io.petrel.spark;

import io.petrel.spark.scaling.Shrink;
import java.net.MalformedURLException;
import java.net.URI;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Locale;
import java.util.Map;
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
  /** Unlike a command line, only the user himself can read his environment. */
  private static final String TOKEN_VARIABLE = "PETREL_TOKEN";
  private static final long LEAST_HEARTBEAT_MS = 100;
  private static final long MOST_HEARTBEAT_MS = 30_000;
  private static final int MOST_JOB_BYTES = 256;
  private static final double LEAST_CPU = 0.001;

  /**
   * Reads {@code spark.petrel.*} and what Spark's own settings say about executors.
   *
   * @param environment where the token is looked for when no setting has it
   * @throws IllegalArgumentException naming the setting, its value unless that is secret, and what is expected
   */
  static Settings of(SparkConf conf, Map<String, String> environment) {
    long heartbeatMs = conf.getTimeAsMs("spark.petrel.heartbeat", "1s");
    if (heartbeatMs < LEAST_HEARTBEAT_MS || heartbeatMs > MOST_HEARTBEAT_MS) {
      throw invalid(conf, "spark.petrel.heartbeat", LEAST_HEARTBEAT_MS + "ms to " + MOST_HEARTBEAT_MS + "ms");
    }
    long silenceMs = conf.getTimeAsMs("spark.petrel.silence", "15s");
    if (silenceMs < 2 * heartbeatMs) {
      throw invalid(conf, "spark.petrel.silence", "at least two heartbeats, " + 2 * heartbeatMs + "ms");
    }
    return new Settings(
        controller(conf),
        token(conf, environment),
        job(conf),
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

  /** Not in the message of an error: what is wrong with it must not make it public. */
  private static String token(SparkConf conf, Map<String, String> environment) {
    String setting = conf.contains("spark.petrel.token") ? "spark.petrel.token" : TOKEN_VARIABLE;
    String token = conf.get("spark.petrel.token", environment.getOrDefault(TOKEN_VARIABLE, "")).strip();
    if (!token.chars().allMatch(character -> character > ' ' && character <= '~')) {
      throw new IllegalArgumentException(setting + ": expected visible ASCII characters");
    }
    return token.isEmpty() ? null : token;
  }

  private static String job(SparkConf conf) {
    String setting = conf.contains("spark.petrel.job") ? "spark.petrel.job" : "spark.app.name";
    String job = conf.get(setting, "");
    int bytes = job.getBytes(StandardCharsets.UTF_8).length;
    if (bytes < 1 || bytes > MOST_JOB_BYTES || job.chars().anyMatch(Character::isISOControl)) {
      throw invalid(conf, setting, "a job's name, 1 to " + MOST_JOB_BYTES + " bytes without control characters");
    }
    return job;
  }

  private static Double executorCpu(SparkConf conf) {
    String setting = "spark.petrel.executor.cpu";
    if (!conf.contains(setting)) {
      return null;
    }
    double cores = conf.getDouble(setting, 0.0);
    if (!(cores >= LEAST_CPU && cores <= 1024.0)) {
      throw invalid(conf, setting, "cores, " + LEAST_CPU + " to 1024");
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
