package io.petrel.spark;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;

/** How much CPU does this process use, and how much may it? Used by one thread. */
final class CpuMeter {
  private final Cgroup cgroup;
  private final OperatingSystemMXBean process;
  private long lastCpuNs;
  private long lastNs;

  private CpuMeter(Cgroup cgroup, OperatingSystemMXBean process) {
    this.cgroup = cgroup;
    this.process = process;
    this.lastCpuNs = process.getProcessCpuTime();
    this.lastNs = System.nanoTime();
  }

  static CpuMeter ofThisProcess() {
    Cgroup cgroup = Cgroup.find(Path.of("/proc/self/cgroup"), Path.of("/proc/self/mountinfo"));
    return new CpuMeter(cgroup, (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean());
  }

  /** CPU limit in cores, read anew each time because it can be changed while the process runs; null without one. */
  Double limitCores() {
    return cgroup.limitCores();
  }

  /** Cores used since the last call. */
  double usedCores() {
    long cpuNs = process.getProcessCpuTime();
    long nowNs = System.nanoTime();
    double used = (double) (cpuNs - lastCpuNs) / Math.max(1, nowNs - lastNs);
    lastCpuNs = cpuNs;
    lastNs = nowNs;
    return used;
  }
}
