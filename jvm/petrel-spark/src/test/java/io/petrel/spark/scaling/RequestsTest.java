package io.petrel.spark.scaling;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.petrel.spark.scaling.Requests.Request;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class RequestsTest {
  private final Requests requests = new Requests();

  @Test
  void theOldestIsGrantedFirst() {
    requests.setOpen(1, 100);
    requests.setOpen(2, 200);
    assertEquals(100, requests.grant(1_000, -1));
    assertEquals(200, requests.grant(1_000, -1));
    assertEquals(-1, requests.grant(1_000, -1));
  }

  @Test
  void theSuccessorOfALostExecutorIsGrantedBeforeWhatWasNeverGranted() {
    requests.setOpen(2, 100);
    requests.setOpenAfterLoss(3, 90_000);
    assertEquals(90_000, requests.grant(95_000, -1));
    assertEquals(100, requests.grant(96_000, -1));
  }

  @Test
  void theYoungestIsWithdrawnFirst() {
    requests.setOpen(1, 100);
    requests.setOpen(3, 200);
    requests.setOpen(1, 300);
    assertEquals(List.of(new Request(0, 100)), open());
  }

  @Test
  void anExecutorThatWasBegunWhenItsRequestWasWithdrawnComesLate() {
    requests.setOpen(1, 100);
    requests.setOpen(0, 200);
    assertEquals(100, requests.grant(5_000, -1));
    requests.setOpen(1, 6_000);
    requests.setOpen(0, 7_000);
    assertEquals(-1, requests.grant(500_000, -1));
  }

  @Test
  void numbersAreNotUsedAgain() {
    requests.setOpen(1, 100);
    requests.setOpen(0, 150);
    requests.setOpen(1, 200);
    assertEquals(List.of(new Request(1, 200)), open());
  }

  private List<Request> open() {
    List<Request> all = new ArrayList<>();
    requests.iterator().forEachRemaining(all::add);
    return all;
  }
}
