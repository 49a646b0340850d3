package io.petrel.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.petrel.spark.scaling.Shrink;
import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SettingsTest {
  @Test
  void theAddressIsEnough() {
    Settings settings = Settings.of(conf());
    assertEquals("http://controller:8701/api/v1/heartbeat", settings.controller().toString());
    assertEquals("ward", settings.job());
    assertNull(settings.token());
    assertEquals(1_000, settings.heartbeatMs());
    assertEquals(15_000, settings.silenceMs());
    assertFalse(settings.hold());
    assertNull(settings.executorCpu());
    assertEquals(Shrink.DECOMMISSION, settings.shrink());
  }

  @Test
  void anExecutorsMemoryIncludesItsOverhead() {
    assertEquals(1.375, Settings.of(conf().set("spark.executor.memory", "1g")).executorMemoryGb());
    assertEquals(11.0, Settings.of(conf().set("spark.executor.memory", "10g")).executorMemoryGb());
    SparkConf named = conf().set("spark.executor.memory", "1g").set("spark.executor.memoryOverhead", "1g");
    assertEquals(2.0, Settings.of(named).executorMemoryGb());
  }

  @ParameterizedTest
  @CsvSource({
    "spark.petrel.url, controller:8701",
    "spark.petrel.url, ftp://controller",
    "spark.petrel.url, http://",
    "spark.petrel.url, http://a b",
    "spark.petrel.heartbeat, 10ms",
    "spark.petrel.silence, 1s",
    "spark.petrel.fallback, maybe",
    "spark.petrel.shrink, Idle",
    "spark.petrel.executor.cpu, 0",
    "spark.petrel.executor.cpu, NaN"
  })
  void aWrongSettingIsNamedWithItsValueAndWhatIsExpected(String setting, String value) {
    SparkConf conf = conf().set(setting, value);
    IllegalArgumentException refused = assertThrows(IllegalArgumentException.class, () -> Settings.of(conf));
    assertTrue(refused.getMessage().startsWith(setting + " '" + value + "': expected "), refused.getMessage());
  }

  private static SparkConf conf() {
    return new SparkConf(false).set("spark.app.name", "ward").set("spark.petrel.url", "http://controller:8701/");
  }
}
