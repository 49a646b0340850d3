package io.petrel.spark.scaling;

import java.util.List;

/** What can be asked of the cluster that gives the executors? */
interface Cluster {
  /** Asks for this many executors altogether; false when the cluster does not take requests. */
  boolean requestTotal(int executors);

  /** Ends those of the executors that have no task at this moment, and says which. */
  List<String> killIdle(List<String> executors);

  /** Ends the executors, busy or not, and says which. */
  List<String> kill(List<String> executors);

  /** Gives the executors no new tasks any more, and says which heard that. */
  List<String> drain(List<String> executors);

  /** Those of the executors that the scheduler does not know any more. */
  List<String> unknown(List<String> executors);
}
