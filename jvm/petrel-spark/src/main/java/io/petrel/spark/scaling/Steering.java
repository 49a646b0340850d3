package io.petrel.spark.scaling;

import io.petrel.spark.SparingLog;
import io.petrel.spark.protocol.DecisionOutcome;
import io.petrel.spark.protocol.DecisionOutcome.Outcome;
import io.petrel.spark.protocol.DesiredState;
import io.petrel.spark.protocol.EngineMode;
import io.petrel.spark.telemetry.Unacknowledged;
import org.apache.spark.SparkContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/**
 * Who decides how many executors there are: the controller while it is heard and does not only advise, otherwise Spark's
 * dynamic allocation or nobody. One thread at a time changes it, any may look.
 */
public final class Steering {
  private static final Logger LOG = LoggerFactory.getLogger(Steering.class);
  private static final int MOST_OUTCOMES = 100;

  private final Executors executors;
  private final Scaler scaler;
  private final Allocation allocation;
  private final boolean hold;
  private final SparingLog log;
  private final Unacknowledged<DecisionOutcome> outcomes = new Unacknowledged<>(MOST_OUTCOMES);
  private DesiredState desired;
  private String silence = "no controller has answered yet";
  private DecisionOutcome last;
  private volatile boolean stopped;
  private volatile EngineMode mode;
  private volatile long appliedDecision;

  /**
   * Begins with Spark's own way, until the controller is heard.
   *
   * @param shrink what may be done to busy executors
   * @param hold true when the application shall keep what it has while no controller is heard
   */
  public Steering(SparkContext context, Executors executors, Shrink shrink, boolean hold, SparingLog log) {
    this(new Scaler(new SparkCluster(context), executors, shrink), new DynamicAllocation(context), executors, hold, log);
    carryOn(context.startTime());
  }

  Steering(Scaler scaler, Allocation allocation, Executors executors, boolean hold, SparingLog log) {
    this.executors = executors;
    this.scaler = scaler;
    this.allocation = allocation;
    this.hold = hold;
    this.log = log;
    this.mode = alone();
  }

  /** Who decides at the moment. */
  public EngineMode mode() {
    return mode;
  }

  /** The last decision that was applied. */
  public long appliedDecision() {
    return appliedDecision;
  }

  /** What became of decisions and is not acknowledged. */
  public Unacknowledged<DecisionOutcome> outcomes() {
    return outcomes;
  }

  /** The controller wants this; what it decided before the last decision that was applied came late and is passed over. */
  public synchronized void obey(DesiredState wanted, long nowMs) {
    if (wanted.decisionId() < appliedDecision) {
      log.warn("decision", "passes over decision " + wanted.decisionId() + ": " + appliedDecision + " has been applied");
    } else {
      desired = wanted;
    }
    step(nowMs);
  }

  /** The controller has not answered, but may do so the next time: what it last wanted holds. */
  public synchronized void carryOn(long nowMs) {
    step(nowMs);
  }

  /** The controller has been silent for too long: what it wanted holds no longer. */
  public synchronized void carryOnAlone(String why, long nowMs) {
    desired = null;
    silence = why;
    step(nowMs);
  }

  /**
   * The application ends: nothing is asked of the cluster any more, and the next step ends Petrel's own dynamic allocation.
   * Does not wait for a step that is under way.
   */
  public void stop() {
    stopped = true;
  }

  private void step(long nowMs) {
    if (stopped) {
      allocation.pause();
      return;
    }
    scaler.forgetLost(nowMs);
    if (desired == null) {
      goOnAlone();
      enter(alone(), silence);
    } else if (desired.adviceOnly()) {
      handOver();
      enter(EngineMode.ADVISED, "the controller only gives advice");
      note(Outcome.IGNORED, desired.executors(), nowMs);
    } else {
      allocation.pause();
      enter(EngineMode.STEERED, "the controller decides");
      approach(nowMs);
    }
    scaler.finishRemovals(nowMs);
    allocation.target().ifPresent(executorsAskedFor -> executors.target(executorsAskedFor, nowMs));
  }

  private void approach(long nowMs) {
    int wanted = allocation.bounded(desired.executors());
    Outcome outcome = scaler.approach(wanted, nowMs);
    if (outcome != Outcome.REFUSED) {
      appliedDecision = desired.decisionId();
    }
    note(outcome, wanted, nowMs);
  }

  private void goOnAlone() {
    if (!hold) {
      handOver();
    } else if (!executors.active().isEmpty()) {
      // An application that has no executors yet would keep none.
      allocation.pause();
    }
  }

  private EngineMode alone() {
    return allocation.atWork() ? EngineMode.FALLBACK : EngineMode.HOLDING;
  }

  private void handOver() {
    scaler.forget();
    allocation.resume(executors.announcements());
  }

  private void enter(EngineMode next, String why) {
    if (mode == next) {
      return;
    }
    mode = next;
    if (next == EngineMode.STEERED || next == EngineMode.ADVISED) {
      LOG.info("Petrel: {}: {}", next, why);
    } else {
      LOG.warn("Petrel: {}: {}", next, why);
    }
  }

  /** Tells the controller each decision's outcome once, and the log when something else is wanted or comes of it. */
  private void note(Outcome outcome, int executorsBounded, long nowMs) {
    if (last != null && last.decisionId() == desired.decisionId() && last.outcome() == outcome) {
      return;
    }
    // Tier and codec act on Petrel's shuffle only; until the application uses that, they are shown.
    String bounded =
        executorsBounded == desired.executors()
            ? ""
            : ", bounded to " + executorsBounded + " by spark.dynamicAllocation.minExecutors and maxExecutors";
    String detail = desired.executors() + " executors" + bounded + ", tier " + desired.tier() + ", codec " + desired.codec();
    boolean isNews = last == null || last.outcome() != outcome || !last.detail().equals(detail);
    last = new DecisionOutcome(desired.decisionId(), nowMs, outcome, detail);
    outcomes.add(last);
    // There is a decision every few seconds, and most want what the one before wanted.
    LOG.atLevel(isNews ? Level.INFO : Level.DEBUG)
        .log("Petrel: decision {}: {}: {}", desired.decisionId(), detail, outcome);
  }
}
