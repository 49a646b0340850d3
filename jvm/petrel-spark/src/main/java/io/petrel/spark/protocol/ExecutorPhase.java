package io.petrel.spark.protocol;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/** Where an executor is in its life. */
public enum ExecutorPhase {
  /** Asked for, not registered with the driver yet. */
  PROVISIONING,
  /** Registered and taking tasks. */
  RUNNING,
  /** Finishing its tasks before it leaves. */
  DRAINING;

  /** The name used on the wire. */
  @JsonValue
  @Override
  public String toString() {
    return name().toLowerCase(Locale.ROOT);
  }
}
