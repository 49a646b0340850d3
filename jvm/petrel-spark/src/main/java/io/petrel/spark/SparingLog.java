package io.petrel.spark;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Warnings that may come every second, written once a minute at most for each kind. Safe for use by several threads. */
public final class SparingLog {
  private static final Logger LOG = LoggerFactory.getLogger(SparingLog.class);
  private static final long PAUSE_NS = 60_000_000_000L;

  private final Map<String, Long> lastNs = new ConcurrentHashMap<>();

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

  private boolean due(String kind) {
    long nowNs = System.nanoTime();
    boolean[] due = {false};
    lastNs.compute(
        kind,
        (unused, last) -> {
          due[0] = last == null || nowNs - last >= PAUSE_NS;
          return due[0] ? (Long) nowNs : last;
        });
    return due[0];
  }
}
