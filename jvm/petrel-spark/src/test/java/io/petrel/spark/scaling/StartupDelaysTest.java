package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;

class StartupDelaysTest {
  private final StartupDelays delays = new StartupDelays();

  @Test
  void tenSecondsAreAssumedUntilThreeAreKnown() {
    assertEquals(10.0, delays.quantileS());
    delays.add(1);
    delays.add(1);
    assertEquals(10.0, delays.quantileS());
    delays.add(1);
    assertEquals(1.0, delays.quantileS());
  }

  @Test
  void oneThatTookLongerIsBelievedAtOnce() {
    delays.add(17);
    delays.add(4);
    assertEquals(17.0, delays.quantileS());
  }

  @Test
  void nineOfTenAreNotLonger() {
    for (int second = 10; second >= 1; second--) {
      delays.add(second);
    }
    assertEquals(9.0, delays.quantileS());
  }

  @Test
  void noneIsLongerThanADay() {
    delays.add(1e6);
    assertEquals(86_400.0, delays.quantileS());
  }

  @Test
  void oldOnesAreForgotten() {
    for (int count = 0; count < 200; count++) {
      delays.add(100);
    }
    for (int count = 0; count < 200; count++) {
      delays.add(2);
    }
    assertEquals(2.0, delays.quantileS());
  }
}
