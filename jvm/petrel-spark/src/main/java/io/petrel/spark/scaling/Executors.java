package io.petrel.spark.scaling;

import io.petrel.spark.protocol.ExecutorPhase;
import io.petrel.spark.protocol.ExecutorStatus;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Predicate;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.scheduler.SparkListenerExecutorAdded;
import org.apache.spark.scheduler.cluster.ExecutorInfo;

/**
 * Which executors are there, which are on their way, and what are they doing? Safe for use by several threads: the listener
 * queue writes, the heartbeat and the scaler read.
 */
public final class Executors {
  /** Executors that come this soon after the application's start without a request of ours were part of its start. */
  private static final long INITIAL_MS = 60_000;

  private final long startMs;
  private final int cpusPerTask;
  private final Map<Long, Executor> alive = new TreeMap<>();
  private final Requests requests = new Requests();
  private final MapOutputs mapOutputs = new MapOutputs();
  private final StartupDelays startupDelays = new StartupDelays();
  private int target = -1;
  private double releasedS;
  private double mostExecutorSeconds;

  private static final class Executor {
    final long id;
    final long requestedMs;
    final long registeredMs;
    final ExecutorInfo info;
    Long firstTaskMs;
    int runningTasks;
    Long drainingSinceMs;
    ExecutorUsage usage;

    Executor(long id, long requestedMs, long registeredMs, ExecutorInfo info) {
      this.id = id;
      this.requestedMs = requestedMs;
      this.registeredMs = registeredMs;
      this.info = info;
    }

    boolean draining() {
      return drainingSinceMs != null;
    }

    ExecutorStatus status(int cpusPerTask) {
      int cores = info.totalCores();
      return new ExecutorStatus(
          id,
          null,
          draining() ? ExecutorPhase.DRAINING : ExecutorPhase.RUNNING,
          requestedMs,
          registeredMs,
          firstTaskMs,
          0.0,
          usage == null ? 0.0 : usage.utilisation(cores),
          info.executorHost(),
          cores / cpusPerTask);
    }
  }

  /** For an application that started at {@code startMs} and whose tasks take {@code cpusPerTask} cores of an executor. */
  public Executors(long startMs, int cpusPerTask) {
    this.startMs = startMs;
    this.cpusPerTask = cpusPerTask;
  }

  /** The cluster has been asked, by Petrel or by Spark, for this many executors altogether. */
  synchronized void target(int executors, long nowMs) {
    target = executors;
    reconcile(nowMs);
  }

  /** An executor registered with the driver. One of another resource profile than the default one is left alone. */
  public synchronized void registered(String executor, ExecutorInfo info, long timeMs) {
    Long id = number(executor);
    if (id == null || info.resourceProfileId() != ResourceProfile.DEFAULT_RESOURCE_PROFILE_ID()) {
      return;
    }
    long unaskedMs = timeMs - startMs < INITIAL_MS ? startMs : timeMs;
    alive.put(id, new Executor(id, requests.grant(timeMs, unaskedMs), timeMs, info));
    reconcile(timeMs);
  }

  /** An executor is gone. */
  public synchronized void removed(String executor, long timeMs) {
    Long id = number(executor);
    Executor gone = id == null ? null : alive.remove(id);
    if (gone != null) {
      releasedS += seconds(gone.requestedMs, timeMs);
      requests.setOpenAfterLoss(missing(), timeMs);
    }
  }

  /** A task began on an executor. */
  public synchronized void taskStarted(String executor) {
    Executor on = find(executor);
    if (on != null) {
      on.runningTasks++;
    }
  }

  /**
   * A task of an executor ended, well or not.
   *
   * @param workedMs how long of its life it worked on records, and not on being fetched and loaded
   */
  public synchronized void taskEnded(String executor, long launchedMs, long finishedMs, long workedMs) {
    Executor on = find(executor);
    if (on == null) {
      return;
    }
    on.runningTasks = Math.max(0, on.runningTasks - 1);
    if (on.firstTaskMs == null) {
      on.firstTaskMs = finishedMs;
      // The wait for work and the work itself say nothing about its start-up.
      startupDelays.add(seconds(on.requestedMs, on.registeredMs) + seconds(launchedMs + workedMs, finishedMs));
    }
  }

  /** A job began that runs these stages, as a part of {@code work}: of an SQL execution, or alone. */
  public synchronized void jobStarted(String work, List<Integer> stages) {
    mapOutputs.jobStarted(work, stages);
  }

