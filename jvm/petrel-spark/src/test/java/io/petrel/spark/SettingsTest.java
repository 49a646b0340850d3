package io.petrel.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.petrel.spark.scaling.Shrink;
import java.util.List;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SettingsTest {
  @Test
  void theAddressIsEnough() {
    Settings settings = settings(conf());
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
    assertEquals(1.375, settings(conf().set("spark.executor.memory", "1g")).executorMemoryGb());
    assertEquals(11.0, settings(conf().set("spark.executor.memory", "10g")).executorMemoryGb());
    SparkConf named = conf().set("spark.executor.memory", "1g").set("spark.executor.memoryOverhead", "1g");
    assertEquals(2.0, settings(named).executorMemoryGb());
  }

  @ParameterizedTest
  @CsvSource({
    "spark.petrel.url, controller:8701",
    "spark.petrel.url, ftp://controller",
    "spark.petrel.url, http://",
    "spark.petrel.url, http://a b",
    "spark.petrel.job, ''",
    "spark.petrel.heartbeat, 10ms",
    "spark.petrel.heartbeat, 31s",
    "spark.petrel.silence, 1s",
    "spark.petrel.fallback, maybe",
    "spark.petrel.shrink, Idle",
    "spark.petrel.executor.cpu, 0",
    "spark.petrel.executor.cpu, 0.0009",
    "spark.petrel.executor.cpu, NaN"
  })
  void aWrongSettingIsNamedWithItsValueAndWhatIsExpected(String setting, String value) {
    SparkConf conf = conf().set(setting, value);
    IllegalArgumentException refused = assertThrows(IllegalArgumentException.class, () -> settings(conf));
    assertTrue(refused.getMessage().startsWith(setting + " '" + value + "': expected "), refused.getMessage());
  }

  @Test
  void aJobsNameFitsTheProtocol() {
    assertEquals("ä".repeat(128), settings(conf().set("spark.petrel.job", "ä".repeat(128))).job());
    for (String name : List.of("ä".repeat(129), "two\nlines")) {
      SparkConf conf = conf().set("spark.petrel.job", name);
      assertThrows(IllegalArgumentException.class, () -> settings(conf), name);
    }
  }

  @Test
  void aTokenIsStrippedAndAnEmptyOneIsNone() {
    assertEquals("s3cret~", settings(conf().set("spark.petrel.token", " s3cret~\n")).token());
    assertNull(settings(conf().set("spark.petrel.token", " ")).token());
  }

  @ParameterizedTest
  @ValueSource(strings = {"two words", "two\nlines", "gehe\u00efm"})
  void aWrongTokenIsRefusedWithoutBeingTold(String token) {
    SparkConf conf = conf().set("spark.petrel.token", token);
    IllegalArgumentException refused = assertThrows(IllegalArgumentException.class, () -> settings(conf));
    assertEquals("spark.petrel.token: expected visible ASCII characters", refused.getMessage());
  }

  @Test
  void aTokenMayStandInTheEnvironmentWhichASettingWinsOver() {
    Map<String, String> environment = Map.of("PETREL_TOKEN", "from-environment");
    assertEquals("from-environment", Settings.of(conf(), environment).token());
    assertEquals("set", Settings.of(conf().set("spark.petrel.token", "set"), environment).token());
    Map<String, String> wrong = Map.of("PETREL_TOKEN", "two words");
    IllegalArgumentException refused = assertThrows(IllegalArgumentException.class, () -> Settings.of(conf(), wrong));
    assertEquals("PETREL_TOKEN: expected visible ASCII characters", refused.getMessage());
  }

  private static Settings settings(SparkConf conf) {
    return Settings.of(conf, Map.of());
  }

  private static SparkConf conf() {
    return new SparkConf(false).set("spark.app.name", "ward").set("spark.petrel.url", "http://controller:8701/");
  }
}
