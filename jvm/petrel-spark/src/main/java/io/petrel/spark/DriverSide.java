package io.petrel.spark;

import io.petrel.spark.scaling.ExecutorUsage;
import io.petrel.spark.scaling.Executors;
import io.petrel.spark.scaling.Steering;
import io.petrel.spark.telemetry.Queries;
import io.petrel.spark.telemetry.Telemetry;
import java.util.Map;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import org.apache.spark.SparkContext;
import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Life of the plugin in the driver. Whatever goes wrong here is logged, and the application runs on without Petrel. */
final class DriverSide implements DriverPlugin {
  /** Executors start their side of the plugin only where this comes with their settings. */
  static final String WANTED = "wanted";

  private static final Logger LOG = LoggerFactory.getLogger(DriverSide.class);

  /** A queue of Petrel's own on Spark's listener bus: it neither waits for other listeners nor makes them wait. */
  static final String LISTENER_QUEUE = "petrel";

  private static final int LONGEST_REPLY_MS = 5_000;

  /** How long the application's end may wait for what is asked of the cluster. */
  private static final long LAST_STEP_MS = 1_000;

  private final SparingLog log = new SparingLog();
  private final Queries queries = new Queries(log);

  /** One step at a time; a newer wish takes the place of one that has not begun. */
  private final ThreadPoolExecutor scaling =
      new ThreadPoolExecutor(
          1,
          1,
          0,
          TimeUnit.SECONDS,
          new ArrayBlockingQueue<>(1),
          new DaemonThreads("petrel-scaling"),
          new ThreadPoolExecutor.DiscardOldestPolicy());

  private SparkContext context;
  private Settings settings;
  private Executors executors;
  private Telemetry telemetry;
  private volatile Steering steering;
  private HeartbeatSender sender;

  @Override
  public Map<String, String> init(SparkContext sparkContext, PluginContext pluginContext) {
    try {
      context = sparkContext;
      settings = Settings.of(sparkContext.conf(), System.getenv());
      executors = new Executors(sparkContext.startTime(), settings.cpusPerTask());
      telemetry = new Telemetry(executors, queries, log, this::applicationEnds);
      sparkContext.listenerBus().addToQueue(telemetry, LISTENER_QUEUE);
      return Map.of(WANTED, "yes");
    } catch (Throwable failure) {
      telemetry = null;
      LOG.error("Petrel stays off: {}", failure.getMessage(), failure);
      return Map.of();
    }
  }

  /** Spark calls this when the application has an identity and its scheduler and dynamic allocation exist. */
  @Override
  public void registerMetrics(String applicationId, PluginContext pluginContext) {
    if (telemetry == null) {
      return;
    }
    try {
      steering = new Steering(context, executors, settings.shrink(), settings.hold(), log);
      int timeoutMs = (int) Math.min(LONGEST_REPLY_MS, settings.silenceMs() / 2);
      Controller controller = new Controller(settings.controller(), settings.token(), timeoutMs);
      String engine = "spark " + context.version();
      Reporter reporter =
          new Reporter(settings, engine, context.startTime(), telemetry, queries, executors, steering);
      sender = new HeartbeatSender(settings, reporter, controller, steering, scaling, log);
      sender.start();
      LOG.info("Petrel: job '{}' reports to {}", settings.job(), settings.controller());
    } catch (Throwable failure) {
      LOG.error("Petrel stays off: {}", failure.getMessage(), failure);
    }
  }

  @Override
  public Object receive(Object message) {
    try {
      if (message instanceof ExecutorUsage usage) {
        executors.used(usage);
      }
    } catch (Throwable surprise) {
      log.warn("usage", "could not take in what an executor uses", surprise);
    }
    return null;
  }

  @Override
  public void shutdown() {
    try {
      applicationEnds();
      if (sender != null) {
        sender.stop();
      }
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    } catch (Throwable surprise) {
      log.warn("shutdown", "could not end in order", surprise);
    } finally {
      endScaling();
    }
  }

  /** Before the scheduler goes: nothing may be asked of it from now on. */
  private void applicationEnds() {
    if (steering != null) {
      steering.stop();
      scaling.execute(this::lastStep);
    }
  }

  private void lastStep() {
    try {
      steering.carryOn(System.currentTimeMillis());
    } catch (Throwable surprise) {
      log.warn("shutdown", "could not end in order", surprise);
    }
  }

  private void endScaling() {
    scaling.shutdown();
    try {
      if (scaling.awaitTermination(LAST_STEP_MS, TimeUnit.MILLISECONDS)) {
        return;
      }
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    }
    scaling.shutdownNow();
  }
}