  /** All jobs of {@code work} have ended. */
  public synchronized void workEnded(String work) {
    mapOutputs.workEnded(work);
  }

  /** A map task of a stage left its output on an executor. */
  public synchronized void mapOutputWritten(int stage, String executor) {
    mapOutputs.written(stage, executor);
  }

  /** An executor told what it uses. */
  public synchronized void used(ExecutorUsage usage) {
    Executor user = find(usage.executor());
    if (user != null) {
      user.usage = usage;
    }
  }

  /** These executors get no new tasks any more. */
  synchronized void draining(Collection<String> executors, long nowMs) {
    for (String executor : executors) {
      Executor leaving = find(executor);
      if (leaving != null) {
        leaving.drainingSinceMs = nowMs;
      }
    }
    reconcile(nowMs);
  }

  /** Executors that take tasks. */
  synchronized List<Candidate> active() {
    return candidates(false);
  }

  /** Executors that finish their tasks before they leave. */
  synchronized List<Candidate> leaving() {
    return candidates(true);
  }

  /** Executors that get no new tasks since {@code timeMs} or longer. */
  synchronized List<String> drainingSince(long timeMs) {
    return ids(executor -> executor.draining() && executor.drainingSinceMs <= timeMs);
  }

  /** Executors that registered at {@code timeMs} or earlier. */
  synchronized List<String> registeredUntil(long timeMs) {
    return ids(executor -> executor.registeredMs <= timeMs);
  }

  /** How the executors that take tasks were announced, for a listener that has missed it. */
  synchronized List<SparkListenerExecutorAdded> announcements() {
    return alive.values().stream()
        .filter(executor -> !executor.draining())
        .map(executor -> new SparkListenerExecutorAdded(executor.registeredMs, Long.toString(executor.id), executor.info))
        .toList();
  }

  /** All of them for the heartbeat: those that are there, then those that are asked for. */
  public synchronized List<ExecutorStatus> statuses() {
    List<ExecutorStatus> statuses = new ArrayList<>();
    alive.values().forEach(executor -> statuses.add(executor.status(cpusPerTask)));
    requests.iterator().forEachRemaining(request -> statuses.add(request.status()));
    return statuses;
  }

  /** The CPU limit that the executors found on themselves, cores; null where they have none. */
  public synchronized Double cpuLimit() {
    return alive.values().stream()
        .filter(executor -> executor.usage != null && executor.usage.limitCores() != null)
        .map(executor -> executor.usage.limitCores())
        .findFirst()
        .orElse(null);
  }

  /** 0.9 quantile of request to first task, without the wait for that task and its work, seconds. */
  public synchronized double startupDelayS() {
    return startupDelays.quantileS();
  }

  /**
   * Executor seconds from request to release, of all executors that ever came. One that is only asked for costs nothing yet;
   * its waiting counts from the moment it comes. Never falls, whatever becomes of the clock.
   */
  public synchronized double executorSeconds(long nowMs) {
    double held = alive.values().stream().mapToDouble(executor -> seconds(executor.requestedMs, nowMs)).sum();
    mostExecutorSeconds = Math.max(mostExecutorSeconds, releasedS + held);
    return mostExecutorSeconds;
  }

  private List<String> ids(Predicate<Executor> which) {
    return alive.values().stream().filter(which).map(executor -> Long.toString(executor.id)).toList();
  }

  private List<Candidate> candidates(boolean draining) {
    return alive.values().stream()
        .filter(executor -> executor.draining() == draining)
        .map(this::candidate)
        .toList();
  }

  private Candidate candidate(Executor executor) {
    String id = Long.toString(executor.id);
    boolean free = executor.runningTasks == 0 && !mapOutputs.neededFrom(id);
    return new Candidate(id, free, executor.runningTasks, executor.registeredMs);
  }

  private void reconcile(long nowMs) {
    requests.setOpen(missing(), nowMs);
  }

  /** Executors that are asked for and not there; that includes the successors of those that were lost. */
  private int missing() {
    long active = alive.values().stream().filter(executor -> !executor.draining()).count();
    return (int) Math.max(0, target - active);
  }

  private Executor find(String executor) {
    Long id = number(executor);
    return id == null ? null : alive.get(id);
  }

  /** Spark's number of an executor; null for the driver, which calls itself one in local mode. */
  private static Long number(String executor) {
    try {
      return Long.valueOf(executor);
    } catch (NumberFormatException driver) {
      return null;
    }
  }

  private static double seconds(long fromMs, long toMs) {
    return Math.max(0, toMs - fromMs) / 1000.0;
  }
}
