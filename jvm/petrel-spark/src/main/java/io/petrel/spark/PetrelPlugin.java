package io.petrel.spark;

import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.SparkPlugin;

/**
 * Puts a Spark application under Petrel's control: {@code spark.plugins=io.petrel.spark.PetrelPlugin} and {@code
 * spark.petrel.url}. The driver's side reports and obeys, the executors' side tells the driver what CPU they use.
 */
public final class PetrelPlugin implements SparkPlugin {
  @Override
  public DriverPlugin driverPlugin() {
    return new DriverSide();
  }

  @Override
  public ExecutorPlugin executorPlugin() {
    return new ExecutorSide();
  }
}
