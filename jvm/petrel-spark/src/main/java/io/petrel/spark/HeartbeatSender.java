package io.petrel.spark;

import com.fasterxml.jackson.core.JsonProcessingException;
import io.petrel.spark.Reporter.Report;
import io.petrel.spark.protocol.DesiredState;
import io.petrel.spark.protocol.Json;
import io.petrel.spark.scaling.Steering;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.LongConsumer;

/** Posts the heartbeats from a thread of its own and passes on what the controller answers, or that it is silent. */
final class HeartbeatSender {
  /** How long the application's end may wait for the last heartbeat. */
  private static final long LAST_MS = 2_000;

  private final Settings settings;
  private final Reporter reporter;
  private final Controller controller;
  private final Steering steering;
  private final Executor scaling;
  private final SparingLog log;
  private final Backoff backoff;
  private final Cost cost = new Cost();
  private final CountDownLatch stopping = new CountDownLatch(1);
  private final Thread thread;
  private long heardNs = System.nanoTime();

  /**
   * Begins with {@link #start}.
   *
   * @param scaling runs what is asked of the cluster, which may take longer than the time between heartbeats
   */
  HeartbeatSender(
      Settings settings, Reporter reporter, Controller controller, Steering steering, Executor scaling, SparingLog log) {
    this.settings = settings;
    this.reporter = reporter;
    this.controller = controller;
    this.steering = steering;
    this.scaling = scaling;
    this.log = log;
    this.backoff = new Backoff(settings.heartbeatMs());
    this.thread = new DaemonThreads("petrel-heartbeat").newThread(this::run);
  }

  void start() {
    thread.start();
  }

  /** Sends one more heartbeat, with the last batches, unless the controller is away; waits for it, but not for long. */
  void stop() throws InterruptedException {
    stopping.countDown();
    thread.join(LAST_MS);
  }

  private void run() {
    try {
      boolean last = false;
      while (!last) {
        long startNs = System.nanoTime();
        beat();
        long spentMs = (System.nanoTime() - startNs) / 1_000_000;
        last = stopping.await(backoff.pauseMs() - spentMs, TimeUnit.MILLISECONDS);
      }
      if (!backoff.failing()) {
        beat();
      }
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    }
  }

  private void beat() {
    try {
      long startNs = cost.threadNs();
      Report report = reporter.next(System.currentTimeMillis());
      byte[] heartbeat = Json.write(report.heartbeat());
      DesiredState desired = controller.post(heartbeat);
      cost.told(cost.threadNs() - startNs);
      reporter.acknowledged(report);
      backoff.answered();
      heardNs = System.nanoTime();
      scale(nowMs -> steering.obey(desired, nowMs));
    } catch (ControllerException silent) {
      backoff.failed();
      unanswered();
      log.warn("controller", "the controller at " + settings.controller() + " " + silent.getMessage());
    } catch (RuntimeException | Error | JsonProcessingException surprise) {
      backoff.failed();
      unanswered();
      log.warn("heartbeat", "could not make a heartbeat", surprise);
    }
  }

  private void unanswered() {
    long silentMs = (System.nanoTime() - heardNs) / 1_000_000;
    if (silentMs < settings.silenceMs()) {
      scale(steering::carryOn);
    } else {
      String why = "no controller has answered for " + silentMs / 1_000 + " s";
      scale(nowMs -> steering.carryOnAlone(why, nowMs));
    }
  }

  private void scale(LongConsumer step) {
    scaling.execute(
        () -> {
          try {
            step.accept(System.currentTimeMillis());
          } catch (Throwable surprise) {
            log.warn("scaling", "could not scale", surprise);
          }
        });
  }
}
