package io.petrel.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CgroupTest {
  @TempDir private Path directory;

  @Test
  void versionOneHasQuotaAndPeriod() throws IOException {
    Cgroup cgroup = cgroup("7:cpu,cpuacct:/spark/e1\n", "30 20 0:1 / %s rw - cgroup cgroup rw,cpu,cpuacct\n");
    write("spark/e1/cpu.cfs_quota_us", "20000\n");
    write("spark/e1/cpu.cfs_period_us", "100000\n");
    assertEquals(0.2, cgroup.limitCores());
  }

  @Test
  void versionTwoHasOneFile() throws IOException {
    Cgroup cgroup = cgroup("0::/spark/e1\n", "30 20 0:1 / %s rw shared:4 - cgroup2 cgroup2 rw\n");
    write("spark/e1/cpu.max", "150000 100000\n");
    assertEquals(1.5, cgroup.limitCores());
  }

  @Test
  void theLeastLimitOnTheWayUpHolds() throws IOException {
    Cgroup cgroup = cgroup("0::/spark/e1\n", "30 20 0:1 / %s rw - cgroup2 cgroup2 rw\n");
    write("spark/e1/cpu.max", "max 100000\n");
    write("spark/cpu.max", "50000 100000\n");
    write("cpu.max", "300000 100000\n");
    assertEquals(0.5, cgroup.limitCores());
  }

  @Test
  void aContainerSeesItsGroupAsTheRoot() throws IOException {
    Cgroup cgroup = cgroup("7:cpu:/docker/abc\n", "30 20 0:1 /docker/abc %s ro - cgroup cgroup rw,cpu\n");
    write("cpu.cfs_quota_us", "100000\n");
    write("cpu.cfs_period_us", "100000\n");
    assertEquals(1.0, cgroup.limitCores());
  }

  @Test
  void noQuotaIsNoLimit() throws IOException {
    Cgroup cgroup = cgroup("7:cpu:/a\n", "30 20 0:1 / %s rw - cgroup cgroup rw,cpu\n");
    write("a/cpu.cfs_quota_us", "-1\n");
    write("a/cpu.cfs_period_us", "100000\n");
    assertNull(cgroup.limitCores());
  }

  @Test
  void aMachineWithoutControlGroupsHasNoLimit() {
    assertNull(Cgroup.find(directory.resolve("absent"), directory.resolve("absent too")).limitCores());
  }

  private Cgroup cgroup(String membership, String mounts) throws IOException {
    return Cgroup.find(
        Files.writeString(directory.resolve("membership"), membership),
        Files.writeString(directory.resolve("mounts"), mounts.formatted(directory)));
  }

  private void write(String file, String content) throws IOException {
    Path path = directory.resolve(file);
    Files.createDirectories(path.getParent());
    Files.writeString(path, content);
  }
}
