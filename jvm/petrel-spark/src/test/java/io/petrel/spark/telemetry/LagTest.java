package io.petrel.spark.telemetry;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class LagTest {
  @Test
  void partitionsOfKafkaAreCountedOneByOne() {
    assertEquals(
        Map.of("raw/0", 5L, "raw/1", 0L, "other/0", 7L),
        Lag.between("{\"raw\":{\"0\":10,\"1\":4}}", "{\"raw\":{\"0\":15,\"1\":4},\"other\":{\"0\":7}}"));
  }

  @Test
  void anOffsetThatWentBackIsNoLag() {
    assertEquals(Map.of("raw/0", 0L), Lag.between("{\"raw\":{\"0\":10}}", "{\"raw\":{\"0\":3}}"));
  }

  @ParameterizedTest
  @ValueSource(strings = {"17", "\"text\"", "{\"logOffset\":3}", "{\"a\":{\"b\":\"c\"}}", "no json", ""})
  void otherSourcesHaveNone(String offset) {
    assertEquals(Map.of(), Lag.between(offset, offset));
  }
}
