package io.petrel.spark;

import java.util.HashMap;
import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Warnings that may come every second, written once a minute at most for each kind. Safe for use by several threads. */
public final class SparingLog {
  private static final Logger LOG = LoggerFactory.getLogger(SparingLog.class);
  private static final long PAUSE_NS = 60_000_000_000L;

  private final Map<String, Long> lastNs = new HashMap<>();

  /** Warns with a message in which all that matters is said. */
  public void warn(String kind, String message) {
    if (due(kind)) {
      LOG.warn("Petrel: {}", message);
    }
  }

  /** Warns of something that should not happen, with its stack trace. */
  public void warn(String kind, String message, Throwable cause) {
    if (due(kind)) {
      LOG.warn("Petrel: {}; the job goes on without it", message, cause);
    }
  }

  private synchronized boolean due(String kind) {
    long nowNs = System.nanoTime();
    Long last = lastNs.get(kind);
    if (last != null && nowNs - last < PAUSE_NS) {
      return false;
    }
    lastNs.put(kind, nowNs);
    return true;
  }
}
