package io.petrel.spark.scaling;

import java.util.Comparator;
import java.util.List;

/**
 * Which executors go when there are too many? The least busy first, and of those the youngest: an executor that has been there
 * for longer has compiled the job's code and is faster.
 */
final class Removals {
  private static final Comparator<Candidate> LEAST_LOSS =
      Comparator.comparingInt(Candidate::runningTasks)
          .thenComparing(Comparator.comparingLong(Candidate::registeredMs).reversed())
          .thenComparing(Candidate::id, Comparator.reverseOrder());

  private Removals() {}

  /** Up to {@code surplus} executors that are free. */
  static List<String> free(List<Candidate> executors, int surplus) {
    return executors.stream().filter(Candidate::free).sorted(LEAST_LOSS).limit(surplus).map(Candidate::id).toList();
  }

  /** Up to {@code surplus} executors, busy or not. */
  static List<String> any(List<Candidate> executors, int surplus) {
    return executors.stream().sorted(LEAST_LOSS).limit(surplus).map(Candidate::id).toList();
  }
}
