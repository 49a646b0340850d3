package io.petrel.spark;

import io.petrel.spark.scaling.ExecutorUsage;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.PluginContext;

/** Life of the plugin in an executor: tells the driver once a second what CPU the executor may use and does use. */
final class ExecutorSide implements ExecutorPlugin {
  private static final long PERIOD_S = 1;

  private final SparingLog log = new SparingLog();
  private ScheduledExecutorService measuring;

  @Override
  public void init(PluginContext context, Map<String, String> settings) {
    if (!settings.containsKey(DriverSide.WANTED)) {
      return;
    }
    try {
      CpuMeter meter = CpuMeter.ofThisProcess();
      measuring = Executors.newSingleThreadScheduledExecutor(new DaemonThreads("petrel-usage"));
      measuring.scheduleAtFixedRate(() -> tell(context, meter), PERIOD_S, PERIOD_S, TimeUnit.SECONDS);
    } catch (Throwable failure) {
      log.warn("usage", "cannot measure what this executor uses", failure);
    }
  }

  @Override
  public void shutdown() {
    if (measuring != null) {
      measuring.shutdownNow();
    }
  }

  private void tell(PluginContext context, CpuMeter meter) {
    try {
      context.send(new ExecutorUsage(context.executorID(), meter.limitCores(), meter.usedCores()));
    } catch (Throwable failure) {
      log.warn("usage", "could not tell the driver what this executor uses", failure);
    }
  }
}
