package io.petrel.spark;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Which CPU limit do the control groups of this process set? Reads version 1 ({@code cpu.cfs_quota_us}) and version 2 ({@code
 * cpu.max}); the least limit from the process's own group up to the root of the mount holds.
 */
final class Cgroup {
  private final List<Path> groups;

  private Cgroup(List<Path> groups) {
    this.groups = groups;
  }

  /**
   * The groups of a process.
   *
   * @param membership lines {@code ID:CONTROLLERS:PATH}, as in {@code /proc/self/cgroup}
   * @param mounts lines as in {@code /proc/self/mountinfo}
   */
  static Cgroup find(Path membership, Path mounts) {
    List<Path> groups = new ArrayList<>();
    for (String mount : lines(mounts)) {
      // ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS ... - TYPE SOURCE SUPER-OPTIONS
      String[] halves = mount.split(" - ", 2);
      String[] left = halves[0].split(" ");
      String[] right = halves.length == 2 ? halves[1].split(" ") : new String[0];
      if (left.length < 5 || right.length < 3) {
        continue;
      }
      boolean v1 = right[0].equals("cgroup") && List.of(right[2].split(",")).contains("cpu");
      boolean v2 = right[0].equals("cgroup2");
      if (!v1 && !v2) {
        continue;
      }
      for (String member : lines(membership)) {
        String[] parts = member.split(":", 3);
        boolean same = v2 ? parts[1].isEmpty() : List.of(parts[1].split(",")).contains("cpu");
        if (same) {
          addUpwards(groups, Path.of(left[4]), relative(left[3], parts[2]));
        }
      }
    }
    return new Cgroup(groups);
  }

  /** The limit in cores; null where no group sets one. */
  Double limitCores() {
    Double least = null;
    for (Path group : groups) {
      Double limit = limit(group);
      if (limit != null && (least == null || limit < least)) {
        least = limit;
      }
    }
    return least;
  }

  private static void addUpwards(List<Path> groups, Path mountPoint, String path) {
    Path group = mountPoint.resolve(path).normalize();
    while (group != null && group.startsWith(mountPoint)) {
      groups.add(group);
      group = group.getParent();
    }
  }

  /** A container sees its own group as the root of the mount. */
  private static String relative(String root, String path) {
    String inside = !root.equals("/") && path.startsWith(root) ? path.substring(root.length()) : path;
    return inside.startsWith("/") ? inside.substring(1) : inside;
  }

  private static Double limit(Path group) {
    List<String> max = lines(group.resolve("cpu.max"));
    if (!max.isEmpty()) {
      String[] quotaAndPeriod = max.get(0).split(" ");
      return quotaAndPeriod[0].equals("max") ? null : ratio(quotaAndPeriod[0], quotaAndPeriod[1]);
    }
    List<String> quota = lines(group.resolve("cpu.cfs_quota_us"));
    List<String> period = lines(group.resolve("cpu.cfs_period_us"));
    if (quota.isEmpty() || period.isEmpty() || quota.get(0).startsWith("-")) {
      return null;
    }
    return ratio(quota.get(0), period.get(0));
  }

  private static Double ratio(String quota, String period) {
    return Double.parseDouble(quota) / Double.parseDouble(period);
  }

  /** The lines of a file; none where it cannot be read. */
  private static List<String> lines(Path file) {
    try {
      return Files.readAllLines(file);
    } catch (IOException absent) {
      return List.of();
    }
  }
}
