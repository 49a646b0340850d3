package io.petrel.spark;

import java.lang.management.ManagementFactory;
import java.lang.management.ThreadInfo;
import java.lang.management.ThreadMXBean;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What does Petrel cost the driver? A line for the first heartbeat and one a minute in the log. Used by one thread. */
final class Cost {
  private static final Logger LOG = LoggerFactory.getLogger(Cost.class);
  private static final long PERIOD_NS = 60_000_000_000L;

  private final ThreadMXBean threads = ManagementFactory.getThreadMXBean();
  private long sinceNs;
  private long cpuSinceMs;
  private boolean isFirst = true;

  /** CPU time of each heartbeat of this minute: a period holds at most 600, as there are 100 ms between them. */
  private final List<Long> tookNs = new ArrayList<>();

  /** CPU time of the calling thread; the wall clock would count what else the machine does. */
  long threadNs() {
    return threads.getCurrentThreadCpuTime();
  }

  /** A heartbeat was made, sent and answered with this much CPU time of the calling thread. */
  void told(long heartbeatNs) {
    if (isFirst) {
      isFirst = false;
      // Once in the life of a driver: messages and the HTTP client are loaded here.
      LOG.info("Petrel: CPU of the first heartbeat: {} ms, with loading classes", ms(heartbeatNs));
      begin(System.nanoTime(), cpuMs());
      return;
    }
    tookNs.add(heartbeatNs);
    long nowNs = System.nanoTime();
    if (nowNs - sinceNs >= PERIOD_NS) {
      long cpuMs = cpuMs();
      Collections.sort(tookNs);
      LOG.info(
          "Petrel: CPU of {} heartbeats: {} ms median, {} ms mean, {} ms at most; {} ms each with listening and scaling",
          tookNs.size(),
          ms(tookNs.get(tookNs.size() / 2)),
          ms(tookNs.stream().mapToLong(Long::longValue).sum() / tookNs.size()),
          ms(tookNs.get(tookNs.size() - 1)),
          ms((cpuMs - cpuSinceMs) * 1_000_000 / tookNs.size()));
      begin(nowNs, cpuMs);
    }
  }

  private void begin(long nowNs, long cpuMs) {
    sinceNs = nowNs;
    cpuSinceMs = cpuMs;
    tookNs.clear();
  }

  /** CPU time of the threads that heartbeats, scaling and listening to Spark run on. */
  private long cpuMs() {
    long ns = 0;
    for (ThreadInfo thread : threads.getThreadInfo(threads.getAllThreadIds())) {
      if (thread != null && isPetrels(thread.getThreadName())) {
        ns += Math.max(0, threads.getThreadCpuTime(thread.getThreadId()));
      }
    }
    return ns / 1_000_000;
  }

  private static boolean isPetrels(String name) {
    return name.startsWith("petrel-") || name.equals("spark-listener-group-" + DriverSide.LISTENER_QUEUE);
  }

  private static String ms(long ns) {
    return String.format(Locale.ROOT, "%.2f", ns / 1e6);
  }
}
