package io.petrel.spark;

import java.lang.management.ManagementFactory;
import java.lang.management.ThreadInfo;
import java.lang.management.ThreadMXBean;
import java.util.Locale;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What does Petrel cost the driver? A line a minute in the log. Used by one thread. */
final class Cost {
  private static final Logger LOG = LoggerFactory.getLogger(Cost.class);
  private static final long PERIOD_NS = 60_000_000_000L;

  private final ThreadMXBean threads = ManagementFactory.getThreadMXBean();
  private long sinceNs = System.nanoTime();
  private long cpuSinceMs = cpuMs();
  private int heartbeats;
  private long sumNs;
  private long longestNs;

  /** CPU time of the calling thread; the wall clock would count what else the machine does. */
  long threadNs() {
    return threads.getCurrentThreadCpuTime();
  }

  /** A heartbeat was made, sent and answered with this much CPU time of the calling thread. */
  void told(long tookNs) {
    heartbeats++;
    sumNs += tookNs;
    longestNs = Math.max(longestNs, tookNs);
    long nowNs = System.nanoTime();
    if (nowNs - sinceNs >= PERIOD_NS) {
      long cpuMs = cpuMs();
      LOG.info(
          "Petrel: CPU of {} heartbeats: {} ms each, {} ms at most; {} ms each with listening and scaling",
          heartbeats,
          ms(sumNs / heartbeats),
          ms(longestNs),
          ms((cpuMs - cpuSinceMs) * 1_000_000 / heartbeats));
      sinceNs = nowNs;
      cpuSinceMs = cpuMs;
      heartbeats = 0;
      sumNs = 0;
      longestNs = 0;
    }
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
