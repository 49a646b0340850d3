package io.petrel.spark.protocol;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/** Who decides at the moment how many executors the application has? */
public enum EngineMode {
  /** The controller. */
  STEERED,
  /** Spark itself; the controller only gives advice. */
  ADVISED,
  /** Spark's own dynamic allocation, because no controller is heard. */
  FALLBACK,
  /** Nobody: no controller is heard, and the application keeps what it has. */
  HOLDING;

  /** The name used on the wire and in the log. */
  @JsonValue
  @Override
  public String toString() {
    return name().toLowerCase(Locale.ROOT);
  }
}
