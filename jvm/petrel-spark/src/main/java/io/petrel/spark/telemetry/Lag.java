package io.petrel.spark.telemetry;

import com.fasterxml.jackson.databind.JsonNode;
import io.petrel.spark.protocol.Json;
import java.util.Map;
import java.util.TreeMap;

/** How far is a source behind its log? Offsets are JSON of the source's own; Kafka's are {@code {"topic":{"0":12}}}. */
final class Lag {
  private Lag() {}

  /**
   * Records per {@code topic/partition} between two offsets of a source. A partition that is not committed yet waits from its
   * beginning.
   *
   * @return empty for a source without partitions of numbered records
   */
  static Map<String, Long> between(String committed, String latest) {
    Map<String, Long> lag = new TreeMap<>();
    JsonNode committedTopics = Json.readTree(committed);
    for (Map.Entry<String, JsonNode> topic : Json.readTree(latest).properties()) {
      JsonNode committedPartitions = committedTopics.path(topic.getKey());
      for (Map.Entry<String, JsonNode> partition : topic.getValue().properties()) {
        if (partition.getValue().isIntegralNumber()) {
          long behind = partition.getValue().asLong() - committedPartitions.path(partition.getKey()).asLong();
          lag.put(topic.getKey() + "/" + partition.getKey(), Math.max(0, behind));
        }
      }
    }
    return lag;
  }
}
